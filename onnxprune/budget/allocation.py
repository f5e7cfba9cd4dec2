"""Allocation: the widths that lose least within several limits at once.

Losses add up over groups, costs do not. So each round looks at the tables of all costs around the present widths, solves the
knapsack of their changes, and takes the solution that loses least among those whose *exact* costs are within the limits.
Groups move within a reach that shrinks when a round finds nothing better (sequential linear programming with a trust
region). It begins at the least equal reduction that is within the limits and at the solution of the knapsack about the
source, and the better end counts. What the limits leave over widens single groups.

Several limits are one by weights (a surrogate constraint), which grow for the limit that binds; what is taken is within all
of them. Source: Glover 1968, "Surrogate constraints".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.costs import Cost, Levels, Widths
from onnxprune.budget.knapsack import BINS, Front, solve

Floats = NDArray[np.float64]
_REACH = 0.5  # share of its width by which a group changes in a round
_SMALLEST = 0.02
_ROUNDS = 24
_WEIGHTINGS = 6  # of several limits, in a round
_MARGIN = 0.15  # of a limit, by which the sum of changes may be wrong
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limit:
    """The most that a model may cost.

    Attributes:
        cost: what is limited.
        most: in the unit of the cost.
        target: what the user asked for, for messages.
        dense: what the source costs, where that is not what the cost says of all widths whole.
    """

    cost: Cost
    most: float
    target: str = ""
    dense: float | None = None

    def share(self, widths: Widths) -> float:
        """What a model costs, as a share of the limit."""
        return self.cost.total(widths) / self.most


@dataclass(frozen=True)
class Allocation:
    """Widths within all limits.

    Attributes:
        widths: units that stay, by group id.
        loss: sum of the losses of all groups.
        rounds: knapsacks that were solved.
    """

    widths: dict[str, int]
    loss: float
    rounds: int


class OutOfReachError(Exception):
    """Some limit can't be met: at the narrowest widths it is exceeded."""


def allocate_within(
    losses: Mapping[str, Floats], levels: Levels, limits: Sequence[Limit], *, bins: int = BINS
) -> Allocation:
    """The widths that lose least.

    Args:
        losses: by group id and number of units that go `(units,)`, the whole group left out; see `onnxprune.budget.curves`.
        levels: widths to choose from, of the same groups.
        limits: all of which hold.
        bins: steps of the budget in a knapsack.

    Raises:
        OutOfReachError: the narrowest widths are not within the limits.
    """
    return _Search(losses, levels, limits, bins).run()


