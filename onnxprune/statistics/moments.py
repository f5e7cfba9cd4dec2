"""First and second moments of rows, accumulated batch by batch in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
        a, b = (np.moveaxis(np.asarray(rows, np.float64), 1, 0) for rows in (x, y))
        mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
        a, b = np.ascontiguousarray(a - mean_a[:, None]), np.ascontiguousarray(b - mean_b[:, None])
        turned = a.transpose(0, 2, 1)
        return cls(x.shape[0], mean_a, mean_b, turned @ a, turned @ b, np.einsum("grm,grm->gm", b, b))

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
        self.xx += weight * dx[:, :, None] * dx[:, None, :]
        self.xy += other.xy
        self.xy += weight * dx[:, :, None] * dy[:, None, :]
        self.yy += other.yy + weight * dy**2
        self.x += share * dx
        self.y += share * dy
        self.rows = total

    def merged(self, other: Moments) -> Moments:
        """Moments of both."""
        result = Moments(self.rows, *(a.copy() for a in (self.x, self.y, self.xx, self.xy, self.yy)))
        result.add(other)
        return result

    def columns(self, start: int, stop: int) -> Moments:
        """The same rows with some of the outputs."""
        cut = slice(start, stop)
        return Moments(self.rows, self.x, self.y[:, cut], self.xx, self.xy[:, :, cut], self.yy[:, cut])
