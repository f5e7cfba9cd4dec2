"""Criteria: how important a slice of a weight is. The importance of a unit is the sum over all its slices.

    from onnxprune import criterion

    @criterion("mean-abs")
    def mean_abs(slices):
        return abs(slices).mean(axis=1)

A package offers its criteria by an entry point in the group `onnxprune.criteria` that names a module which registers them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError
from onnxprune.groups.group import Groups
from onnxprune.io.surgeon import constant_array
from onnxprune.surgery.apply import stored_weights

Criterion = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_criteria: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Registers a criterion: from slices `(n, elements)` of a weight to an importance `(n,)` that adds up over weights."""

    def register(function: Criterion) -> Criterion:
        _criteria[name] = function
        return function

    return register


@criterion("l1")
def l1(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of magnitudes (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1)."""
    return np.asarray(np.abs(slices).sum(axis=1))


@criterion("l2")
def l2(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squares, which ranks like the Euclidean norm over all coupled weights (Fang et al. 2023, "DepGraph", eq. 5)."""
    return np.asarray(np.einsum("ij,ij->i", slices, slices))


@cache
def _load() -> None:
    from importlib.metadata import entry_points

    for entry in entry_points(group="onnxprune.criteria"):
        entry.load()


def criteria() -> list[str]:
    """Names of all criteria."""
    _load()
    return sorted(_criteria)


def class_scores(groups: Groups, name: str) -> NDArray[np.float64]:
    """Importance of every class `(classes,)`: the sum over all slices of stored weights that carry one of its labels.

    Raises:
        UsageError: no such criterion.
    """
    _load()
    if name not in _criteria:
        raise UsageError(f"unknown criterion {name!r}; there are {', '.join(criteria())}")
    function = _criteria[name]
    classes = groups.classes
    scores = np.zeros(classes.count)
    constants = stored_weights(groups.trace.graph)
    prunable = np.zeros(classes.count, np.bool_)
    for group in groups.groups:
        for bucket in group.buckets:
            for unit in bucket:
                prunable[unit] = True
    for weight in groups.trace.weights.values():
        wanted = {a: labels for a, labels in weight.labels.items() if prunable[classes.of_label[labels]].any()}
        if not weight.stored or not wanted:
            continue
        array = _floats(constant_array(constants[weight.name]))
        for axis, labels in wanted.items():
            blocks = 1 if labels.ndim == 1 else len(labels)
            for part, own in zip(np.split(array, blocks, axis=0), np.atleast_2d(labels), strict=True):
                slices = np.moveaxis(part, axis, 0)
                if slices.shape[0] != own.size:  # axis 0 itself in blocks of its own
                    slices = slices.reshape(own.size, -1)
                values = function(slices.reshape(own.size, -1))
                np.add.at(scores, classes.of_label[own], values)
    return scores


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