class _Search:
    def __init__(self, losses: Mapping[str, Floats], levels: Levels, limits: Sequence[Limit], bins: int) -> None:
        self.groups = list(levels)
        self.levels, self.limits, self.bins = levels, limits, bins
        self.spaced = {g: _spaced(own) for g, own in levels.items()}
        self.loss_at = {g: losses[g][losses[g].size - levels[g]] for g in self.groups}
        self.rounds = 0

    # ---- what is known of some widths ----

    def loss(self, widths: Widths) -> float:
        return sum(float(self.loss_at[g][self.place(g, widths[g])]) for g in self.groups)

    def place(self, group: str, width: int) -> int:
        return int(np.searchsorted(self.levels[group], width))

    def fits(self, widths: Widths) -> bool:
        return all(limit.share(widths) <= 1 + _ROUNDING for limit in self.limits)

    # ---- the search ----

    def run(self) -> Allocation:
        whole = {g: int(own[-1]) for g, own in self.levels.items()}
        if self.fits(whole):
            return Allocation(whole, self.loss(whole), 0)
        ends = [self.improved(start) for start in self.starts()]
        best = min(ends, key=self.loss)
        return Allocation(best, self.loss(best), self.rounds)

    def starts(self) -> Iterator[dict[str, int]]:
        """Equal shares of all groups; then, if it fits, what the tables of the whole model say."""
        low, high = 0.0, 1.0
        best = self.equal(0.0)
        if not self.fits(best):
            raise OutOfReachError
        for _ in range(12):
            middle = (low + high) / 2
            widths = self.equal(middle)
            if self.fits(widths):
                low, best = middle, widths
            else:
                high = middle
        yield best
        whole = {g: int(self.levels[g][-1]) for g in self.groups}
        found = self.step(whole, 1.0)
        if found is not None:
            yield found

    def equal(self, share: float) -> dict[str, int]:
        """The widest levels of at most a share of each group, or the narrowest."""
        return {
            g: int(own[max(int(np.searchsorted(own, own[-1] * share + 1e-9, side="right")) - 1, 0)])
            for g, own in self.levels.items()
        }

    def improved(self, widths: dict[str, int]) -> dict[str, int]:
        """Rounds with a shrinking reach, then what is left over."""
        reach = _REACH
        for _ in range(_ROUNDS):
            found = self.step(widths, reach)
            if found is not None and self.loss(found) < self.loss(widths) * (1 - 1e-6):
                widths = found
                continue
            reach /= 2
            if reach < _SMALLEST:
                break
        return self.filled(widths)

    def step(self, widths: dict[str, int], reach: float) -> dict[str, int] | None:
        """The best widths within reach, None where no solution of the knapsack fits."""
        nearby = {g: self.nearby(g, widths[g], reach) for g in self.groups}
        shares = [self.changes(limit, widths, nearby) for limit in self.limits]
        weights = np.full(len(self.limits), 1 / len(self.limits))
        best: dict[str, int] | None = None
        for _ in range(_WEIGHTINGS if len(self.limits) > 1 else 1):
            found = self.solved(weights, widths, nearby, shares)
            if found is None:
                break
            if best is None or self.loss(found) < self.loss(best):
                best = found
            left = np.array([limit.share(found) for limit in self.limits])
            weights *= np.exp(4 * (left - left.max()))
            weights /= weights.sum()
        return best

    def nearby(self, group: str, width: int, reach: float) -> NDArray[np.int64]:
        """Places of the levels within reach, the next ones on both sides at least."""
        own, k = self.spaced[group], self.place(group, width)
        near = np.abs(own - own[k]) <= reach * own[-1]
        near[max(k - 1, 0) : k + 2] = True
        return np.flatnonzero(near)

    def changes(self, limit: Limit, widths: Widths, nearby: Mapping[str, NDArray[np.int64]]) -> list[Floats]:
        """By group what each level changes, as a share of the limit."""
        levels = {g: self.levels[g][places] for g, places in nearby.items()}
        now, tables = limit.cost.total(widths), limit.cost.table(widths, levels)
        return [(tables[g] - now) / limit.most for g in self.groups]

    def solved(
        self,
        weights: Floats,
        widths: Widths,
        nearby: Mapping[str, NDArray[np.int64]],
        shares: Sequence[Sequence[Floats]],
    ) -> dict[str, int] | None:
        losses = [self.loss_at[g][nearby[g]] for g in self.groups]
        costs = [np.sum([w * own[k] for w, own in zip(weights, shares, strict=True)], axis=0) for k in range(len(losses))]
        room = float(sum(w * (1 - limit.share(widths)) for w, limit in zip(weights, self.limits, strict=True))) + _MARGIN
        try:
            front = solve(losses, costs, room, self.bins)
        except ValueError:
            return None
        self.rounds += 1
        return self.widest(front, nearby)

    def widest(self, front: Front, nearby: Mapping[str, NDArray[np.int64]]) -> dict[str, int] | None:
        """The dearest solution whose exact costs are within the limits."""

        def at(spent: int) -> dict[str, int]:
            picks = front.at(spent)
            return {g: int(self.levels[g][nearby[g][k]]) for g, k in zip(self.groups, picks, strict=True)}

        low, high = -1, front.loss.size
        best = None
        while high - low > 1:
            middle = (low + high) // 2
            widths = at(middle)
            if self.fits(widths):
                low, best = middle, widths
            else:
                high = middle
        return best

    def filled(self, widths: dict[str, int]) -> dict[str, int]:
        """Groups grow by one level, the one that gains most first, as long as all limits hold."""
        closed: set[str] = set()
        while True:
            gains = {
                g: float(self.loss_at[g][k] - self.loss_at[g][k + 1])
                for g in self.groups
                if g not in closed and (k := self.place(g, widths[g])) + 1 < self.levels[g].size
            }
            gains = {g: gain for g, gain in gains.items() if gain > 0}
            if not gains:
                return widths
            g = max(gains, key=gains.__getitem__)
            wider = {**widths, g: int(self.levels[g][self.place(g, widths[g]) + 1])}
            if self.fits(wider):
                widths = wider
            else:
                closed.add(g)


def _spaced(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels with the last one next to the one before: widths between them that save nothing are no distance."""
    if levels.size < 3:
        return levels
    return np.append(levels[:-1], min(int(levels[-1]), int(2 * levels[-2] - levels[-3])))
