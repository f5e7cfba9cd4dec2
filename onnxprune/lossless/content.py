"""What is known of each slice of a tensor for every input: `scale * basis + offset`.

A slice is what is left of a tensor when an index is fixed on some of its axes. Its basis is an unknown function of the
inputs of the model, known by a number only: slices of one tensor with the same number have the same basis. A slice with
scale 0 is a constant. Values are taken to be finite.

Every operator makes bases by `Book.cluster`: slices with equal keys (the bases they are made from) and proportional
coefficients are multiples of one new basis. Coefficients have to be equal or exact multiples; only where the factor is no
power of two, so that the factor itself has been rounded, may they differ by a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

_ULPS = 4.0
_WINDOW = 1e-5  # how far the projections of proportional rows may lie apart
SINGLE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Content:
    """Content of a tensor: three arrays of one shape, of length 1 on each axis that is not told apart.

    Attributes:
        ids: number of the basis; 0 where the slice is a constant.
        scale: factor of the basis.
        offset: what is added to it.
    """

    ids: Numbers
    scale: Floats
    offset: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """Length 1, or that of the tensor, for each of its axes."""
        return self.ids.shape

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Slices that are the same number throughout, for every input."""
        return np.asarray(self.scale == 0)

    @property
    def zero(self) -> NDArray[np.bool_]:
        """Slices that are 0."""
        return np.asarray((self.scale == 0) & (self.offset == 0))

    def reshape(self, *shape: int) -> Content:
        """The same slices under other axes."""
        return Content(self.ids.reshape(shape), self.scale.reshape(shape), self.offset.reshape(shape))

    def transpose(self, perm: Sequence[int]) -> Content:
        """Axes in another order."""
        return Content(self.ids.transpose(perm), self.scale.transpose(perm), self.offset.transpose(perm))

    def take(self, indices: Sequence[int] | NDArray[np.intp], axis: int) -> Content:
        """Slices picked along an axis."""
        return Content(
            np.take(self.ids, indices, axis), np.take(self.scale, indices, axis), np.take(self.offset, indices, axis)
        )

    def broadcast(self, shape: Sequence[int]) -> Content:
        """The same content wherever the shape is longer."""
        ids, scale, offset = np.broadcast_arrays(self.ids, self.scale, self.offset, np.empty(shape, np.int8))[:3]
        return Content(ids, scale, offset)


def joined(parts: Sequence[Content], axis: int) -> Content:
    """Contents one after the other."""
    return Content(
        *(np.concatenate(arrays, axis) for arrays in zip(*((p.ids, p.scale, p.offset) for p in parts), strict=True))
    )


def constant(array: NDArray[np.generic]) -> Content:
    """Every element is told apart and known."""
    values = np.asarray(array).astype(np.float64)
    return Content(np.zeros(values.shape, np.int64), np.zeros(values.shape), values)


def bits(values: Floats) -> Numbers:
    """Floats as integers that are equal where the floats are."""
    return (np.ascontiguousarray(values, np.float64) + 0.0).view(np.int64)


