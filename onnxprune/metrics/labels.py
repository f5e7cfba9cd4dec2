"""Labels from a file, or from the names of class folders."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from onnxprune.calibrate.arrays import map_npy, read_npz
from onnxprune.calibrate.images import SUFFIXES
from onnxprune.calibrate.signature import Array, listed
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.compare import check_integers

_COLUMNS = ("label", "labels", "class", "target")
_FILES = ("file", "filename", "name", "path", "image")


def read_labels(path: Path, names: Sequence[str]) -> Array:
    """Integer labels `(N, ...)` in the order of the samples.

    Args:
        path: an npy file; an npz file with one array, or with `labels`; a text file with one integer a line; a csv file with
            one column, or with a column `label`. A csv file whose other column names files is matched with them by name.
        names: of the file of each sample; empty where samples have none.

    Raises:
        ModelError: the file is damaged, holds no integers, or lacks the label of a sample.
        UsageError: it is of another kind.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"{path}: labels are read from {', '.join(s[1:] for s in _READERS)}, or from an array of the data")
    return check_integers(str(path), _READERS[path.suffix](path, names))


def is_labels_file(text: str) -> bool:
    """A text means a file, not an array of the data."""
    return Path(text).suffix in _READERS or Path(text).is_file()


def folder_classes(names: Sequence[str]) -> tuple[Array, list[str]] | None:
    """Labels and class names of images that lie in one folder for each class; None where they don't.

    Folders with numbers for names are those classes, others are counted in the order of their names.
    """
    paths = [PurePosixPath(n) for n in names]
    if not paths or any(len(p.parts) < 2 or p.suffix.lower() not in SUFFIXES for p in paths):
        return None
    folders = sorted({p.parts[0] for p in paths})
    if len(folders) < 2:
        return None
    if all(f.isdecimal() for f in folders):
        return np.array([int(p.parts[0]) for p in paths]), sorted(folders, key=int)
    index = {folder: k for k, folder in enumerate(folders)}
    return np.array([index[p.parts[0]] for p in paths]), folders


def _npz(path: Path, names: Sequence[str]) -> Array:
    held = read_npz(path)
    if "labels" not in held and len(held) != 1:
        raise ModelError(f"{path}: needs an array 'labels', or only one array; it has {listed(held)}")
    return held.get("labels", next(iter(held.values())))


def _csv(path: Path, names: Sequence[str]) -> Array:
    rows = [row for row in csv.reader(_text(path).splitlines()) if any(cell.strip() for cell in row)]
    if not rows:
        raise ModelError(f"{path}: is empty; needs a label a line")
    head = [cell.strip().lower() for cell in rows[0]]
    titled = not any(_is_integer(cell) for cell in head)
    column = next((k for k, title in enumerate(head) if title in _COLUMNS), None) if titled else None
    if column is None and len(head) <= 2:
        column = len(head) - 1  # the only one, or the one behind the file names
    if column is None:
        raise ModelError(f"{path}: which column holds the labels? Name one 'label'")
    body = rows[1:] if titled else rows
    found = _integers(path, [row[column] if len(row) > column else "" for row in body], 1 + titled)
    files = next((k for k, title in enumerate(head) if title in _FILES and k != column), None) if titled else None
    if files is None and len(head) == 2 and not all(_is_integer(row[0]) for row in body):
        files = 0
    if files is None or not names:
        return found
    return _by_name(path, {row[files].strip(): label for row, label in zip(body, found.tolist(), strict=True)}, names)


def _by_name(path: Path, labels: dict[str, int], names: Sequence[str]) -> Array:
    """Matched with paths, else with the last part of paths."""
    missing = [n for n in names if n not in labels and PurePosixPath(n).name not in labels]
    if missing:
        others = f" and {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise ModelError(f"{path}: has no label for {missing[0]!r}{others}")
    return np.array([labels.get(n, labels.get(PurePosixPath(n).name)) for n in names])


def _integers(path: Path, cells: Sequence[str], first: int) -> Array:
    for k, cell in enumerate(cells):
        if not _is_integer(cell):
            raise ModelError(f"{path}: line {k + first}: {cell.strip()!r} is no integer")
    return np.array([int(cell) for cell in cells], np.int64)


def _is_integer(text: str) -> bool:
    text = text.strip()
    return text.removeprefix("-").isdecimal()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: can't be read as text ({error})") from None


def _lines(path: Path, names: Sequence[str]) -> Array:
    return _integers(path, [line for line in _text(path).splitlines() if line.strip()], 1)


_READERS: dict[str, Callable[[Path, Sequence[str]], Array]] = {
    ".npy": lambda path, names: map_npy(path),
    ".npz": _npz,
    ".csv": _csv,
    ".txt": _lines,
}
