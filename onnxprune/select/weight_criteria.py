"""Criteria that look at weights alone.

Distances and LAMP count weights that write or read a channel; biases and other parameters count only for elements that
touch nothing else.
"""

from __future__ import annotations

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.select.context import Floats, ScoreContext, Scores
from onnxprune.select.criteria import criterion, slice_criterion

_BLOCK = 512  # rows of a matrix of distances that are held at a time


@slice_criterion("l1")
def l1(slices: Floats) -> Floats:
    """Sum of magnitudes (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1)."""
    return np.asarray(np.abs(slices).sum(axis=1))


@slice_criterion("l2")
def l2(slices: Floats) -> Floats:
    """Sum of squares, which ranks like the Euclidean norm over all coupled weights (Fang et al. 2023, "DepGraph", eq. 5)."""
    return np.asarray(np.einsum("ij,ij->i", slices, slices))


@criterion("lamp")
def lamp(context: ScoreContext) -> Scores:
    """Squared norm over the sum of those in the layer that are not smaller, added up over coupled layers.

    Source: Lee et al. 2021, "Layer-Adaptive Sparsity for the Magnitude-based Pruning", eq. 1, of slices for single weights.
    """
    return context.sum_slices(_lamp, ("writes", "reads"))


def _lamp(slices: Floats) -> Floats:
    squares = l2(slices)
    ordered = np.sort(squares)
    not_smaller = np.cumsum(ordered[::-1])[::-1][np.searchsorted(ordered, squares)]
    return np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)


@criterion("fpgm")
def fpgm(context: ScoreContext) -> Scores:
    """Distance from the geometric median: the sum of distances to all filters of the layer that write the channels.

    Source: He et al. 2019, "Filter Pruning via Geometric Median", eq. 7.
    """
    return context.sum_slices(_distances, ("writes",))


def _distances(slices: Floats) -> Floats:
    """Sum of Euclidean distances of each row to all others."""
    centred = slices - slices.mean(axis=0)
    squares = l2(centred)
    total = np.empty(len(centred))
    for start in range(0, len(centred), _BLOCK):
        rows = slice(start, start + _BLOCK)
        between = squares[rows, None] + squares - 2 * centred[rows] @ centred.T
        here = np.arange(start, min(start + _BLOCK, len(centred)))
        between[here - start, here] = 0
        total[rows] = np.sqrt(np.maximum(between, 0)).sum(axis=1)
    return total


@criterion("mean-distance")
def mean_distance(context: ScoreContext) -> Scores:
    """Squared distance of a channel's coupled weights from the mean channel of each layer: close ones are redundant."""
    return context.sum_slices(lambda slices: l2(slices - slices.mean(axis=0)), ("writes", "reads"))


@criterion("median-distance")
def median_distance(context: ScoreContext) -> Scores:
    """Squared distance from the median channel (element by element) of each layer."""
    return context.sum_slices(lambda slices: l2(slices - np.median(slices, axis=0)), ("writes", "reads"))


@criterion("mode-distance")
def mode_distance(context: ScoreContext) -> Scores:
    """Squared distance from the mode channel (element by element, half-sample mode) of each layer."""
    return context.sum_slices(lambda slices: l2(slices - half_sample_mode(slices)), ("writes", "reads"))


def half_sample_mode(values: Floats) -> Floats:
    """Mode of each column `(n, m) -> (m,)`: the densest half of the densest half of ..., down to one or two values.

    Source: Robertson & Cryer 1974, "An iterative procedure for estimating the mode".
    """
    kept = np.sort(values, axis=0)
    while len(kept) > 2:
        size = 2 if len(kept) == 3 else -(-len(kept) // 2)
        widths = kept[size - 1 :] - kept[: len(kept) - size + 1]
        start = widths.argmin(axis=0)
        kept = np.take_along_axis(kept, start + np.arange(size)[:, None], axis=0)
    return np.asarray(kept.mean(axis=0))


@criterion("bn-scale")
def bn_scale(context: ScoreContext) -> Scores:
    """Magnitude of the factors that scale a channel: gamma of normalizations, per-channel constants of Mul.

    Groups and elements without one get their l2 score, scaled to be comparable within the group.

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", section 3.

    Raises:
        UsageError: nothing in the model scales channels.
    """
    factors = np.zeros(context.groups.classes.count)
    scaled = []
    for part in context.slices():
        normalizes = "Norm" in part.reader and part.slot == _GAMMA.get(part.reader, 1)
        if part.role == "parameter" and part.values.shape[1] == 1 and (normalizes or part.reader == "Mul"):
            np.add.at(factors, part.classes, np.abs(part.values[:, 0]))
            scaled.append(part.classes)
    if not scaled:
        raise UsageError(
            "criterion 'bn-scale' reads the scales of normalizations, and no channel that can go passes one "
            "(they may be folded into the weights); use l2"
        )
    return context.completed(context.gather(factors), context.touched(scaled))


_GAMMA = {"SkipLayerNormalization": 2, "SkipSimplifiedLayerNormalization": 2}


@criterion("random")
def random(context: ScoreContext) -> Scores:
    """Uniform in [0, 1), the same for the same seed: what every other criterion has to beat."""
    rng = context.rng
    return Scores([[rng.random(len(bucket)) for bucket in group.buckets] for group in context.groups.groups])
