"""Normalizations: per channel they are exact; a statistic over channels makes them inexact."""

from __future__ import annotations

from collections.abc import Iterable

from onnxprune.trace.labels import Field
from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule
from onnxprune.trace.unify import contract


def _scaled(flags: Iterable[bool]) -> bool:
    """X * scale + bias is 0 where scale and bias are, whatever x is."""
    known = list(flags)
    return known[1] and all(known[2:])


@rule("BatchNormalization")
def batch_norm(op: Op) -> None:
    """Scale, bias, mean and variance (C) follow the channel axis; a removed variance is put back as 1."""
    x = op.need(0)
    if not op.attr("spatial", 1):
        op.freeze_all(f"{op.what} normalizes each position for itself")
        return
    names = list(range(x.rank))
    operands = [(x, names), *[(op.need(i), [1]) for i in range(1, 5)]]
    for f in op.need(4).fields:
        op.space.fill(f.labels, 1.0)
    op.outs[0].fields = contract(op.space, operands, names, op.what, zero=lambda flags: all(list(flags)[1:3]))
    for out in op.outs[1:]:
        if out.name and out.rank == 1:
            out.fields = [Field((0,), f.labels, False) for f in op.outs[0].fields if f.axes == (1,)]


@rule("InstanceNormalization")
def instance_norm(op: Op) -> None:
    """Each channel by its own statistics; without epsilon a constant one becomes 0 / 0."""
    x = op.need(0)
    if op.attr("epsilon", 1e-5) == 0:
        op.freeze_all(f"{op.what} has no epsilon")
        return
    for axis in range(2, x.rank):
        op.inexact_axis(x, axis, "mean and variance")
    names = list(range(x.rank))
    op.outs[0].fields = contract(op.space, [(x, names), (op.need(1), [1]), (op.need(2), [1])], names, op.what, zero=_scaled)


@rule("GroupNormalization")
@rule("GroupNorm", domain="com.microsoft")
def group_norm(op: Op) -> None:
    """Whole groups go exactly, channels of every group alike inexactly."""
    x, scale, bias = op.need(0), op.need(1), op.need(2)
    name = "num_groups" if op.node.domain in ("", "ai.onnx", None) else "groups"
    channel = 1 if name == "num_groups" or not op.attr("channels_last", 1) else x.rank - 1
    groups = int(op.attr(name))
    for axis in range(1, x.rank):
        if axis != channel:
            op.inexact_axis(x, axis, "mean and variance")
    labels = op.alone(x, channel)
    if labels is None or labels.size % groups:
        op.freeze_all(f"{op.what} normalizes an axis that can't shrink: {x.reason(channel)}")
        return
    cells = labels.reshape(groups, -1)
    rows = labels
    if cells.shape[1] > 1:
        split = Field((0, 1), cells, True)
        rows = op.space.separate(split, 0)
        op.space.mark_inexact(op.space.separate(split, 1), f"{op.what} computes mean and variance over it")
    op.count(name, None, rows)
    for value in (scale, bias):
        own = op.alone(value, 0)
        if own is not None:
            op.space.tie(own, labels if own.size == labels.size else rows)
    zero = scale.constant and bias.constant and scale.sizes[0] == labels.size
    op.outs[0].fields = [Field((channel,), labels, zero)]


@rule("LayerNormalization", since=17)
@rule("RMSNormalization", since=23)
@rule("SimplifiedLayerNormalization")
@rule("LayerNormalization", "SimplifiedLayerNormalization", domain="com.microsoft")
def layer_norm(op: Op) -> None:
    """Statistics over the axes from `axis` on."""
    x = op.need(0)
    axis = op.axis(default=-1)
    for a in range(axis, x.rank):
        op.inexact_axis(x, a, "a statistic")
    op.pointwise(zero=_scaled)
    for out in op.outs[1:]:
        if out.name and out.shape is not None:
            out.fields = [f for f in x.fields if max(f.axes) < axis]


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_norm(op: Op) -> None:
    """norm(x + skip + bias) * gamma + beta; the last output is the sum itself."""
    x = op.need(0)
    op.pointwise(zero=lambda flags: all(list(flags)[2:3]))
    op.outs[0].fields = [Field(f.axes, f.labels, False) for f in op.outs[0].fields]
    for f in op.outs[0].fields:
        if x.rank - 1 in f.axes:
            op.space.mark_inexact(op.space.across(f, x.rank - 1), f"{op.what} computes a statistic over it")
    if len(op.outs) > 3 and op.outs[3].name:
        addends = [0, 1, 4] if op.node.op == "SkipLayerNormalization" else [0, 1, 3]
        op.pointwise(addends, out=3)


@rule("LRN")
def local_response(op: Op) -> None:
    """Squares of neighbouring channels."""
    op.inexact_axis(op.need(0), 1, "a sum over neighbouring channels")
    op.same()


@rule("LpNormalization")
def lp_norm(op: Op) -> None:
    """X / ||x||: channels that are 0 don't count."""
    x, axis = op.need(0), op.axis(default=-1)
    f = x.field_on(axis)
    if f is not None and not f.zero:
        op.inexact_axis(x, axis, "a norm")
    op.same()
    _freeze_beside(op, {axis}, f"{op.what} divides by its norm, which is 0 once its weights are", zero_only=True)


@rule("MeanVarianceNormalization")
def mean_variance(op: Op) -> None:
    """Statistics over the listed axes."""
    axes = {int(axis) % op.need(0).rank for axis in op.attr("axes", [0, 2, 3])}
    for axis in axes:
        op.inexact_axis(op.need(0), axis, "mean and variance")
    _freeze_beside(op, axes, f"{op.what} divides by its deviation, which is 0 where it is constant")
    op.same(zero=False)


def _freeze_beside(op: Op, axes: set[int], reason: str, *, zero_only: bool = False) -> None:
    """A slice beside the axes of a statistic has one of its own, over nothing but constants once it is removed.

    A field over both goes by whole hyperplanes: of heads that are normalized over their dimensions ONNX Runtime makes zeros.
    """
    for f in op.need(0).fields:
        if axes & set(f.axes):
            op.space.across(f, next(iter(axes & set(f.axes))))
        elif f.zero or not zero_only:
            op.space.freeze(f.labels, reason)
