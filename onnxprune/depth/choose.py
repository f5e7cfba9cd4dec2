"""How many branches go, and how wide the rest stays: one knapsack for each number of branches.

With the first branches of the order gone, their groups and costs are gone too, and the knapsack of widths is solved for
what is left. What the knapsack foretells is a sum over groups: good to compare widths with each other, but several times
less than what they lose together, so it is no measure for branches. So each option is measured: branches and units gone at
once, units by what a linear guess keeps of them, on the samples that judge removals. The least loss wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from onnxprune.budget.allocation import Limit, OutOfReachError, allocate_within
from onnxprune.budget.costs import Floats, Levels
from onnxprune.groups.group import Group


@dataclass(frozen=True)
class Option:
    """Some branches that go, and the best widths of the rest.

    Attributes:
        tensors: summands of the branches, in the order in which they go.
        branches_lose: relative squared error of the outputs without these branches, measured.
        widths: units that stay of each group that is left; None where no widths meet the targets.
        loss: relative squared error of the outputs without these branches and these units, measured; infinite where it
            can't be.
    """

    tensors: tuple[str, ...]
    branches_lose: float
    widths: dict[str, int] | None
    loss: float


def options_of(
    order: Iterable[tuple[str, ...]],
    loss: Callable[[Collection[str]], float],
    gone: Callable[[Collection[str]], frozenset[str]],
    groups: Mapping[str, Group],
    losses: Mapping[str, Floats],
    levels: Levels,
    limits: Callable[[Collection[str]], Sequence[Limit]],
    together: Callable[[Collection[str], Mapping[str, int]], float],
) -> list[Option]:
    """All numbers of branches, from none on, until these alone lose more than the best option, or meet the targets.

    Args:
        order: sets of branches, see `onnxprune.depth.order`.
        loss: of the outputs without some branches.
        gone: tensors that go with them.
        groups: by id, those that compete.
        losses: by group id, see `onnxprune.budget.curves.loss_curves`.
        levels: widths to choose from.
        limits: of a model without some tensors.
        together: loss without some branches, at some widths of what is left.
    """
    found: list[Option] = []
    best = np.inf
    for tensors in chain([()], order):
        lost = loss(tensors)
        if lost >= best:
            break
        dead = gone(tensors)
        left = {g: own for g, own in levels.items() if not {w for w, _ in groups[g].members} <= dead}
        bounds = limits(dead)
        try:
            widths = allocate_within({g: losses[g] for g in left}, left, bounds).widths
        except OutOfReachError:
            found.append(Option(tensors, lost, None, np.inf))
            continue
        found.append(Option(tensors, lost, widths, together(tensors, widths)))
        best = min(best, found[-1].loss)
        if all(n == left[g][-1] for g, n in widths.items()):
            break
    return found