@dataclass
class Book:
    """Numbers of all bases of one reading of a graph."""

    count: int = 0
    parts: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def fresh(self, shape: Sequence[int]) -> Numbers:
        """Numbers that were never used."""
        size = int(np.prod(shape, dtype=np.int64))
        first = self.count + 1
        self.count += size
        return np.arange(first, first + size, dtype=np.int64).reshape(tuple(shape))

    def opaque(self, shape: Sequence[int]) -> Content:
        """Slices about which nothing is known."""
        return Content(self.fresh(shape), np.ones(shape), np.zeros(shape))

    def renew(self, x: Content) -> Content:
        """The same operator applied to every basis, where it commutes with scale and offset."""
        known, inverse = np.unique(x.ids, return_inverse=True)
        ids = np.where(known == 0, 0, self.fresh(known.shape))[inverse.reshape(x.shape)]
        return Content(np.where(x.constant, 0, ids), x.scale, x.offset)

    def resolve(self, x: Content, axis: int, size: int) -> Content:
        """The slices of an axis told apart."""
        if x.shape[axis] == size:
            return x
        shape = [size if a == axis else n for a, n in enumerate(x.shape)]
        spread = x.broadcast(shape)
        ids = np.zeros(shape, np.int64)
        live = ~spread.constant
        place = np.broadcast_to(np.arange(size).reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
        ids[live] = [self._part(int(basis), axis, int(k)) for basis, k in zip(spread.ids[live], place[live], strict=True)]
        return Content(ids, spread.scale, spread.offset)

    def _part(self, basis: int, axis: int, place: int) -> int:
        key = (basis, axis, place)
        if key not in self.parts:
            self.count += 1
            self.parts[key] = self.count
        return self.parts[key]

    def collapse(self, x: Content, axes: Sequence[int], eps: float = SINGLE) -> Content:
        """The slices of some axes no longer told apart: a larger slice is known by all that it is made of."""
        axes = [a for a in axes if x.shape[a] > 1]
        if not axes:
            return x
        order = [a for a in range(len(x.shape)) if a not in axes] + axes
        n = int(np.prod([x.shape[a] for a in axes]))
        ids = x.ids.transpose(order).reshape(-1, n)
        scale, offset = x.scale.transpose(order).reshape(-1, n), x.offset.transpose(order).reshape(-1, n)
        shared = np.where((offset == offset[:, :1]).all(axis=1), offset[:, 0], 0.0)
        rows = np.concatenate([scale, offset - shared[:, None]], axis=1)
        return self.slices(ids, rows, shared.reshape([1 if a in axes else m for a, m in enumerate(x.shape)]), eps)

    def slices(self, keys: Numbers, rows: Floats, offset: Floats, eps: float = SINGLE, *, positive: bool = False) -> Content:
        """Slices that are `row * f(key) + offset`, in the shape of the offsets; see `cluster`."""
        ids, scale = self.cluster(keys, rows, eps, positive=positive)
        return Content(ids.reshape(offset.shape), scale.reshape(offset.shape), offset)

    def cluster(self, keys: Numbers, rows: Floats, eps: float = SINGLE, *, positive: bool = False) -> tuple[Numbers, Floats]:
        """Bases and factors of slices that are `row * f(key)`, linear in the row.

        Args:
            keys: `(slices, any)`.
            rows: coefficients `(slices, terms)`; a slice with none but zeros is constant.
            eps: of the type the coefficients were rounded to.
            positive: linear for factors above 0 only.
        """
        count = len(rows)
        ids, factor = np.zeros(count, np.int64), np.zeros(count)
        live = rows.any(axis=1)
        with np.errstate(all="ignore"):
            norm = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            q = rows @ np.random.default_rng(0).standard_normal(rows.shape[1]) / norm
        odd = live & ~(np.isfinite(q) & np.isfinite(norm) & (norm > 0))  # no two of these are compared
        ids[odd], factor[odd] = self.fresh([int(odd.sum())]), 1.0
        live &= ~odd
        if not positive:
            q = np.abs(q)
        _, key = np.unique(keys.reshape(count, -1), axis=0, return_inverse=True)
        key = key.reshape(-1)
        order = np.lexsort((q, key))
        window: list[int] = []
        for i in order[live[order]]:
            while window and (key[window[0]] != key[i] or q[i] - q[window[0]] > _WINDOW):
                window.pop(0)
            for a in window:
                ratio = proportion(rows[a], rows[i], eps, positive)
                if ratio is not None:
                    ids[i], factor[i] = ids[a], ratio
                    break
            else:
                self.count += 1
                ids[i], factor[i] = self.count, 1.0
                window.append(int(i))
        return ids, factor


def proportion(a: Floats, b: Floats, eps: float, positive: bool) -> float | None:
    """The number that makes `b` of `a`; None where there is none."""
    k = int(np.argmax(np.abs(a)))
    ratio = float(b[k] / a[k])
    if ratio == 0 or not np.isfinite(ratio) or (positive and ratio < 0):
        return None
    if np.array_equal(b, ratio * a):
        return ratio
    if abs(np.frexp(ratio)[0]) == 0.5:  # a power of two: nothing was rounded
        return None
    if (np.abs(b - ratio * a) > _ULPS * eps * np.abs(b)).any():
        return None
    return float(a @ b / (a @ a))
