"""How rows are taken from what a linear node reads: `rows(x) @ matrix(weight)` is its output, group by group.

Rows are the patches an output position sees (im2col; zero padding is part of the patch, so borders are exact), a matrix has
the taps of a weight in the same order:

    x -> (R, G, K), weight -> (G, K, M), y -> (R, G, M)        R samples x positions, G groups, K channels x taps, M outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.statistics.convolution import Convolution

Array = NDArray[Any]


@dataclass(frozen=True)
class Dense:
    """x (.., K, ..) with the channels on `axis`, W (K, M), or (M, K) where `flipped`; samples on axis `lead`."""

    axis: int
    flipped: bool
    lead: int = 0

    def matrix(self, weight: Array) -> Array:
        """`(1, K, M)`."""
        return (weight.T if self.flipped else weight)[None]

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        return np.asarray(matrix[0].T if self.flipped else matrix[0])

    def channel_axis(self, rank: int) -> int:
        """Axis of channels in x and in y."""
        return self.axis % rank

    def read_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of x that its rows are made of, in their order."""
        return (self.axis % rank,)

    def made_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of y that its outputs lie on, in their order."""
        return (self.axis % rank,)

    def arranged(self, shape: tuple[int, ...], samples: int) -> Dense:
        """The same with the samples of a tensor on the axis that has them: the second one where time comes first."""
        return replace(self, lead=1) if self.axis == -1 and _time_first(shape[:-1], samples) else self

    @property
    def taps(self) -> int:
        """Elements of a row for each channel."""
        return 1

    @property
    def x_lead(self) -> int:
        """Axis of samples in x."""
        return self.lead

    @property
    def y_lead(self) -> int:
        """Axis of samples in y."""
        return self.lead

    def places(self, y: Array) -> tuple[int, ...]:
        """Samples, and sizes of the axes of positions."""
        sizes = list(y.shape)
        sizes.pop(self.axis)
        return (sizes.pop(self.lead), *sizes) if sizes else (1,)

    def positions(self, y: Array) -> int:
        """Output positions of a sample."""
        return prod(self.places(y)[1:])

    def rows(self, x: Array, chosen: Array) -> Array:
        """Rows `(N, P, 1, K)` at chosen positions."""
        return self.flat(x, chosen)[:, :, None, :]

    def flat(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, M)` at chosen positions."""
        y = np.moveaxis(y, self.lead, 0) if self.lead else y
        flat = np.moveaxis(y, self.axis, -1).reshape(len(y), -1, y.shape[self.axis])
        return np.asarray(flat[:, chosen])

    def outputs(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, 1, M)` at chosen positions."""
        return self.rows(y, chosen)


@dataclass(frozen=True)
class Contraction:
    """An Einsum of an activation and a weight, `x,w->y`: one letter for each axis, `1` for axes of one element.

    Letters of all three are groups, those of x and w alone are summed, those of w and y outputs, those of x and y positions;
    the `lead`-th of the latter counts samples.
    """

    x: str
    w: str
    y: str
    lead: int = 0

    @property
    def groups(self) -> str:
        """Letters of groups, in the order of y."""
        return "".join(c for c in self.y if c in self.x and c in self.w and c != "1")

    @property
    def summed(self) -> str:
        """Letters that are summed, in the order of x."""
        return "".join(c for c in self.x if c in self.w and c not in self.y and c != "1")

    @property
    def made(self) -> str:
        """Letters of outputs, in the order of y."""
        return "".join(c for c in self.y if c in self.w and c not in self.x and c != "1")

    @property
    def free(self) -> str:
        """Letters of positions, samples first."""
        letters = "".join(c for c in self.x if c in self.y and c not in self.w and c != "1")
        return letters[self.lead] + letters[: self.lead] + letters[self.lead + 1 :]

    def matrix(self, weight: Array) -> Array:
        """`(G, K, M)`."""
        sizes = dict(zip(self.w, weight.shape, strict=True))
        g, k, m = (prod(sizes[c] for c in letters) for letters in (self.groups, self.summed, self.made))
        return _turned(weight, self.w, self.groups + self.summed + self.made).reshape(g, k, m)

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        sizes = dict(zip(self.w, shape, strict=True))
        order = self.groups + self.summed + self.made
        plain = self.w.replace("1", "")
        return _turned(matrix.reshape([sizes[c] for c in order]), order, plain).reshape(shape)

    def read_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of x that its rows are made of, in their order."""
        return tuple(self.x.index(c) for c in self.groups + self.summed)

    def made_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of y that its outputs lie on, in their order."""
        return tuple(self.y.index(c) for c in self.groups + self.made)

    def channel_axis(self, rank: int) -> int:
        """Axis of channels in y, the last of several."""
        return self.made_axes(rank)[-1]

    def arranged(self, shape: tuple[int, ...], samples: int) -> Contraction:
        """The same with the samples of y on the axis that has them: the second one where time comes first."""
        free = [shape[self.y.index(c)] for c in replace(self, lead=0).free]
        return replace(self, lead=1) if _time_first(free, samples) else self

    @property
    def taps(self) -> int:
        """Elements of a row for each channel."""
        return 1

    @property
    def x_lead(self) -> int:
        """Axis of samples in x."""
        return self.x.index(self.free[0])

    @property
    def y_lead(self) -> int:
        """Axis of samples in y."""
        return self.y.index(self.free[0])

    def places(self, y: Array) -> tuple[int, ...]:
        """Samples, and sizes of the axes of positions."""
        return tuple(y.shape[self.y.index(c)] for c in self.free)

    def positions(self, y: Array) -> int:
        """Output positions of a sample."""
        return prod(self.places(y)[1:])

    def rows(self, x: Array, chosen: Array) -> Array:
        """Rows `(N, P, G, K)` at chosen positions."""
        sizes = dict(zip(self.x, x.shape, strict=True))
        g, k = (prod(sizes[c] for c in letters) for letters in (self.groups, self.summed))
        turned = _turned(x, self.x, self.free + self.groups + self.summed)
        return np.asarray(turned.reshape(len(turned), -1, g, k)[:, chosen])

    def flat(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, G * M)` at chosen positions."""
        sizes = dict(zip(self.y, y.shape, strict=True))
        turned = _turned(y, self.y, self.free + self.groups + self.made)
        return np.asarray(turned.reshape(len(turned), -1, prod(sizes[c] for c in self.groups + self.made))[:, chosen])

    def outputs(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, G, M)` at chosen positions."""
        sizes = dict(zip(self.y, y.shape, strict=True))
        flat = self.flat(y, chosen)
        return flat.reshape(*flat.shape[:2], prod(sizes[c] for c in self.groups), -1)


Form = Dense | Convolution | Contraction


def some(array: Array, axis: int, part: slice) -> Array:
    """Some samples of a tensor that has them on an axis."""
    return array[(*[slice(None)] * axis, part)]


def _turned(array: Array, letters: str, order: str) -> Array:
    """Axes in another order, without those of one element."""
    plain = letters.replace("1", "")
    array = array.reshape([n for n, c in zip(array.shape, letters, strict=True) if c != "1"])
    return array.transpose([plain.index(c) for c in order])


def _time_first(shape: Sequence[int], samples: int) -> bool:
    """The first axis can't count samples, but the second does."""
    return len(shape) > 1 and shape[0] % max(samples, 1) != 0 and shape[1] == samples
