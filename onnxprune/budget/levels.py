"""The widths that a group may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.costs import Levels
from onnxprune.select.allocate import Choice, Options, below_step, floor_of, matches, ratio_of, rounded, step_of

if TYPE_CHECKING:
    from onnxprune.budget.allocation import Limit

MOST = 64


def levels_of(choices: Sequence[Choice], options: Options) -> dict[str, NDArray[np.int64]]:
    """By group id the units that may stay, ascending, all of them last.

    They are multiples of what the options round to, at least what they hold, and at most `MOST`, evenly spaced; where nobody
    asked for multiples, also less than one of them, so that no target is out of reach for that. A group with a ratio of its
    own has the one that it asks for. Of a group in `options.unless_whole` no more than that stays, or all.
    """
    levels = {c.group.id: _levels(c, options) for c in choices}
    for g, most in options.unless_whole.items():
        if g in levels:
            levels[g] = levels[g][(levels[g] <= most) | (levels[g] == levels[g][-1])]
    return levels


def paying(levels: Levels, limits: Sequence[Limit]) -> dict[str, NDArray[np.int64]]:
    """Levels without those that take no less time than a wider one, all other groups at their narrowest.

    Args:
        levels: by group id.
        limits: what is counted never grows with fewer units, so only what is measured counts, if nothing else is limited.
    """
    if not all(limit.cost.tolerance for limit in limits):
        return dict(levels)
    least = {g: int(own[0]) for g, own in levels.items()}
    kept = {g: np.arange(own.size) == own.size - 1 for g, own in levels.items()}
    for limit in limits:
        for g, costs in limit.cost.table(least, levels).items():
            kept[g][:-1] |= costs[:-1] < np.minimum.accumulate(costs[::-1])[::-1][1:]
    return {g: own[kept[g]] for g, own in levels.items()}


def _levels(choice: Choice, options: Options) -> NDArray[np.int64]:
    group = choice.group
    if any(matches(group, p) for p in options.ratios):
        gone = int(group.units * ratio_of(group, options) + 1e-9)
        return np.array([group.units - rounded(group, gone, options)], np.int64)
    step = step_of(group, options)
    floor = floor_of(group, options)
    below = below_step(group, options)
    least = min(-(-floor // step) * step, group.units)
    step *= -(-(group.units // step) // MOST) or 1
    kept = np.arange(group.units // step * step, least - 1, -step)
    return np.unique([*below, *kept.tolist(), least, group.units])
