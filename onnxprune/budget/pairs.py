"""Costs of nodes that may be one or two: `y = x W` or `y = (x A) B`, whichever costs less at the widths that are left.

With r inner channels the pair costs r (K + M) where W costs K M. W is what a whole rank stands for, and what a rank stands
for that saves nothing: so it has the cost of W, and the knapsack needs no level beside the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.costs import Floats
from onnxprune.budget.terms import Term


@dataclass(frozen=True)
class Twin:
    """A pair of nodes that one node could be.

    Attributes:
        group: id of the group of the inner channels.
        inner: the tensor between the nodes.
        axis: of the inner channels, in that tensor.
        output: of the second node.
        first: weight of the first node.
        second: weight of the second.
        first_axis: of the inner channels, in that weight.
    """

    group: str
    inner: str
    axis: int
    output: str
    first: str
    second: str
    first_axis: int


@dataclass(frozen=True)
class Cheaper:
    """The lesser of two costs, in place of a `Term`: of two nodes, or of the one that is their product.

    Attributes:
        first: cost of the first node, a multiple of K r.
        second: of the second, the same multiple of r M.
        square: the same multiple of r r, so that `first * second / square` is that of K M.
    """

    first: Term
    second: Term
    square: Term

    @cached_property
    def groups(self) -> frozenset[str]:
        """That it depends on."""
        return self.first.groups | self.second.groups | self.square.groups

    @property
    def tensor(self) -> str:
        """Of the second node: it alone reads the first."""
        return self.second.tensor

    def value(self, gone: Mapping[str, int]) -> float:
        """By how many units of each group are gone."""
        a, b, rr = (t.value(gone) for t in (self.first, self.second, self.square))
        return min(a + b, a * b / rr) if rr else 0.0

    def over(self, gone: Mapping[str, int], group: str, counts: NDArray[np.int64]) -> Floats:
        """The value with these numbers of units of one group gone `(counts,)`, and `gone` of the others."""
        a, b, rr = (t.over(gone, group, counts) for t in (self.first, self.second, self.square))
        return np.asarray(np.minimum(a + b, a * b / np.maximum(rr, np.finfo(np.float64).tiny)))

    def pays(self, gone: Mapping[str, int]) -> bool:
        """Two nodes cost less."""
        a, b, rr = (t.value(gone) for t in (self.first, self.second, self.square))
        return bool(rr) and a + b < a * b / rr
