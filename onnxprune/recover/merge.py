"""Merging: what stays takes over what the removed channels did, by the covariance of channels alone.

Let S be the channels of a tensor that stay and R those that go. The best linear guess of x_R is

    x_R ~ mean_R + M (x_S - mean_S)        M = C_RS (C_SS + l I)^-1,  l = 0.01 * mean diag(C_SS)

so whoever reads the tensor with weights W (a row per channel) can read x_S alone, with

    W' = W_S + M' W_R        b' = b + (mean_R - M mean_S)' W_R

One matrix serves all readers and all taps of a kernel. Near-parallel channels, whose correlation is close to 1, are the case
of one entry in a row of M: the removed channel is folded into its twin. What no combination of kept channels explains is
lost, and with it variance. Each output is therefore scaled, about its mean, to the variance that it had.

The covariance comes from samples (`onnxprune.statistics.channels`) or from the weights (`onnxprune.statistics.expected`).

Source: Wang et al. 2025, "Forget the Data and Fine-Tuning! Just Fold the Network to Compress", section 3, for folding and
the correction of variances, there with one kept channel for each that goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.linalg import cho_factor, cho_solve

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.recover.fit import Merge
from onnxprune.recover.kept import kept_slices
from onnxprune.recover.slots import drop_zeros, give_slots, write_weights
from onnxprune.recover.target import Slot, follow
from onnxprune.statistics.channels import ChannelStatistics
from onnxprune.statistics.expected import ALIKE
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Linear, plain_linear
from onnxprune.statistics.shrinkage import damped

Array = NDArray[Any]
Floats = NDArray[np.float64]

STRENGTH = 0.01
LARGEST_GAIN = 4.0  # an output of which next to nothing is left is not blown up
_TINY = 1e-30


@dataclass
class Merging:
    """Result of `merge_channels`: the model with new weights, and one line for each node that read removed channels."""

    model: onnx.ModelProto
    merges: list[Merge] = field(default_factory=list)


def merge_channels(
    prepared: Prepared,
    groups: Groups,
    alive: Mask,
    pruned: onnx.ModelProto,
    statistics: Sequence[ChannelStatistics],
    *,
    unknown: Mapping[str, str] | None = None,
    correct: bool = True,
) -> Merging:
    """New weights for the nodes of a pruned model that read removed channels. Neither model is changed.

    Args:
        prepared: the source as it was traced.
        groups: its analysis.
        alive: for each label whether it stays.
        pruned: result of the removal.
        statistics: moments of what linear nodes read in the source.
        unknown: tensors without statistics -> why they have none.
        correct: scale outputs to the variance that they had.
    """
    result = onnx.ModelProto()
    result.CopyFrom(pruned)
    dense = Flow(lift(prepared.model))
    work = lift(result)
    short = [x for x in plain_linear(Flow(work)) if _lost(groups, alive, x)]
    added = give_slots(result, work, short, groups)
    run = _Run(groups, alive, dense, Flow(lift(result)), statistics, unknown or {}, correct)
    merges = [run.node(x) for x in plain_linear(run.pruned) if x.y in {y.y for y in short}]
    write_weights(result, run.weights)
    drop_zeros(result, added)
    return Merging(result, merges)


def _lost(groups: Groups, alive: Mask, linear: Linear) -> bool:
    """Channels of what a node reads went; each on its own, as for a depthwise convolution, is no loss."""
    value = groups.trace.values.get(linear.x)
    if value is None or value.shape is None:
        return False
    f = value.field_on(linear.form.channel_axis(value.rank))
    grouped = getattr(linear.form, "groups", 1)
    if f is None or alive[f.labels].all():
        return False
    return f.joint or grouped == 1 or grouped < int(alive[f.labels].sum())


@dataclass
class _Run:
    groups: Groups
    alive: Mask
    dense: Flow
    pruned: Flow
    statistics: Sequence[ChannelStatistics]
    unknown: Mapping[str, str]
    correct: bool
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = {x.y: x for x in plain_linear(self.dense)}

    def node(self, linear: Linear) -> Merge:
        """Gives one node its new weights."""
        value = self.groups.trace.values[linear.x]
        f = value.field_on(linear.form.channel_axis(value.rank))
        assert f is not None
        kept = int(self.alive[f.labels].sum(axis=-1).max())
        plain = Merge(linear.name, linear.weight, f.labels.shape[-1] - kept, kept)
        blocks = self.blocks(linear)
        if isinstance(blocks, str):
            return replace(plain, reason=blocks)
        slot = self.slot(linear)
        folded = [fold(s, self.alive[s.labels], w, shifts=slot is not None, correct=self.correct) for s, w in blocks]
        stored = self.weight(linear.weight)
        matrices = [x.weights.reshape(-1, x.weights.shape[2]) for x in folded]
        if len({m.shape for m in matrices}) > 1 or np.shape(matrices) != linear.matrix(stored).shape:
            return replace(plain, reason="its groups do not lose as many channels each")
        self.weights[linear.weight] = linear.stored(np.stack(matrices), stored)
        if slot is not None:
            self.shift(slot, np.concatenate([x.shift for x in folded]))
        explained, correlation, gain = (
            float(np.mean([getattr(x, name) for x in folded])) for name in ("explained", "correlation", "gain")
        )
        return replace(plain, explained=explained, correlation=correlation, gain=gain)

    def blocks(self, linear: Linear) -> list[tuple[ChannelStatistics, Floats]] | str:
        """For each group that is left its statistics and its dense weights `(C, taps, kept outputs)`, or why none."""
        x, y = self.groups.trace.values[linear.x], self.groups.trace.values.get(linear.y)
        f = x.field_on(linear.form.channel_axis(x.rank))
        if f is None or f.joint:
            return "it reads channels that are spread over several axes"
        if self.pruned.users(linear.weight) > 1:
            return "its weight is read by several nodes"
        source = self.source.get(linear.y)
        if y is None or y.shape is None or source is None:
            return "its shape is not known"
        axis, shrunken = linear.form.channel_axis(y.rank), kept_slices(y, self.alive)
        if shrunken is None or any(a != axis for a in shrunken):
            return "its output lost slices of more than its channels"
        stored = numpy_helper.to_array(self.dense.initializers[source.weight])
        matrix = source.matrix(stored)
        groups, _, outputs = matrix.shape
        size = f.labels.size // groups
        stays = np.zeros(groups * outputs, np.bool_)
        stays[shrunken.get(axis, slice(None))] = True
        result = []
        for g, own in enumerate(stays.reshape(groups, outputs)):
            labels = f.labels[g * size : (g + 1) * size]
            if not own.any():
                continue
            found = [s for s in self.statistics if s.tensor == linear.x and np.array_equal(s.labels, labels)]
            if not found:
                return self.unknown.get(linear.x, f"there are no statistics of {linear.x!r}")
            result.append((found[0], matrix[g][:, own].reshape(size, -1, int(own.sum()))))
        return result

    def slot(self, linear: Linear) -> Slot | None:
        """Where the output can be shifted."""
        y = self.groups.trace.values[linear.y]
        matrix = linear.matrix(self.weight(linear.weight))
        axis = linear.form.channel_axis(y.rank)
        return follow(self.pruned, linear, (axis,), y.rank, matrix.shape[0] * matrix.shape[2]).slot

    def shift(self, slot: Slot, amount: Floats) -> None:
        """Adds a number to each output."""
        old = self.weight(slot.tensor)
        factor = np.ones_like(amount) if slot.own else slot.factor
        self.weights[slot.tensor] = (old.astype(np.float64) + (factor * amount).reshape(old.shape)).astype(old.dtype)

    def weight(self, name: str) -> Array:
        """A stored tensor of the pruned model as it is by now."""
        changed = self.weights.get(name)
        return numpy_helper.to_array(self.pruned.initializers[name]) if changed is None else changed


@dataclass(frozen=True)
class Folded:
    """New weights of one group of a linear node.

    Attributes:
        weights: `(kept channels, taps, outputs)`.
        shift: what is added to the bias `(outputs,)`.
        explained: see `Merge`.
        correlation: see `Merge`.
        gain: see `Merge`.
    """

    weights: Floats
    shift: Floats
    explained: float
    correlation: float
    gain: float


def fold(s: ChannelStatistics, stays: Mask, weights: Floats, *, shifts: bool = True, correct: bool = True) -> Folded:
    """Weights with which the kept channels stand for all of them.

    Args:
        s: statistics of all C channels.
        stays: which of them stay `(C,)`.
        weights: of all channels `(C, taps, outputs)`.
        shifts: outputs can be shifted; where they can't, moments about zero take the place of covariances.
        correct: scale outputs to the variance they had.
    """
    covariance = damped(s.covariance, s.rows)
    second = covariance if shifts else covariance + np.outer(s.mean, s.mean)
    here, gone = np.flatnonzero(stays), np.flatnonzero(~stays)
    inner, cross, outer = second[np.ix_(here, here)], second[np.ix_(here, gone)], second[np.ix_(gone, gone)]
    amount = max(STRENGTH * float(np.diagonal(inner).mean()), _TINY)
    m = cho_solve(cho_factor(inner + amount * np.eye(here.size), lower=True), cross)  # (kept, gone)
    lost = weights[gone]
    merged = weights[here] + np.tensordot(m, lost, axes=1)
    read = np.tensordot(lost, lost, axes=([1, 2], [1, 2]))
    residual = outer - cross.T @ m - m.T @ cross + m.T @ inner @ m
    total = float((outer * read).sum())
    explained = 1 - float((residual * read).sum()) / total if total > 0 else 1.0
    gain = np.ones(weights.shape[2])
    if correct:
        before, after = variance(second, weights), variance(inner, merged)
        gain = np.sqrt(np.divide(before, after, out=np.ones_like(before), where=after > _TINY))
        gain = np.clip(gain, 1.0, LARGEST_GAIN)
    merged = merged * gain
    shift = s.mean @ weights.sum(axis=1) - s.mean[here] @ merged.sum(axis=1)
    return Folded(merged, shift, min(max(explained, 0.0), 1.0), _closest(second, here, gone), float(gain.mean()))


def variance(covariance: Floats, weights: Floats) -> Floats:
    """Variance of outputs `(outputs,)` for weights `(C, taps, outputs)`, with taps as alike as `ALIKE` says."""
    taps = np.einsum("cto,cto->o", weights, np.tensordot(covariance, weights, axes=1))
    whole = weights.sum(axis=1)
    together = np.einsum("co,co->o", whole, covariance @ whole)
    return np.asarray((1 - ALIKE) * taps + ALIKE * together)


def _closest(covariance: Floats, here: Array, gone: Array) -> float:
    """Mean over removed channels of the largest magnitude of a correlation with a kept one."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), _TINY))
    correlation = covariance[np.ix_(gone, here)] / np.outer(deviation[gone], deviation[here])
    return float(np.minimum(np.abs(correlation).max(axis=1), 1).mean())
