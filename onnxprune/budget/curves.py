"""What each width of each group loses, in units that groups have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.group import Group
from onnxprune.select.context import Curve

Floats = NDArray[np.float64]


def loss_curves(groups: Sequence[Group], curves: Mapping[str, Curve]) -> dict[str, Floats]:
    """Loss by the number of units that go, `(units,)`: the error curve times the sensitivity of the output.

    An entry is the expected relative squared error of the model's output if this group alone loses that many units.
    Groups that no curve is known of are left out: they lose nothing to choose by.

    Args:
        groups: that compete.
        curves: of a criterion, by group id; their `sensitivity` is measured on the calibration samples.
    """
    return {g.id: np.maximum.accumulate(curves[g.id].effect) for g in groups if g.id in curves}
