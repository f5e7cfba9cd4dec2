"""What each width of each group loses, in units that groups have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError
from onnxprune.select.allocate import Choice
from onnxprune.select.context import Curve

Floats = NDArray[np.float64]


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
