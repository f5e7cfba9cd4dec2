"""Parts of a cost, each of which depends on the few groups that touch it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.axes import Axis, Shape, sizes, touched
from onnxprune.budget.costs import Floats


@dataclass(frozen=True)
class Term:
    """A part of a cost.

    Attributes:
        groups: that it depends on.
        value: by how many units of each of them are gone.
        factor: the value is this times a product of `axes`; None where it is no product.
        axes: each with its power.
        tensor: weight, or first output of the node, that it is of.
    """

    groups: frozenset[str]
    value: Callable[[Mapping[str, int]], float]
    factor: float | None = None
    axes: tuple[tuple[Axis, int], ...] = ()
    tensor: str = ""

    def over(self, gone: Mapping[str, int], group: str, counts: NDArray[np.int64]) -> Floats:
        """The value with these numbers of units of one group gone `(counts,)`, and `gone` of the others."""
        if self.factor is None:
            return np.array([self.value({**gone, group: n}) for n in counts.tolist()])
        result = np.full(counts.size, self.factor)
        for axis, power in self.axes:
            result *= np.asarray(axis.over(gone, group, counts), np.float64) ** power
        return result


def as_product(shapes: Sequence[Shape | None], value: Callable[[Sequence[tuple[int, ...] | None]], float]) -> Term:
    """A term of shapes; as a product of axes where trials with longer axes say that it is one.

    Args:
        shapes: of the tensors that it depends on.
        value: from concrete shapes.
    """
    axes = list(dict.fromkeys(a for s in shapes if s for a in s if isinstance(a, Axis)))

    def at(longer: Mapping[Axis, int]) -> float:
        return value([None if s is None else tuple(longer[a] if isinstance(a, Axis) else a for a in s) for s in shapes])

    def by_widths(gone: Mapping[str, int]) -> float:
        return value([sizes(s, gone) for s in shapes])

    whole = {a: a.size for a in axes}
    dense = at(whole)
    if not dense:
        return Term(frozenset(), by_widths)
    powers = {a: round(math.log2(max(at({**whole, a: 2 * a.size}) / dense, 1.0))) for a in axes}
    trial = {a: a.size * (2 + k) for k, a in enumerate(axes)}
    factor = dense / math.prod(float(a.size) ** k for a, k in powers.items())
    known = math.isclose(at(trial), factor * math.prod(float(trial[a]) ** k for a, k in powers.items()), rel_tol=1e-12)
    return Term(touched(shapes), by_widths, factor if known else None, tuple((a, k) for a, k in powers.items() if k))
