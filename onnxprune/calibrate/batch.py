"""Samples, and the batches a model is run with."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]
_JUDGES = 4  # samples


@dataclass(frozen=True)
class Batch:
    """Feeds of one run.

    Attributes:
        feeds: input name -> array of the model's dtype, `(N, ...)` where the model has a batch axis.
        count: samples that count, the first ones; the others are repeats that fill up a batch the model fixes.
        samples: their positions in the data `(count,)`; samples of one shape are stacked, so batches are not in this order.
        extras: labels, expected outputs and whatever else lies beside the inputs, `(count, ...)`, where it was asked for.
    """

    feeds: Feeds
    count: int
    samples: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    extras: Feeds = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """Calibration samples, to be iterated any number of times in the same order.

    Attributes:
        batches: one for each run. A folder is read anew in every pass, so that it need not fit into memory.
        count: number of samples.
        origin: one line for the report, such as `512 samples of calibration.npz`.
        synthetic: random numbers, for lack of data.
        mask: name of the input `(N, S)` whose zeros mark padding positions; None where there is none.
        names: of the files that samples come from, `(first sample, samples, name)`; empty for data in one file.
        labels: integers `(count,)`, or `(count, T)` for tokens, in the order of the batches; None where there are none.
    """

    batches: Sequence[Batch]
    count: int
    origin: str
    synthetic: bool
    mask: str | None
    names: tuple[tuple[int, int, str], ...] = ()
    labels: NDArray[Any] | None = None

    def name(self, sample: int) -> str:
        """File of a sample, `batch.npz[3]` where it holds more than one; empty where there are no files to tell apart."""
        for first, count, name in self.names:
            if first <= sample < first + count:
                return name if count == 1 else f"{name}[{sample - first}]"
        return ""


def batch_size(batch: Batch) -> int:
    """Samples in a batch, repeats included."""
    return len(next(iter(batch.feeds.values()))) if batch.feeds else 1


def digests(batch: Batch) -> NDArray[np.int64]:
    """A number for each sample that follows from its content alone `(N,)`."""
    size = batch_size(batch)
    arrays = [np.ascontiguousarray(a) for a in batch.feeds.values() if a.ndim and len(a) == size]
    return np.array([zlib.crc32(b"".join(a[k].tobytes() for a in arrays)) for k in range(size)], np.int64)


def held_out(batch: Batch) -> NDArray[np.bool_]:
    """Every fifth sample, by its content: the same ones in any order and any batches `(N,)`."""
    return np.asarray(digests(batch) % 5 == 0)


def splits(samples: Samples) -> bool:
    """Enough samples are held out to judge what is learned from the others."""
    held = [held_out(b)[: b.count] for b in samples.batches]
    own = int(sum(h.sum() for h in held))
    return _JUDGES <= own <= sum(h.size for h in held) - _JUDGES


@dataclass(frozen=True)
class Chunk:
    """Samples that lie together: in one file, or in what a generator yields.

    Attributes:
        count: how many.
        rows: feeds of the samples `[start, stop)`.
        shape: samples with the same can be stacked, `(input, size, size, ...)` each; None where the model has no batch
            axis: the chunk is one run.
        extras: what lies beside the inputs of the samples `[start, stop)`; None where nothing does, or nobody asked.
        name: of its file, within the folder.
    """

    count: int
    rows: Callable[[int, int], Feeds]
    shape: tuple[Any, ...] | None
    extras: Callable[[int, int], Feeds] | None = None
    name: str = ""


class _Piece(NamedTuple):
    chunk: Chunk
    start: int
    stop: int
    first: int  # position of the chunk's first sample among all

    def extras(self) -> Feeds:
        return self.chunk.extras(self.start, self.stop) if self.chunk.extras else {}


class LazyBatches(Sequence[Batch], ABC):
    """Batches that are made when they are asked for, one by one."""

    @abstractmethod
    def batch(self, index: int) -> Batch:
        """The batch at a place, counted from the start, or from the end where it is negative."""

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self.batch(k) for k in range(*index.indices(len(self)))]
        return self.batch(index)


class Batches(LazyBatches):
    """Batches that are put together when they are asked for; none is kept.

    Samples are stacked in order, those of different shapes in different batches.

    Args:
        chunks: where the samples lie.
        size: samples of a batch.
        fixed: the model takes no other number: what is missing in a batch is its last sample, repeated.
    """

    def __init__(self, chunks: Iterable[Chunk], size: int, *, fixed: bool) -> None:
        self._fill = size if fixed else 0
        self._plan: list[list[_Piece]] = []
        unfilled: dict[tuple[Any, ...], tuple[list[_Piece], int]] = {}
        following = 0
        for chunk in chunks:
            first, following = following, following + chunk.count
            if chunk.shape is None:
                self._plan.append([_Piece(chunk, 0, chunk.count, first)])
                continue
            start = 0
            while start < chunk.count:
                pieces, room = unfilled.pop(chunk.shape, ([], size))
                if not pieces:
                    self._plan.append(pieces)
                stop = min(start + room, chunk.count)
                pieces.append(_Piece(chunk, start, stop, first))
                if stop - start < room:
                    unfilled[chunk.shape] = pieces, room - (stop - start)
                start = stop

    def __len__(self) -> int:
        return len(self._plan)

    def batch(self, index: int) -> Batch:
        """Puts one together."""
        pieces = self._plan[index]
        count = sum(p.stop - p.start for p in pieces)
        feeds = _joined([p.chunk.rows(p.start, p.stop) for p in pieces])
        extras = _joined([p.extras() for p in pieces])
        samples = np.concatenate([np.arange(p.start, p.stop) + p.first for p in pieces])
        if count < self._fill and pieces[0].chunk.shape is not None:
            rows = np.minimum(np.arange(self._fill), count - 1)
            feeds = {n: array[rows] for n, array in feeds.items()}
        contiguous = {n: np.ascontiguousarray(array) if array.ndim else array for n, array in feeds.items()}
        return Batch(contiguous, count, samples, extras)


def _joined(parts: Sequence[Feeds]) -> Feeds:
    """Arrays that all parts have, end to end; those that don't fit together are left out."""
    if len(parts) == 1:
        return parts[0]
    common = [n for n in parts[0] if len({part[n].shape[1:] if n in part else None for part in parts}) == 1]
    return {n: np.concatenate([part[n] for part in parts]) for n in common}
