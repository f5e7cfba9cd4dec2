"""Moments of what linear nodes read, channel by channel: what criteria that look at data judge by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Batch, Samples, batch_size
from onnxprune.groups.group import Groups
from onnxprune.statistics.accumulate import Accumulator, picked, pieces
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Convolution, Dense, Linear, find_linear
from onnxprune.statistics.stream import Stream, View

Array = NDArray[Any]
_ROWS = 8  # rows for each channel, at least, where the samples have as many
_MOST = 65536
_ELEMENTS = 1e8  # of the rows of all groups; many small groups cost more to read than to multiply
_WORK = 1e11  # multiply-accumulates for one Gram matrix


@dataclass(frozen=True)
class ChannelStatistics:
    """Moments of one tensor that linear nodes read, over samples and positions.

    Attributes:
        tensor: its name.
        labels: label of each channel `(C,)`, -1 where it has none.
        rows: how many rows of channels were seen.
        mean: `(C,)`.
        covariance: `(C, C)`.
        zeros: share of values that are 0 or less `(C,)`.
        weights: for each weight that multiplies the tensor `(C, K)`: row c is everything that channel c is multiplied
            with, a column is one tap of one output.
    """

    tensor: str
    labels: NDArray[np.int32]
    rows: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    zeros: NDArray[np.float64]
    weights: list[NDArray[np.float64]]

    def part(self, channels: slice, weights: list[NDArray[np.float64]]) -> ChannelStatistics:
        """The same of some channels, with what multiplies them."""
        return replace(
            self,
            labels=self.labels[channels],
            mean=self.mean[channels],
            covariance=self.covariance[channels, channels],
            zeros=self.zeros[channels],
            weights=weights,
        )


def channel_statistics(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    *,
    budget: int = 1 << 30,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> list[ChannelStatistics]:
    """Statistics of every tensor that a linear node reads with a weight whose input channels could go.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        budget: bytes of activations held in memory.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    stream = Stream(lift(model), samples, budget)
    read: dict[tuple[str, int], list[Linear]] = {}
    for linear in find_linear(stream.flow):
        value = groups.trace.values.get(linear.x)
        if value is not None and value.shape is not None:
            axis = linear.form.channel_axis(value.rank)
            f = value.field_on(axis)
            if f is not None and not f.joint:
                read.setdefault((linear.x, axis), []).append(linear)
    result = []
    together = list(_together(groups, list(read), budget // 2))
    for k, part in enumerate(together):
        collectors = []
        for name, axis in part:
            f = groups.trace.values[name].field_on(axis)
            assert f is not None
            collectors.append(_Collector(name, axis, np.asarray(f.labels, np.int32), samples))
        for view in stream.walk([name for name, _ in part]):
            progress("reading activations", (k + view.index / len(samples.batches)) / len(together))
            for c in collectors:
                c.add(view)
        for c in collectors:
            result += in_blocks(c.result(), read[c.name, c.axis], stream.flow)
    return result


def in_blocks(whole: ChannelStatistics, linears: list[Linear], flow: Flow) -> list[ChannelStatistics]:
    """Statistics of a tensor, for each block of channels that some nodes read together, with their weights.

    A depthwise convolution mixes nothing: who reads it counts.
    """
    by_groups: dict[int, list[NDArray[np.float64]]] = {}
    for linear in linears:
        matrix = linear.matrix(numpy_helper.to_array(flow.initializers[linear.weight]))
        by_groups.setdefault(len(matrix), []).append(matrix)
    result = []
    for count, matrices in by_groups.items():
        size = whole.labels.size // count
        for g in range(count) if size > 1 else ():
            weights = [m[g].reshape(size, -1) for m in matrices]
            result.append(whole.part(slice(g * size, (g + 1) * size), weights))
    return result


def _together(groups: Groups, read: list[tuple[str, int]], room: int) -> Iterator[list[tuple[str, int]]]:
    """Tensors that are looked at in one pass: all of them, if what is collected and a batch of them have room."""
    part: list[tuple[str, int]] = []
    taken = 0
    for name, axis in read:
        value = groups.trace.values[name]
        size = 4 * math.prod(value.sizes) + 16 * value.sizes[axis] ** 2
        if part and taken + size > room:
            yield part
            part, taken = [], 0
        part.append((name, axis))
        taken += size
    if part:
        yield part


class _Collector:
    """Moments of one tensor over its channels."""

    def __init__(self, name: str, axis: int, labels: NDArray[np.int32], samples: Samples) -> None:
        self.name, self.axis, self.labels, self.samples = name, axis, labels, samples
        self.form = Dense(axis, False)
        self.limit = positions_of_each(labels.size, samples)
        self.rows = Accumulator(1, labels.size, 0, self.limit * samples.count)
        self.zeros = np.zeros(labels.size)

    def add(self, view: View) -> None:
        """Takes the rows of a batch."""
        x = view.get(self.name)
        chosen = spread(self.form.positions(x), self.limit)
        use = counted_rows(view.batch, self.samples.mask, x, chosen, self.form)
        for part, rows in pieces(self.form, x, chosen):
            flat = picked(rows, use[part])
            self.zeros += (flat <= 0).sum(axis=(0, 1))
            self.rows.add(flat, flat[:, :, :0])

    def result(self) -> ChannelStatistics:
        """Of all batches so far."""
        m = self.rows.result()
        count = max(m.rows, 1)
        m.xx /= count
        return ChannelStatistics(self.name, self.labels, m.rows, m.x[0], m.xx[0], self.zeros / count, [])


def shrunk(covariance: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Fewer correlations where there are few rows: C channels seen in less than C rows seem to make up for each other."""
    share = min(1.0, (len(covariance) / max(rows, 1)) ** 2)
    return (1 - share) * covariance + share * np.diag(np.diagonal(covariance))


def positions_of_each(channels: int, samples: Samples, groups: int = 1) -> int:
    """Positions of each sample that are looked at, for Gram matrices of this width, one for each group."""
    rows = min(max(_WORK / channels**2, _ROWS * channels), _MOST)
    rows = min(rows, max(_ELEMENTS / (channels * groups), 8 * _ROWS * channels))
    return max(-(-int(rows) // max(samples.count, 1)), 1)


def spread(total: int, limit: int) -> Array:
    """At most `limit` of `total` positions, the same for every sample."""
    if total <= limit:
        return np.arange(total)
    return np.sort(np.random.default_rng(total).permutation(total)[:limit])


def counted_rows(
    batch: Batch, mask: str | None, tensor: Array, chosen: Array, form: Dense | Convolution
) -> NDArray[np.bool_]:
    """Rows `(N, P)` of a tensor that count: of real samples, and not of padding."""
    size = batch_size(batch)
    counted = np.ones((len(tensor), len(chosen)), np.bool_)
    counted[batch.count * max(len(tensor) // size, 1) :] = False
    if mask is not None and isinstance(form, Dense) and tensor.ndim == 3:
        given = batch.feeds[mask]
        if form.axis in (-1, 2) and given.shape == tensor.shape[:2]:
            counted &= given[:, chosen] != 0
    return counted
