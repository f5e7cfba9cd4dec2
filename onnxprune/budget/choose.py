"""The choice of units within limits: by the knapsack, or by the least ratio of a plain ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.budget.allocation import Limit, OutOfReachError, allocate_within
from onnxprune.budget.curves import loss_curves
from onnxprune.budget.levels import levels_of, paying
from onnxprune.errors import BudgetError
from onnxprune.groups.group import Group, Groups
from onnxprune.select.allocate import Choice, Options, choose, take
from onnxprune.select.context import Scores

_STEPS = 12  # of the bisection: the ratio to 0.0003
_MOST = 0.999


def choose_within(
    groups: Groups, choices: Sequence[Choice], options: Options, scores: Scores, limits: Sequence[Limit]
) -> list[Choice]:
    """What goes, within all limits.

    Args:
        groups: result of `analyze`.
        choices: groups that compete, see `onnxprune.select.allocate.ranked`.
        options: what may go, and the ranking; the ratio does not count, ratios by glob do.
        scores: of the criterion.
        limits: of costs for these groups.

    Raises:
        BudgetError: no choice is within the limits.
    """
    if options.ranking == "knapsack":
        found = _by_knapsack(groups, choices, options, scores, limits)
    else:
        found = _by_ratio(groups, options, scores, limits, {c.group.id for c in choices})
    if found is None:
        raise BudgetError(why_not(choices, options, limits))
    return found


def narrowest(groups: Groups, choices: Sequence[Choice], options: Options, limits: Sequence[Limit]) -> list[Choice]:
    """As little as the options let stay, of widths that cost less than wider ones."""
    levels = paying(levels_of(choices, options), limits)
    return take(groups, choices, [c.group.units - int(levels[c.group.id][0]) for c in choices])


def widths_of(choices: Sequence[Choice]) -> dict[str, int]:
    """Units that stay, by group id."""
    return {c.group.id: c.group.units - c.count for c in choices}


def _by_knapsack(
    groups: Groups, choices: Sequence[Choice], options: Options, scores: Scores, limits: Sequence[Limit]
) -> list[Choice] | None:
    if not choices:
        return [] if all(limit.share({}) <= 1 for limit in limits) else None
    losses = loss_curves(choices, scores.curves)
    try:
        found = allocate_within(losses, paying(levels_of(choices, options), limits), limits)
    except OutOfReachError:
        return None
    return take(groups, choices, [c.group.units - found.widths[c.group.id] for c in choices])


def _by_ratio(
    groups: Groups, options: Options, scores: Scores, limits: Sequence[Limit], allowed: set[str]
) -> list[Choice] | None:
    """The least ratio at which all limits hold."""

    def attempt(ratio: float) -> tuple[list[Choice], bool]:
        found = [c for c in choose(groups, replace(options, ratio=ratio), scores) if c.group.id in allowed]
        widths = widths_of(found)
        return found, all(limit.share(widths) <= 1 for limit in limits)

    low, high = 0.0, _MOST
    best, met = attempt(high)
    if not met:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found, met = attempt(middle)
        if met:
            high, best = middle, found
        else:
            low = middle
    return best


def why_not(choices: Sequence[Choice], options: Options, limits: Sequence[Limit]) -> str:
    """Which limit can't be met, and what holds it: the groups that keep most at their narrowest, and what no group holds."""
    levels = paying(levels_of(choices, options), limits)
    least: Mapping[str, int] = {g: int(own[0]) for g, own in levels.items()}
    worst = max(limits, key=lambda limit: limit.share(least))
    left = worst.cost.total(least)
    dense = worst.cost.total({}) if worst.dense is None else worst.dense
    head = (
        f"target {worst.target or worst.cost.name} can't be met: with all that these options let go, "
        f"{left / dense:.1%} of {worst.cost.name} stay"
    )
    tables = worst.cost.table(least, {g: np.array([0, n]) for g, n in least.items()})
    held = {g: left - float(costs[0]) for g, costs in tables.items()}
    by_id = {c.group.id: c.group for c in choices}
    most = sorted(held, key=lambda g: -held[g])[:3]
    names = [f"{_name(by_id[g])} at {least[g]} of {by_id[g].units} units ({held[g] / dense:.1%})" for g in most]
    rest = worst.cost.total(dict.fromkeys(least, 0)) / dense
    parts = [f"most hangs on {', '.join(names)}"] if names else []
    parts += [f"{rest:.1%} on what no group holds (frozen or left out)"] if rest > 0.0005 else []
    return "; ".join([head, *parts])


def _name(group: Group) -> str:
    return f"{group.id} ({group.members[0][0]})" if group.members else group.id
