"""Slices of weights: cut out, and put back as zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.trace.labels import LabelSpace
from onnxprune.trace.tracer import Weight

Keep = Mapping[int, Mask]  # axis -> which slices stay: (size,), or (blocks, size) per block of axis 0


def keep_of(weight: Weight, alive: Mask) -> dict[int, Mask]:
    """Which slices of each axis stay; axes that keep all are left out."""
    masks = {axis: alive[labels] for axis, labels in weight.labels.items()}
    return {axis: mask for axis, mask in masks.items() if not mask.all()}


def kept_indices(shape: tuple[int, ...], keep: Keep) -> list[tuple[tuple[NDArray[np.intp], ...], slice]]:
    """Index grids of what stays, one for each block of axis 0 that is left, with its place on axis 0 of the result.

    Args:
        shape: shape of the whole weight.
        keep: axes that shrink.
    """
    blocks = max((len(m) for m in keep.values() if m.ndim == 2), default=1)
    size = shape[0] // blocks if shape else 1
    result = []
    start = 0
    for b in range(blocks):
        axes = []
        for axis, n in enumerate(shape):
            mask = keep.get(axis)
            if axis == 0 and (mask is None or mask.ndim == 1):
                own = np.ones(n, np.bool_) if mask is None else mask
                axes.append(b * size + np.flatnonzero(own[b * size : (b + 1) * size]))
            elif mask is None:
                axes.append(np.arange(n))
            else:
                axes.append(np.flatnonzero(mask if mask.ndim == 1 else mask[b]))
        if all(a.size for a in axes):
            result.append((np.ix_(*axes), slice(start, start + axes[0].size)))
            start += axes[0].size
    return result


def cut_shape(shape: tuple[int, ...], keep: Keep) -> tuple[int, ...]:
    """Shape of what stays."""
    parts = kept_indices(shape, keep)
    if not parts:
        return (0,) * len(shape)
    rows = parts[-1][1].stop
    return (rows, *(index.size for index in parts[0][0][1:]))


def cut(array: NDArray[Any], keep: Keep) -> NDArray[Any]:
    """What stays of a weight.

    Raises:
        ValueError: blocks would keep different numbers of slices, or nothing stays.
    """
    parts = [array[index] for index, _ in kept_indices(array.shape, keep)]
    if not parts:
        raise ValueError("nothing would be left")
    return np.concatenate(parts, axis=0) if len(parts) > 1 else parts[0]


def put_back(array: NDArray[Any], shape: tuple[int, ...], keep: Keep, fill: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
    """The inverse of `cut`: removed slices are 0, or their neutral value where that is another one.

    Args:
        array: the cut weight.
        shape: shape of the whole.
        keep: axes that were cut.
        fill: axis -> neutral value of each of its slices.
    """
    full = np.zeros(shape, array.dtype)
    for axis, values in fill.items():
        mask = keep.get(axis)
        if mask is not None and mask.ndim == 1:
            index = [slice(None)] * len(shape)
            index[axis] = ~mask  # type: ignore[call-overload]
            spread = values[~mask].reshape([-1 if a == axis else 1 for a in range(len(shape))])
            full[tuple(index)] = spread.astype(array.dtype)
    for index_grid, place in kept_indices(shape, keep):
        full[index_grid] = array[place]
    return full


def neutral_values(space: LabelSpace) -> NDArray[np.float64]:
    """For each label the value that a removed slice of a weight takes: 0, or what rules asked for."""
    values = np.zeros(space.size)
    for labels, value in space.fills:
        values[labels] = value
    return values
