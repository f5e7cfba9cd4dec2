"""Criteria that look at what a unit does to the outputs: gradients of the loss with respect to its gate.

Labels are drawn from the model's own outputs unless they are given. Units that no gradient reaches (their channels end in
bodies of control flow, or before an operator without a derivative) get their l2 score, scaled (`ScoreContext.completed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Group
from onnxprune.select.context import Curve, Floats, ScoreContext, Scores
from onnxprune.select.criteria import criterion

_T = TypeVar("_T", bound=np.generic)


@criterion("taylor", needs_gradients=True)
def taylor(context: ScoreContext) -> Scores:
    """Mean magnitude of activation times gradient, summed over coupled channels.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8, with a gate for each channel of
    a sample; magnitudes, not squares, are summed.
    """
    assert context.gradients is not None
    return _completed(context, context.gradients.magnitudes)


@criterion("fisher", needs_gradients=True, knows_losses=True)
def fisher(context: ScoreContext) -> Scores:
    """Half the mean squared gradient of the unit's gate: by how much the loss grows without the unit, to second order.

    Coupled channels share a gate, so their gradients are summed before they are squared. The error curve is the sum of the
    scores in their order, which a global ranking weighs by multiply-accumulates.

    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", eq. 9 and 10; for coupled
    channels Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression", eq. 5 to 7.
    """
    found = context.gradients
    assert found is not None
    result = _completed(context, {g: s / 2 for g, s in found.squares.items()})
    for group, scores in zip(context.groups.groups, result, strict=True):
        if found.known[group.id].any():
            result.curves[group.id] = _curve(group, scores, found.known[group.id])
    return result


def _completed(context: ScoreContext, values: Mapping[str, Floats]) -> Scores:
    assert context.gradients is not None
    groups = context.groups.groups
    known: list[list[Mask]] = [_parts(g, context.gradients.known[g.id]) for g in groups]
    return context.completed(Scores([_parts(g, values[g.id]) for g in groups]), known)


def _parts(group: Group, values: NDArray[_T]) -> list[NDArray[_T]]:
    """One array for each bucket."""
    bounds = np.cumsum([0, *[len(bucket) for bucket in group.buckets]])
    return [values[a:b] for a, b in pairwise(bounds)]


def _curve(group: Group, scores: list[Floats], known: Mask) -> Curve:
    """Loss by how many units are gone. The total is the same for all groups, so that their losses compare."""
    steps = np.sum([np.sort(s)[: group.units] for s in scores], axis=0)
    cost = np.concatenate([[0.0], np.cumsum(steps)])[: group.units]
    return Curve(group.id, cost, 1.0, float(known.mean()))
