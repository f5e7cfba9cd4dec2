"""Rankings: how many units go of each group at a ratio, by what is compared with what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.groups.group import Group, Groups
from onnxprune.select.allocate import Choice, Options, floor_of, matches, ratio_of
from onnxprune.select.context import Curve
from onnxprune.select.roles import Roles

_Cost = tuple[float, int, float]  # what a unit costs, its group, what it weighs


def counts_by_ratio(groups: Groups, choices: Sequence[Choice], options: Options, curves: Mapping[str, Curve]) -> list[int]:
    """Units that go of each group, before rounding.

    Args:
        groups: the analysis.
        choices: groups that may go.
        options: with the ratio and the ranking.
        curves: error curves by group id.

    Raises:
        UsageError: the ranking needs a budget instead of a ratio.
    """
    if options.ranking == "knapsack":
        raise UsageError("ranking 'knapsack' spends a budget: give a target such as macs=0.5 instead of a ratio")
    if options.ranking == "local":
        return [_local(c, options) for c in choices]
    own = {k for k, c in enumerate(choices) if any(matches(c.group, p) for p in options.ratios)}
    shared = [k for k in range(len(choices)) if k not in own]
    if options.ranking == "global":
        costs = [_units(choices, shared, curves)]
    else:
        costs = [_by_score(choices, alike) for alike in _isomorphic(groups, choices, shared)]
    counts = {k: n for part in costs for k, n in _least(part, choices, options).items()}
    return [_local(c, options) if k in own else counts.get(k, 0) for k, c in enumerate(choices)]


def _local(choice: Choice, options: Options) -> int:
    return math.floor(choice.group.units * ratio_of(choice.group, options) + 1e-9)


def _units(choices: Sequence[Choice], wanted: Sequence[int], curves: Mapping[str, Curve]) -> list[_Cost]:
    """The costs of all units of all groups.

    Where every group has an error curve, the cost of a unit is the error of the model's output that is expected from it, per
    multiply-accumulate (its readers' share of lost variance times their sensitivity), and the ratio is one of
    multiply-accumulates. Else the cost is the score over the mean score of the group, and the ratio is one of parameters.
    """
    if not all(choices[k].group.id in curves for k in wanted):
        return _by_score(choices, wanted)
    ranked = []
    for k in wanted:
        group = choices[k].group
        weight = max(group.unit_macs, 1.0)
        costs = np.maximum.accumulate(np.diff(curves[group.id].effect, append=np.inf)) / weight
        ranked += [(float(cost), k, weight) for cost in costs]
    return ranked


def _by_score(choices: Sequence[Choice], wanted: Sequence[int]) -> list[_Cost]:
    ranked = []
    for k in wanted:
        group = choices[k].group
        costs = np.sum([np.sort(s)[: group.units] for s in choices[k].scores], axis=0)
        costs /= costs.mean() or 1.0
        ranked += [(float(cost), k, group.unit_params) for cost in costs]
    return ranked


def _least(ranked: Sequence[_Cost], choices: Sequence[Choice], options: Options) -> dict[int, int]:
    """How many units of each group are among those that cost least and weigh a share of all of them."""
    budget = options.ratio * sum(w for _, _, w in ranked)
    counts = dict.fromkeys((k for _, k, _ in ranked), 0)
    for _, k, weight in sorted(ranked, key=lambda r: r[0]):
        if budget < weight / 2:
            break
        if counts[k] < choices[k].group.units - floor_of(choices[k].group, options):
            counts[k] += 1
            budget -= weight
    return counts


def _isomorphic(groups: Groups, choices: Sequence[Choice], wanted: Sequence[int]) -> list[list[int]]:
    """Groups that consist of the same operators compete with each other only.

    Source: Fang et al. 2024, "Isomorphic Pruning for Vision Models", section 3.2.
    """
    roles = Roles(groups.trace.graph)
    found: dict[tuple[object, ...], list[int]] = {}
    for k in wanted:
        found.setdefault(_structure(groups, choices[k].group, roles), []).append(k)
    return list(found.values())


def _structure(groups: Groups, group: Group, roles: Roles) -> tuple[object, ...]:
    """What a group is made of, sizes of channel axes left out."""
    parts = []
    for weight, axis in group.members:
        use = roles.of(weight, axis)
        parts.append((use.reader, use.role, use.slot, axis, groups.trace.weights[weight].shape[2:]))
    return (group.kind, *sorted(parts))
