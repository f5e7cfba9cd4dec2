"""Which slices of a tensor of the dense model are left in the pruned one."""

from __future__ import annotations

from collections.abc import Sequence
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


def kept_places(value: Value, axes: Sequence[int], alive: Mask) -> Array | str | None:
    """Places that stay on some axes of a tensor, flattened in the order of `axes`, as they lie in the pruned tensor.

    None where all stay; a reason where other axes lost slices.
    """
    order = sorted(axes)
    sizes = [value.sizes[a] for a in order]
    stays = np.ones(sizes, np.bool_)
    for f in value.fields:
        kept = alive[f.labels]
        if kept.all():
            continue
        if not set(f.axes) <= set(axes):
            return "its output lost slices of more than its channels"
        stays &= kept.reshape([value.sizes[a] if a in f.axes else 1 for a in order])
    if stays.all():
        return None
    box = [_length(stays, k) for k in range(len(order))]
    places = np.ravel_multi_index([np.nonzero(stays)[order.index(a)] for a in axes], [value.sizes[a] for a in axes])
    if np.prod(box) != len(places):
        return "its output is no box"
    return places.reshape(box).transpose([order.index(a) for a in axes]).ravel()


def _length(stays: NDArray[np.bool_], axis: int) -> int:
    """Size of an axis of what stays: the last axis may keep other places in each row."""
    if axis == stays.ndim - 1:
        return int(stays.sum(axis=-1).max())
    return int(stays.any(axis=tuple(a for a in range(stays.ndim) if a != axis)).sum())
