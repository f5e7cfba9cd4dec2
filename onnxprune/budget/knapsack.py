"""The multiple-choice knapsack: one level of each group, the least loss in all within what they may cost.

Dynamic programming over a discretized cost. Costs of a level, less those of the group's cheapest one, are rounded to the
nearest of `bins` steps of what is left of the budget; `f[b]`, the least loss with b steps spent, takes the groups one after
the other. Every b is a solution of its own, so the caller may go down from the top until exact costs fit.

Source: Sinha & Zoltners 1979, "The multiple-choice knapsack problem"; Kellerer, Pferschy & Pisinger 2004, "Knapsack
Problems", section 11.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 2000


@dataclass(frozen=True)
class Front:
    """Solutions for all budgets at once.

    Attributes:
        loss: least loss by steps spent `(steps + 1,)`; inf where nothing costs as little, never rising.
        picks: the level of each group there `(groups, steps + 1)`.
        steps: rounded cost of each level, by group.
    """

    loss: Floats
    picks: NDArray[np.int16]
    steps: Sequence[NDArray[np.int64]]

    def at(self, spent: int) -> list[int]:
        """The level of each group that loses least with so many steps spent at most."""
        found = []
        for row, steps in zip(self.picks[::-1], self.steps[::-1], strict=True):
            level = int(row[spent])
            found.append(level)
            spent -= int(steps[level])
        return found[::-1]


def solve(losses: Sequence[Floats], costs: Sequence[Floats], budget: float, bins: int = BINS) -> Front:
    """Least losses for every cost up to a budget, and half a step per group beyond, which rounding may have added.

    O(groups * levels * bins).

    Args:
        losses: of each level `(levels,)`, by group.
        costs: likewise, in any unit; they add up.
        budget: for all groups together.
        bins: steps of the budget beyond what the cheapest levels cost.

    Raises:
        ValueError: even the cheapest levels cost more.
    """
    spare = budget - sum(float(c.min()) for c in costs)
    if spare < 0:
        raise ValueError("the cheapest levels cost more than the budget")
    step = spare / bins
    extra = -(-len(costs) // 2)
    steps = [_steps(c, step, bins + extra + 1) for c in costs]
    loss = np.zeros(bins + extra + 1)
    picks = np.zeros((len(costs), loss.size), np.int16)
    for k, (own, cost) in enumerate(zip(losses, steps, strict=True)):
        table = np.full((own.size, loss.size), np.inf)
        for level, (x, n) in enumerate(zip(own.tolist(), cost.tolist(), strict=True)):
            if n < loss.size:
                table[level, n:] = loss[: loss.size - n] + x
        picks[k] = table.argmin(axis=0)
        loss = table.min(axis=0)
    return Front(loss, picks, steps)


def _steps(cost: Floats, step: float, most: int) -> NDArray[np.int64]:
    beyond = cost - cost.min()
    if step <= 0:
        return np.where(beyond > 0, most, 0)
    return np.asarray(np.rint(np.minimum(beyond / step, most)), np.int64)


def knapsack(losses: Sequence[Floats], costs: Sequence[Floats], budget: float, bins: int = BINS) -> list[int]:
    """The level of each group: the least loss whose exact cost is within the budget.

    No choice within `budget * (1 - groups / bins)` loses less.

    Args:
        losses: of each level `(levels,)`, by group.
        costs: likewise; they add up.
        budget: for all groups together.
        bins: steps of the budget.

    Raises:
        ValueError: even the cheapest levels cost more.
    """
    front = solve(losses, costs, budget, bins)
    for spent in range(front.loss.size - 1, -1, -1):
        picks = front.at(spent)
        if sum(float(c[k]) for c, k in zip(costs, picks, strict=True)) <= budget * (1 + 1e-12):
            return picks
    return [int(c.argmin()) for c in costs]
