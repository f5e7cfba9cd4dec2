"""Arrays that wait, in memory up to a number of bytes and in temporary files beyond it."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, LazyBatches, Samples
from onnxprune.errors import UsageError
from onnxprune.io.scratch import Scratch

Array = NDArray[Any]
_SMALL = 1 << 16  # bytes that are not worth a file


@dataclass(frozen=True)
class Spilled:
    """An array in a file.

    Attributes:
        path: of the file; what lies behind the array's bytes is left from others.
        size: of the file in bytes.
        dtype: of the array.
        shape: of the array.
    """

    path: Path
    size: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


Item: TypeAlias = "Array | Spilled"


class Shelf:
    """Arrays, in memory up to a number of bytes and in temporary files beyond it.

    Files are used again: pages that the system holds already are written several times as fast as new ones.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.folder: Scratch | None = None
        self._free: list[tuple[int, Path]] = []  # sorted by size

    def put(self, array: Array) -> Item:
        """The array, or the file that it lies in.

        Raises:
            UsageError: there is no room for temporary files.
        """
        if self.bytes + array.nbytes <= self.budget or array.nbytes < _SMALL or array.dtype.hasobject:
            self.bytes += array.nbytes
            return array
        try:
            size, path = self._place(array.nbytes)
            with path.open("r+b") as file:
                array.tofile(file)
        except OSError as error:
            raise UsageError(
                f"{tempfile.gettempdir()}: can't hold activations ({error.strerror or error}); take a larger memory budget, "
                "fewer samples, or another folder with TMPDIR"
            ) from None
        return Spilled(path, max(size, array.nbytes), array.dtype, array.shape)

    def drop(self, item: Item) -> None:
        """Gives its place back."""
        if isinstance(item, Spilled):
            bisect.insort(self._free, (item.size, item.path))
        else:
            self.bytes -= item.nbytes

    def _place(self, size: int) -> tuple[int, Path]:
        """A file that is free, with its size: the smallest that is large enough, else the largest, else a new one."""
        if self._free:
            return self._free.pop(min(bisect.bisect_left(self._free, (size, Path())), len(self._free) - 1))
        if self.folder is None:
            self.folder = Scratch()
        with tempfile.NamedTemporaryFile(dir=self.folder.path, suffix=".bin", delete=False) as file:
            return 0, Path(file.name)


def taken(item: Item) -> Array:
    """What was put on a shelf."""
    if not isinstance(item, Spilled):
        return item
    count = int(np.prod(item.shape, dtype=np.int64))
    return np.fromfile(item.path, item.dtype, count).reshape(item.shape)


class _Shelved(LazyBatches):
    """Batches whose arrays lie on a shelf."""

    def __init__(self, batches: Iterable[Batch], budget: int) -> None:
        self.shelf = Shelf(budget)
        self.items = [({n: self.shelf.put(a) for n, a in b.feeds.items()}, replace(b, feeds={})) for b in batches]

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, index: int) -> Batch:
        """Takes one from the shelf."""
        feeds, batch = self.items[index]
        return replace(batch, feeds={n: taken(item) for n, item in feeds.items()})


def at_hand(samples: Samples, budget: int) -> Samples:
    """The same samples, decoded once: they are read many times."""
    return replace(samples, batches=_Shelved(samples.batches, budget))
