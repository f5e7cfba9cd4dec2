"""Moments of rows that come in pieces of any size, in pieces that suit the processor.

Rows wait until there are enough for one matrix product. How many depends on their width alone, so batches of any size give
the same sums. Products are taken in float64: weights that are fitted to float32 products differ by up to 4e-4 from one
order of the samples to another, these by less than 1e-6. Only what would take many seconds (thousands of channels and
outputs) is multiplied in float32, about the mean of each piece, and added up in float64: what is lost is the rounding
within one product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.statistics.forms import Form, some
from onnxprune.statistics.moments import Moments

Array = NDArray[Any]
PIECE = 8 << 20  # bytes of rows in float32
_LARGE = 2e11  # multiply-accumulates that are worth float32


class Accumulator:
    """Moments of rows `(R, G, K)` and of what they should give `(R, G, M)`.

    Args:
        groups: G.
        k: K.
        m: M.
        expected: rows that will come in all, to choose the precision of products.
        name: of the tensor that the rows are of, for errors.
    """

    def __init__(self, groups: int, k: int, m: int, expected: int, name: str = "") -> None:
        self.name = name
        self.moments = Moments.empty(groups, k, m)
        large = expected * groups * k * (k + m) > _LARGE
        self.dtype: type[Any] = np.float32 if large else np.float64
        self.piece = max(PIECE // (4 * groups * (k + m)), k, 1)  # adding a product costs as much as a few rows
        self.waiting: list[tuple[Array, Array]] = []
        self.count = 0

    def add(self, x: Array, y: Array) -> None:
        """Takes some rows; the arrays must not change afterwards."""
        start = 0
        while start < len(x):
            stop = min(start + self.piece - self.count, len(x))
            self.waiting.append((x[start:stop], y[start:stop]))
            self.count += stop - start
            start = stop
            if self.count == self.piece:
                self._flush()

    def add_whole(self, x: Array, y: Array) -> None:
        """Takes some rows in one product of float64, however many they are: for tensors that are not cut into pieces."""
        self.moments.add(Moments.of(x, y))

    def result(self) -> Moments:
        """Moments of all rows so far.

        Raises:
            ModelError: a row held NaN or infinity.
        """
        self._flush()
        self.moments.check_finite(self.name)
        return self.moments

    def _flush(self) -> None:
        if self.count:
            x, y = (_stacked(parts, self.dtype) for parts in zip(*self.waiting, strict=True))
            self.waiting, self.count = [], 0
            with np.errstate(invalid="ignore"):  # infinities are found in the result
                self.moments.add(Moments.consume(x, y))


def _stacked(parts: tuple[Array, ...], dtype: type[Any]) -> Array:
    """Rows `(G, R, K)` of pieces `(R', G, K)`, in a new array."""
    groups, width = parts[0].shape[1:]
    result = np.empty((groups, sum(len(p) for p in parts), width), dtype)
    start = 0
    for p in parts:
        result[:, start : start + len(p)] = np.moveaxis(p, 1, 0)
        start += len(p)
    return result


def pieces(form: Form, x: Array, chosen: Array) -> Iterator[tuple[slice, Array]]:
    """Rows of a tensor for some samples at a time: which, and `(n, P, G, K)`; no more than a bounded number of bytes."""
    width = math.prod(x.shape[a] for a in form.read_axes(x.ndim)) * form.taps
    step = max(PIECE // max(x.itemsize * width * len(chosen), 1), 1)
    for start in range(0, x.shape[form.x_lead], step):
        part = slice(start, start + step)
        yield part, form.rows(some(x, form.x_lead, part), chosen)


def picked(rows: Array, use: NDArray[np.bool_]) -> Array:
    """Rows `(R, G, K)` of `(n, P, G, K)` that are to be used `(n, P)`."""
    return rows.reshape(-1, *rows.shape[2:]) if use.all() else rows[use]
