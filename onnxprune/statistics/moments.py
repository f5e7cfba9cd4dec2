"""First and second moments of rows, added up in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from onnxprune.errors import ModelError

Array = NDArray[np.float64]
_SMALL = 4096


@dataclass
class Moments:
    """Moments of rows `x` and of what they should give, `y`, for each of G groups.

    Attributes:
        rows: how many.
        x: means `(G, K)`.
        y: means `(G, M)`.
        xx: sums of squared deviations `(G, K, K)`.
        xy: the same of x and y `(G, K, M)`.
        yy: the same of y alone `(G, M)`.
    """

    rows: int
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def empty(cls, groups: int, k: int, m: int) -> Moments:
        """No rows yet."""
        shapes = (groups, k), (groups, m), (groups, k, k), (groups, k, m), (groups, m)
        return cls(0, *(np.zeros(s) for s in shapes))

    @classmethod
    def of(cls, x: NDArray[Any], y: NDArray[Any]) -> Moments:
        """Moments of rows `(R, G, K)` and `(R, G, M)`."""
        return cls.consume(*(np.array(np.moveaxis(a, 1, 0), np.float64, order="C") for a in (x, y)))

    @classmethod
    def consume(cls, x: NDArray[Any], y: NDArray[Any]) -> Moments:
        """Moments of rows `(G, R, K)` and `(G, R, M)`, which are overwritten. Products are taken in their type."""
        mean_x, mean_y = (a.mean(axis=1, dtype=np.float64) for a in (x, y))
        x -= mean_x[:, None].astype(x.dtype)
        y -= mean_y[:, None].astype(y.dtype)
        turned = x.transpose(0, 2, 1)
        return cls(x.shape[1], mean_x, mean_y, turned @ x, turned @ y, np.einsum("grm,grm->gm", y, y))

    def add(self, other: Moments) -> None:
        """Merges the moments of other rows.

        Source: Chan, Golub, LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
        """
        total = self.rows + other.rows
        if not other.rows:
            return
        share = other.rows / total
        weight = self.rows * share
        dx, dy = other.x - self.x, other.y - self.y
        self.xx += other.xx
        self.xy += other.xy
        if self.rows:
            add_outer(self.xx, weight, dx, dx)
            add_outer(self.xy, weight, dx, dy)
        self.yy += other.yy + weight * dy**2
        self.x += share * dx
        self.y += share * dy
        self.rows = total

    def check_finite(self, name: str = "") -> None:
        """Makes sure that no row held NaN or infinity, of which nothing can be learned.

        Args:
            name: of the tensor that the rows are of, for the error.

        Raises:
            ModelError: one did.
        """
        if not all(np.isfinite(a).all() for a in (self.x, self.y, np.einsum("gkk->gk", self.xx), self.yy)):
            where = f" at tensor {name!r}" if name else ""
            raise ModelError(f"the model makes NaN or infinity of some calibration samples{where}; leave these samples out")

    def merged(self, other: Moments) -> Moments:
        """Moments of both."""
        result = Moments(self.rows, *(a.copy() for a in (self.x, self.y, self.xx, self.xy, self.yy)))
        result.add(other)
        return result

    def columns(self, start: int, stop: int) -> Moments:
        """The same rows with some of the outputs."""
        cut = slice(start, stop)
        return Moments(self.rows, self.x, self.y[:, cut], self.xx, self.xy[:, :, cut], self.yy[:, cut])


def add_outer(target: Array, weight: float, left: Array, right: Array) -> None:
    """Adds `weight * left right'` to each of `(G, K, M)`, without another array of that size."""
    for g in range(len(target)) if target[0].size > _SMALL else ():
        dger(weight, right[g], left[g], a=target[g].T, overwrite_a=True)
    if target[0].size <= _SMALL:
        target += weight * left[:, :, None] * right[:, None, :]
