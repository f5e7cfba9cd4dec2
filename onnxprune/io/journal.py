"""Finished results in a folder, so that a run that was cut off goes on where it was.

Each result is one npz file, written beside its place, flushed and renamed: after a crash all of it is there, or nothing.
Results lie in a subfolder named by a hash of everything they follow from, versions of the numerical libraries included.
Results of other inputs are never looked at, and several calls can share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Samples
from onnxprune.errors import UsageError
from onnxprune.io.save import save_bytes
from onnxprune.io.structure import sha256_model

Array = NDArray[Any]
_FORMAT = 1
_DATA = "data.json"


@dataclass
class Entry:
    """One result: arrays by name, and what is written as JSON."""

    arrays: dict[str, Array] = field(default_factory=dict)
    data: Any = None


class Journal:
    """A folder of results.

    Args:
        folder: is made where it is missing.

    Attributes:
        found: results that were read.
        written: results that were added.

    Raises:
        UsageError: the folder can't be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.found = self.written = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: can't be made ({error.strerror}); choose another folder to resume from"
            ) from None
        save_bytes(b"onnxprune journal\n", self.folder / "README")

    def section(self, name: str, *parts: object) -> Section:
        """Results of one stage.

        Args:
            name: of the stage.
            parts: everything that its results follow from: models, samples, arrays, and what JSON can hold.
        """
        folder = self.folder / f"{name}-{digest(*parts)[:20]}"
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        return Section(self, folder)

    def __str__(self) -> str:
        return f"{self.found} results of {self.folder}, {self.written} new ones"


@dataclass
class Section:
    """Results of one stage, by name."""

    journal: Journal
    folder: Path

    def has(self, name: str) -> bool:
        """A result is there; what it holds may be damaged all the same."""
        return self._path(name).is_file()

    def get(self, name: str) -> Entry | None:
        """A result; None where it is not there, or damaged."""
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(self._path(name), allow_pickle=False) as held:
                arrays = {n.removeprefix("array:"): held[n] for n in held.files if n.startswith("array:")}
                for name in (n for n in held.files if n.startswith("tensor:")):
                    tensor = onnx.TensorProto.FromString(held[name].tobytes())
                    arrays[name.removeprefix("tensor:")] = numpy_helper.to_array(tensor)
                data = json.loads(held[_DATA].tobytes())
            self.journal.found += 1
            return Entry(arrays, data)
        return None

    def put(self, name: str, entry: Entry) -> None:
        """Adds a result.

        Raises:
            UsageError: the folder can't be written to, or the disk is full.
        """
        held = {f"array:{n}": a for n, a in entry.arrays.items() if a.dtype.kind != "V"}
        for name in entry.arrays.keys() - {n.removeprefix("array:") for n in held}:  # bfloat16 and the like
            tensor = numpy_helper.from_array(entry.arrays[name]).SerializeToString()
            held[f"tensor:{name}"] = np.frombuffer(tensor, np.uint8)
        held[_DATA] = np.frombuffer(json.dumps(entry.data).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **held)  # type: ignore[arg-type]
        save_bytes(buffer.getbuffer(), self._path(name))
        self.journal.written += 1

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npz"


def digest(*parts: object) -> str:
    """SHA-256 of models, samples, arrays and plain data, and of the versions of what computes with them."""
    held = hashlib.sha256()
    import onnxruntime
    import scipy

    import onnxprune

    versions = {m.__name__: m.__version__ for m in (onnxprune, onnxruntime, np, scipy)}
    for part in ({"format": _FORMAT, **versions}, *parts):
        if isinstance(part, onnx.ModelProto):
            held.update(f"model {sha256_model(part)}".encode())
        elif isinstance(part, np.ndarray):
            _add(held, part)
        elif isinstance(part, Samples):
            for batch in part.batches:
                held.update(f"batch {batch.count} {part.mask}".encode())
                for name, array in sorted(batch.feeds.items()):
                    held.update(name.encode())
                    _add(held, array)
        else:
            held.update(f"data {json.dumps(part, sort_keys=True)}".encode())
    return held.hexdigest()


def _add(held: Any, array: Array) -> None:
    held.update(f"{array.dtype} {array.shape}".encode())
    held.update(repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
