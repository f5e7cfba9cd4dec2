"""Seconds that the arithmetic of statistics and fits takes on one core of a present-day processor. Only ratios matter."""

from __future__ import annotations

import math

import numpy as np

from onnxprune.calibrate.batch import Samples
from onnxprune.groups.group import Groups
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Linear
from onnxprune.statistics.positions import positions_of_each
from onnxprune.statistics.recurrent import Recurrent

_RUN = 3e10  # multiply-accumulates a second, in ONNX Runtime
_MOVE = 4e8  # elements a second, of activations
_GATHER = 2e8  # elements a second, of rows
_GRAM = 2.5e10  # multiply-accumulates a second, of one matrix product in float64
_SOLVE = 2e10  # the same, of a factorization
_SOLUTIONS = 4  # of one ridge regression


def run_seconds(flow: Flow, groups: Groups, linear: Linear, samples: Samples) -> float:
    """Of a node in a model, with what lies between it and the next."""
    value, x = (groups.trace.values.get(n) for n in (linear.y, linear.x))
    if value is None or value.shape is None or x is None or x.shape is None:
        return 0.0
    inputs, outputs = math.prod(x.shape), math.prod(value.shape)
    taps = matrix_size(linear)[1]
    batch = max((v.shape[0] for n in flow.inputs if (v := groups.trace.values.get(n)) and v.shape), default=1)
    return (outputs * taps / _RUN + (inputs + outputs) / _MOVE) * samples.count / max(batch, 1)


def gram_seconds(size: tuple[int, int, int], samples: Samples) -> float:
    """Of the moments of rows `(G, K)` with outputs `(G, M)`."""
    groups, k, m = size
    rows = float(groups) * positions_of_each(k, samples, groups, m) * samples.count
    return rows * (k * (k / 2 + m) / _GRAM + (k + m) / _GATHER)


def fit_seconds(size: tuple[int, int, int], samples: Samples) -> float:
    """Of least squares for a weight as a matrix `(G, K, M)`, without running the models."""
    groups, k, m = size
    return gram_seconds(size, samples) + float(groups) * _SOLUTIONS * k * k * (k / 3 + 2 * m) / _SOLVE


def recurrent_seconds(node: Recurrent, samples: Samples) -> float:
    """Of one round of least squares for all gates."""
    directions, gates, inputs = node.held[node.w].index.shape
    return fit_seconds((directions, inputs + node.held[node.r].index.shape[2], gates), samples)


def elimination_seconds(channels: int) -> float:
    """Of ranking channels by their covariance."""
    return float(channels) ** 3 / _SOLVE


def matrix_size(linear: Linear) -> tuple[int, int, int]:
    """`(G, K, M)` of the weight as matrices."""
    groups, k, m = linear.form.matrix(np.broadcast_to(np.float32(0), linear.reading.sizes)).shape
    return groups, k, m
