"""Moments of what linear nodes read, channel by channel: what criteria that look at data judge by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Batch, Samples, batch_size, held_out
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Entry, Journal
from onnxprune.statistics.accumulate import Accumulator, picked, pieces
from onnxprune.statistics.assembly import Assembly, assembly_of
from onnxprune.statistics.device import DeviceMoments
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Dense, Form, Linear, find_declined, find_linear
from onnxprune.statistics.positions import counted_rows, judging, positions_of_each, spread
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.recurrent import Recurrent, find_recurrent, hidden_labels, with_states
from onnxprune.statistics.stream import Stream, View
from onnxprune.trace.labels import Labels
from onnxprune.trace.value import Value

Array = NDArray[Any]
Key = tuple[str, tuple[int, ...]]  # a tensor, and the axes of its channels
_ARRAYS = ("mean", "covariance", "zeros")
_AT_ONCE = 16  # tensors of one pass; what is lost where a run is cut off


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
    apart: bool = False,
    budget: int = 1 << 30,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> list[ChannelStatistics]:
    """Statistics of every tensor that a linear node reads with a weight whose input channels could go.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        apart: without the samples that are held out.
        budget: bytes of activations held in memory.
        providers: that the model runs on.
        journal: where finished statistics lie; its key is all of the above.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples, or it makes NaN or infinity of them.
    """
    stream = Stream(with_states(lift(model)), samples, budget, providers)
    read: dict[Key, list[Linear]] = {}
    known: dict[Key, list[Labels]] = {}
    for linear, labels in sorted(_readers(stream.flow, groups), key=lambda pair: stream.flow.producer.get(pair[0].x, -1)):
        key = linear.x, linear.form.read_axes(len(groups.trace.shape_of(linear.x) or ()) or 4)
        known[key] = labels
        read.setdefault(key, []).append(linear)
    sizes = {key: labels[0].size for key, labels in known.items()}
    result = []
    for key, whole in tensor_moments(stream, sizes, groups, "statistics", journal, progress, apart=apart):
        for own in known[key]:
            result += in_blocks(replace(whole, labels=own), read[key], stream.flow)
    return result


def tensor_moments(
    stream: Stream,
    channels: Mapping[Key, int],
    groups: Groups,
    section: str,
    journal: Journal | None,
    progress: Callable[[str, float], None],
    *,
    apart: bool = False,
) -> Iterator[tuple[Key, ChannelStatistics]]:
    """Moments of tensors over some of their axes, without labels and weights.

    Args:
        stream: of the model, before its run.
        channels: what to look at, in the order of the graph: a tensor and the axes of its channels -> how many these are.
        groups: its analysis.
        section: of the journal.
        journal: where finished moments lie.
        progress: called with the stage and the share that is done.
        apart: without the samples that are held out.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples, or it makes NaN or infinity of them.
    """
    samples, budget, providers = stream.samples, stream.shelf.budget, stream.providers
    together = list(_together(groups, channels, budget // 2))
    parts = stream.model, together, samples, apart, budget, asdict(providers)
    of = None if journal is None else journal.section(section, *parts)
    complete = of is not None and all(of.has(str(p)) for p in together)
    for k, part in enumerate(together):
        collectors = [_Collector(key, channels[key], samples, apart, providers) for key in part]
        entry = None if of is None else of.get(str(part))
        for view in stream.walk([name for name, _ in part]) if not complete or entry is None else ():
            progress("reading activations", (k + view.index / len(samples.batches)) / len(together))
            for c in collectors if entry is None else ():
                c.add(view)
        found = [c.result() for c in collectors] if entry is None else _read(entry, collectors)
        if of is not None and entry is None:
            of.put(str(part), _written(found))
        yield from ((c.key, whole) for c, whole in zip(collectors, found, strict=True))


def in_blocks(whole: ChannelStatistics, linears: list[Linear], flow: Flow) -> list[ChannelStatistics]:
    """Statistics of a tensor, for each block of channels that some nodes read together, with their weights.

    A depthwise convolution mixes nothing: who reads it counts.
    """

    def stored(name: str) -> Array:
        return numpy_helper.to_array(flow.initializers[name])

    by_groups: dict[int, list[NDArray[np.float64]]] = {}
    for linear in linears:
        if linear.y:
            held = stored(linear.weight)
        else:  # gates
            moved = assembly_of(flow, linear.weight, linear.node)
            assert isinstance(moved, Assembly)
            held = moved.read(stored)
        matrix = linear.matrix(held)
        by_groups.setdefault(len(matrix), []).append(matrix)
    result = []
    for count, matrices in by_groups.items():
        size = whole.labels.size // count
        for g in range(count) if size > 1 else ():
            weights = [m[g].reshape(size, -1) for m in matrices]
            result.append(whole.part(slice(g * size, (g + 1) * size), weights))
    return result


def _readers(flow: Flow, groups: Groups) -> Iterator[tuple[Linear, list[Labels]]]:
    """Linear nodes, gates of recurrent nodes among them, with the labels of the channels that they read, group by group."""
    trace = groups.trace
    for linear in find_linear(flow, trace.shape_of):
        value = trace.values.get(linear.x)
        labels = [] if value is None or value.shape is None else labels_on(value, linear.form.read_axes(value.rank))
        if labels:
            yield linear, labels
    for node in find_recurrent(flow):
        if isinstance(node, Recurrent) and trace.shape_of(node.x) is not None:
            of_input, of_states = node.consumers()
            labels = labels_on(trace.values[node.x], (2,))
            if labels:
                yield of_input, labels
            hidden = hidden_labels(node, trace)
            if hidden is not None:
                yield of_states, [hidden.ravel()]


def why_unread(model: onnx.ModelProto, groups: Groups) -> str:
    """Why there are statistics of nothing, in words for a user; empty where some node's weights can be read.

    Args:
        model: that `groups` analyses.
        groups: its analysis.
    """
    flow = Flow(lift(model))
    reasons = Counter(d.reason for d in find_declined(flow, groups.trace.shape_of))
    if not reasons or any(True for _ in _readers(flow, groups)):
        return ""
    (reason, _), *others = reasons.most_common()
    more = " and other reasons" if others else ""
    return f"none of {reasons.total()} linear nodes has a weight that can be read: {reason}{more}"


def labels_on(value: Value, axes: Sequence[int]) -> list[Labels]:
    """Labels of all places on some axes of a tensor, flattened in the order of `axes`: once for each field on them."""
    found = []
    for f in value.fields:
        if set(f.axes) <= set(axes):
            own = [a for a in axes if a in f.axes]
            turned = f.labels.transpose([f.axes.index(a) for a in own])
            turned = turned.reshape([value.sizes[a] if a in own else 1 for a in axes])
            found.append(np.broadcast_to(turned, [value.sizes[a] for a in axes]).astype(np.int32).ravel())
    return found


def _written(found: list[ChannelStatistics]) -> Entry:
    """Statistics for the journal."""
    arrays = {f"{k}.{n}": getattr(s, n) for k, s in enumerate(found) for n in _ARRAYS}
    return Entry(arrays, [s.rows for s in found])


def _read(entry: Entry, collectors: list[_Collector]) -> list[ChannelStatistics]:
    """Statistics from the journal."""
    found = []
    for k, (c, rows) in enumerate(zip(collectors, entry.data, strict=True)):
        mean, covariance, zeros = (entry.arrays[f"{k}.{n}"] for n in _ARRAYS)
        found.append(ChannelStatistics(c.key[0], c.unlabelled, rows, mean, covariance, zeros, []))
    return found


def _together(groups: Groups, read: Mapping[Key, int], room: int) -> Iterator[list[Key]]:
    """Tensors that are looked at in one pass: no more than what is collected and a batch of them have room for."""
    part: list[Key] = []
    taken = 0
    for key, channels in read.items():
        size = 4 * math.prod(groups.trace.shape_of(key[0]) or ()) + 16 * channels**2
        if part and (taken + size > room or len(part) == _AT_ONCE):
            yield part
            part, taken = [], 0
        part.append(key)
        taken += size
    if part:
        yield part


class _Collector:
    """Moments of one tensor over its channels, which lie on one axis or several."""

    def __init__(self, key: Key, channels: int, samples: Samples, apart: bool, providers: Providers) -> None:
        self.key, self.channels, self.samples, self.apart, self.providers = key, channels, samples, apart, providers
        self.limit = positions_of_each(channels, samples)
        self.rows = Accumulator(1, channels, 0, self.limit * samples.count, key[0])
        self.zeros = np.zeros(channels)
        self.device: DeviceMoments | None = None

    def add(self, view: View) -> None:
        """Takes the rows of a batch."""
        name, axes = self.key
        if self.providers.in_graph and len(axes) == 1 and axes != (0,):
            self.add_on_device(view)
            return
        x = view.get(name)
        if len(axes) > 1 or axes == (0,):
            x = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
            x, axes = x.reshape(*x.shape[: x.ndim - len(axes)], -1), (-1,)
        axis = -1 if axes[0] == x.ndim - 1 else axes[0]
        form = Dense(axis, False).arranged(x.shape, batch_size(view.batch))
        chosen = spread(form.positions(x), self.limit)
        use = self.counted(view.batch, x, chosen, form)
        for part, rows in pieces(form, x, chosen):
            flat = picked(rows, use[part])
            self.zeros += (flat <= 0).sum(axis=(0, 1))
            self.rows.add(flat, flat[:, :, :0])

    def add_on_device(self, view: View) -> None:
        """The same, where the model runs."""
        name, axes = self.key
        shaped = view.shaped(name)
        if self.device is None:
            form = Dense(-1 if axes[0] == shaped.ndim - 1 else axes[0], False)
            form = form.arranged(shaped.shape, batch_size(view.batch))
            self.device = DeviceMoments(form, (1, self.channels, 0), [], 1, self.providers)
        chosen = spread(self.device.form.positions(shaped), self.limit)
        use = self.counted(view.batch, shaped, chosen, self.device.form)
        self.device.add(view.value(name), [], chosen, [use])

    def counted(self, batch: Batch, tensor: Array, chosen: Array, form: Form) -> NDArray[np.bool_]:
        """Rows `(N, P)` that are looked at."""
        use = counted_rows(batch, self.samples.mask, tensor, chosen, form)
        return use & ~judging(held_out(batch), len(use))[:, None] if self.apart else use

    @property
    def unlabelled(self) -> NDArray[np.int32]:
        """In place of labels."""
        return np.full(self.channels, -1, np.int32)

    def result(self) -> ChannelStatistics:
        """Of all batches so far, without labels."""
        m = self.rows.result() if self.device is None else self.device.total[0]
        zeros = self.zeros if self.device is None else self.device.zeros[0]
        count = max(m.rows, 1)
        m.xx /= count
        return ChannelStatistics(self.key[0], self.unlabelled, m.rows, m.x[0], m.xx[0], zeros / count, [])
