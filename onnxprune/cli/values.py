"""Option values and paths, checked before any work starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnxprune.errors import UsageError


def ratios(values: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """The ratio for all groups, if there is one, and those by glob, from texts such as `0.5` and `layer1*=0.3`.

    Raises:
        UsageError: one is no number in [0, 1), or two of them are for all groups.
    """
    overall: list[float] = []
    by_glob: dict[str, float] = {}
    for text in values:
        glob, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1 or (equals and not glob):
            raise UsageError(f"--ratio {text}: needs a number from 0 up to, not including, 1, or GLOB=NUMBER")
        if equals:
            by_glob[glob] = value
        else:
            overall.append(value)
    if len(overall) > 1:
        raise UsageError(f"--ratio {values[-1]}: there can be one ratio for all groups; give the others as GLOB=NUMBER")
    return (overall[0] if overall else None), by_glob


def floors(values: Sequence[str]) -> dict[str, int]:
    """Units that stay by glob, `*` for all groups, from texts such as `8` and `layer1*=16`.

    Raises:
        UsageError: one is no number of at least 1.
    """
    found: dict[str, int] = {}
    for text in values:
        glob, equals, number = text.rpartition("=")
        if not number.isdecimal() or int(number) < 1 or (equals and not glob):
            raise UsageError(f"--min-channels {text}: needs a number of at least 1, or GLOB=NUMBER")
        found[glob or "*"] = int(number)
    return {"*": found["*"], **found} if "*" in found else found  # what is for all comes first: the last match counts


def shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Input shapes from texts such as `image=1,3,224,224`.

    Raises:
        UsageError: one is not of that form.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in values:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(part) for part in sizes.split(",")) if sizes.strip() else ()
        except ValueError:
            shape = (0,)
        if not name or any(n < 1 for n in shape):
            raise UsageError(f"--shape {text}: needs NAME=N,N,... with sizes of at least 1, such as image=1,3,224,224")
        found[name] = shape
    return found


def tolerances(option: str, values: Sequence[str]) -> dict[str, float]:
    """Tolerances by output, of all others under `""`, from texts such as `1e-3` and `logits=1e-2`.

    Raises:
        UsageError: one is no number of at least 0, or there are two for the same output.
    """
    found: dict[str, float] = {}
    for text in values:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf") or (equals and not name):
            raise UsageError(f"{option} {text}: needs a number of at least 0, or OUTPUT=NUMBER")
        if name in found:
            raise UsageError(f"{option} {text}: there is one for {repr(name) if name else 'all outputs'} already")
        found[name] = value
    return found


def axes(option: str, values: Sequence[str]) -> dict[str, int]:
    """Axes by output from texts such as `logits=2`.

    Raises:
        UsageError: one is not of that form.
    """
    found = {}
    for text in values:
        name, _, number = text.rpartition("=")
        if not name or not number.strip().lstrip("-").isdecimal():
            raise UsageError(f"{option} {text}: needs OUTPUT=AXIS, such as logits=2")
        found[name] = int(number)
    return found


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Raises `UsageError` unless a value is one of those known."""
    known = list(known)
    if value not in known:
        raise UsageError(f"{option} {value}: is none of {', '.join(known)}")


def check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Makes sure that every output can be written and that none takes the place of an input or of another output.

    Raises:
        UsageError: names the path and what to do.
    """
    from onnxprune.io.save import check_folder, check_replaceable

    taken = {os.path.realpath(p): p for p in inputs if p is not None}
    for path in outputs:
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in taken or any(_same(path, other) for other in taken.values()):
            raise UsageError(f"{path}: is used twice, as an output it would be overwritten; choose another output path")
        taken[real] = path
        if path.is_dir():
            raise UsageError(f"{path}: is a directory; name the output file")
        check_replaceable(path)
        check_folder(path)
        if not _writable(path.parent):
            raise UsageError(f"{path}: the folder {path.parent} is not writable; choose another output path")


def check_plot(path: Path | None) -> None:
    """Raises `UsageError` where a figure can't be drawn."""
    if path is not None:
        from onnxprune.report.plot import check_format, check_installed

        check_format(path)
        check_installed()


def form_of(path: Path) -> str:
    """File format of a figure, by the name of the file."""
    return path.suffix.lower().lstrip(".")


def _same(one: Path, other: Path) -> bool:
    """Two names of one file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _writable(folder: Path) -> bool:
    # Permission bits tell little (root, read-only mounts, quotas): only trying tells.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
