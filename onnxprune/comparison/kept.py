"""What a plan leaves of the tensors inside a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.comparison.matching import Keep
from onnxprune.trace.value import Value


def kept_slices(values: Mapping[str, Value], alive: NDArray[np.bool_]) -> dict[str, Keep]:
    """What a removal leaves of each tensor; tensors that it does not touch, or not by whole slices, are left out.

    Args:
        values: of the traced source.
        alive: for each label whether it stayed.
    """
    found: dict[str, Keep] = {}
    for name, value in values.items():
        if value.shape is None or value.blocked:
            continue
        masks = {f.axes[0]: alive[f.labels] for f in value.fields if len(f.axes) == 1}
        ragged = any(len(f.axes) > 1 and not alive[f.labels].all() for f in value.fields)
        if not ragged and any(not m.all() for m in masks.values()):
            axes: Sequence[NDArray[np.bool_] | None] = [masks.get(k) for k in range(len(value.shape))]
            found[name] = tuple(None if m is None or m.all() else np.flatnonzero(m) for m in axes)
    return found
