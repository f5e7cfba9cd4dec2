"""Which slices of a tensor of the dense model are left in the pruned one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.trace.value import Value

Array = NDArray[Any]


def kept_slices(value: Value, alive: Mask) -> dict[int, Array] | None:
    """Axis -> indices that stay, of the axes that shrink; None where several axes shrink together."""
    result = {}
    for f in value.fields:
        kept = alive[f.labels]
        if kept.all():
            continue
        if f.joint:
            return None
        result[f.axes[0]] = np.flatnonzero(kept)
    return result


def compared(before: Array, after: Array, value: Value, alive: Mask) -> tuple[Array, Array]:
    """What stays of a tensor of the source, next to the same tensor of the pruned model, both `(N, K)`."""
    for f in value.fields:
        kept = alive[f.labels]
        if kept.all():
            continue
        ends = range(-len(f.axes), 0)
        before = np.moveaxis(before, f.axes, ends)[..., kept]
        after = np.moveaxis(after, f.axes, ends).reshape(*before.shape)
        if len(f.axes) == 1:
            before, after = (np.moveaxis(a, -1, f.axes[0]) for a in (before, after))
        else:  # no two joint fields are worth the bookkeeping: one is all that attention makes
            break
    return before.reshape(len(before), -1), after.reshape(len(after), -1)
