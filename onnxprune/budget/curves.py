"""What each width of each group loses, in units that groups have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError
from onnxprune.select.allocate import Choice
from onnxprune.select.context import Curve

Floats = NDArray[np.float64]
SHARES = (0.25, 0.5, 0.75, 0.94)  # of a group's units, whose removal is measured


def probed(choices: Sequence[Choice], curves: Mapping[str, Curve]) -> dict[str, list[int]]:
    """By group id the numbers of units whose removal is worth measuring: those that the curve says lose anything."""
    found = {}
    for choice in choices:
        curve = curves.get(choice.group.id)
        if curve is not None:
            counts = sorted({min(max(round(s * curve.cost.size), 1), curve.cost.size - 1) for s in SHARES} - {0})
            found[choice.group.id] = [n for n in counts if curve.relative[n] > 0]
    return {g: counts for g, counts in found.items() if counts}


def calibrated(curve: Curve, counts: Sequence[int], effects: Sequence[float]) -> Curve:
    """The curve with a sensitivity that gives what was measured at some numbers of units, interpolated between them.

    Args:
        curve: of one group.
        counts: numbers of units, ascending.
        effects: relative squared errors of the output without them.
    """
    factors = np.asarray(effects) / curve.relative[list(counts)]
    return replace(curve, sensitivity=np.interp(np.arange(curve.cost.size), counts, factors))


def loss_curves(choices: Sequence[Choice], curves: Mapping[str, Curve]) -> dict[str, Floats]:
    """Loss by the number of units that go `(units,)`, never falling.

    An entry is the expected relative squared error of the model's output if this group alone loses that many units. A group
    that no curve is known of (what reads it is not linear) loses in proportion to its scores, in all as much as the median
    group.

    Args:
        choices: groups that compete.
        curves: of a criterion, by group id; their `sensitivity` is measured on the calibration samples.

    Raises:
        UsageError: no group has a curve.
    """
    known = {c.group.id: np.maximum.accumulate(curves[c.group.id].effect) for c in choices if c.group.id in curves}
    if not known:
        raise UsageError(
            "ranking 'knapsack' needs to know what each width loses: give samples and a criterion that tells (obs, fisher), "
            "or another ranking"
        )
    middle = float(np.median([loss[-1] for loss in known.values()]))
    return {c.group.id: known[c.group.id] if c.group.id in known else middle * _shares(c) for c in choices}


def _shares(choice: Choice) -> Floats:
    """Share of the scores of a group that the least important units have together `(units,)`."""
    steps = np.sum([np.sort(s)[: choice.group.units] for s in choice.scores], axis=0)
    total = float(steps.sum())
    return np.concatenate([[0.0], np.cumsum(steps)])[: choice.group.units] / (total or 1.0)
