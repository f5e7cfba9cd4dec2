"""Criteria that look at activations: the statistics of every tensor that linear nodes read.

What a channel gets in several tensors is added up. Elements without a channel in any of them (query and key dimensions, what
only other operators read) get their l2 score, scaled to be comparable within the group (`ScoreContext.completed`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.select.context import Floats, ScoreContext, Scores
from onnxprune.select.criteria import criterion
from onnxprune.select.elimination import eliminate

if TYPE_CHECKING:
    from onnxprune.statistics.channels import ChannelStatistics


@criterion("act-mean", needs_data=True)
def act_mean(context: ScoreContext) -> Scores:
    """Magnitude of the mean activation."""
    return _per_channel(context, lambda s: np.abs(s.mean))


@criterion("act-variance", needs_data=True)
def act_variance(context: ScoreContext) -> Scores:
    """Variance of the activation: a channel that never changes is a bias."""
    return _per_channel(context, _variance)


@criterion("apoz", needs_data=True)
def apoz(context: ScoreContext) -> Scores:
    """1 - average percentage of zeros (Hu et al. 2016, "Network Trimming", eq. 1)."""
    return _per_channel(context, lambda s: 1 - s.zeros)


@criterion("wanda", needs_data=True)
def wanda(context: ScoreContext) -> Scores:
    """Sum of |W| times the root mean square of the activation (Sun et al. 2024, "Wanda", eq. 1, per channel)."""

    def magnitude(s: ChannelStatistics) -> Floats:
        return np.asarray(np.sqrt(_variance(s) + np.square(s.mean)) * sum(np.abs(w).sum(axis=1) for w in s.weights))

    return _per_channel(context, magnitude)


@criterion("flap", needs_data=True)
def flap(context: ScoreContext) -> Scores:
    """Variance times squared norm of the weights that read the channel (An et al. 2024, "FLAP", eq. 3)."""
    return _per_channel(context, lambda s: _variance(s) * sum(np.einsum("ij,ij->i", w, w) for w in s.weights))


@criterion("obs", needs_data=True, knows_losses=True)
def obs(context: ScoreContext) -> Scores:
    """Greedy optimal brain surgeon on channel covariances: what the readers lose although the other channels make up for it.

    Source: Hassibi & Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", eq. 5, for channels.
    """
    statistics = context.statistics or ()
    scores, known, curves = Scores(), [], {}
    for group in context.groups.groups:
        found = eliminate(group, statistics, context.groups.classes)
        scores.append(found.scores)
        known.append(found.known)
        if found.curve is not None:
            curves[group.id] = replace(found.curve, sensitivity=context.sensitivity.get(group.id, 1.0))
    result = context.completed(scores, known)
    result.curves = curves
    return result


def _variance(s: ChannelStatistics) -> Floats:
    return np.maximum(np.diagonal(s.covariance), 0.0)


def _per_channel(context: ScoreContext, function: Callable[[ChannelStatistics], Floats]) -> Scores:
    """Sums what each channel of each tensor gets."""
    of_label = context.groups.classes.of_label
    values = np.zeros(context.groups.classes.count)
    seen = []
    for s in context.statistics or ():
        labelled = s.labels >= 0
        classes = of_label[s.labels[labelled]]
        np.add.at(values, classes, np.broadcast_to(function(s), s.labels.shape)[labelled])
        seen.append(classes)
    return context.completed(context.gather(values), context.touched(seen))
