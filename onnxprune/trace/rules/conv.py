"""Convolutions and what works per channel on images: pooling, resizing, sampling, depth and space."""

from __future__ import annotations

import numpy as np

from onnxprune.trace.labels import Field, Labels
from onnxprune.trace.op import Op
from onnxprune.trace.registry import layout, rule
from onnxprune.trace.unify import contract
from onnxprune.trace.value import Value


@layout("Conv", "ConvTranspose")
@layout("FusedConv", domain="com.microsoft")
def grouped_weight(attrs: dict[str, object], i: int, shape: tuple[int, ...]) -> dict[int, int]:
    """Axis 1 of a grouped weight has one set of channels per group."""
    group = int(str(attrs.get("group", 1)))
    return {1: group} if i == 1 and group > 1 and shape[1] > 1 else {}


def per_group(op: Op, value: Value, axis: int, groups: int) -> Labels | None:
    """Labels `(groups, size)` of an axis that each group has for itself; shared where the weight is computed."""
    if axis in value.blocked:
        return value.blocked[axis]
    labels = op.alone(value, axis)
    return None if labels is None else np.broadcast_to(labels, (groups, labels.size))


def rows(op: Op, cells: Labels) -> Labels:
    """One label per group of `(groups, size)` cells."""
    if cells.shape[1] == 1:
        return cells[:, 0]
    return op.space.separate(Field((0, 1), np.ascontiguousarray(cells), True), 0)


@rule("Conv")
@rule("FusedConv", domain="com.microsoft")
def conv(op: Op) -> None:
    """X (N, C_in, ...), w (C_out, C_in/g, ...): input channels meet w's axis 1, w's axis 0 starts a new field."""
    x, w = op.need(0), op.need(1)
    groups = int(op.attr("group", 1))
    out = op.alone(w, 0)
    into = per_group(op, w, 1, groups)
    _convolve(op, x, w, into, out if out is None else out.reshape(groups, -1), groups)


@rule("ConvTranspose")
def conv_transpose(op: Op) -> None:
    """X (N, C_in, ...), w (C_in, C_out/g, ...)."""
    x, w = op.need(0), op.need(1)
    groups = int(op.attr("group", 1))
    into = op.alone(w, 0)
    _convolve(op, x, w, into if into is None else into.reshape(groups, -1), per_group(op, w, 1, groups), groups)


def _convolve(op: Op, x: Value, w: Value, into: Labels | None, out: Labels | None, groups: int) -> None:
    """Ties input and output channels, both `(groups, size)`."""
    for value in (x, w):
        for axis in range(2, value.rank):
            op.freeze_axis(value, axis, f"{op.what} slides over it")
    for f in x.fields:
        if f.joint and 0 in f.axes:
            op.freeze_axis(x, 0)
    read = op.alone(x, 1)
    cells = None if read is None else read.reshape(groups, -1)
    in_axis = 0 if op.node.op == "ConvTranspose" else 1
    if cells is None and into is not None:
        op.space.freeze(into, f"{op.what} reads {x.reason(1)}")
    if into is None and cells is not None and w.sizes[in_axis] * (1 if in_axis == 0 else groups) > groups:
        op.freeze_axis(x, 1, f"{op.what} reads it with weights that can't shrink: {w.reason(in_axis)}")
    if cells is not None and into is not None:
        op.space.tie(cells, into)
        f_x, f_w = x.field_on(1), w.field_on(in_axis)
        if not (f_x and f_x.zero) and f_w and not f_w.zero:
            op.space.freeze(cells, f"{op.what} sums over values that are not 0 when their weights are")
    if groups > 1:
        _tie_groups(op, cells, out, groups)
    if out is None:
        op.outs[0].why = {1: f"{op.what} has weights that can't shrink: {w.reason(1 - in_axis)}"}
        return
    weight = w.field_on(1 - in_axis)
    fields = [Field((1,), np.ascontiguousarray(out).reshape(-1), weight.zero if weight else True)]
    fields += [f for f in x.fields if f.axes == (0,)]
    _add(op, fields)


def _tie_groups(op: Op, cells: Labels | None, out: Labels | None, groups: int) -> None:
    """A group dies on both sides or not at all; a depthwise channel takes its outputs along."""
    if cells is None or out is None:
        for labels in (cells, out):
            if labels is not None:
                op.space.freeze(rows(op, labels), f"{op.what} has groups that can't be removed on its other side")
        return
    if cells.shape[1] == 1:
        op.space.tie(cells, out)
        op.count("group", None, cells[:, 0])
        return
    labels = rows(op, cells)
    op.space.tie(labels, rows(op, out))
    op.count("group", None, labels)


def _add(op: Op, fields: list[Field]) -> None:
    """Output = product + bias per channel (+ z for the fused form)."""
    out = op.outs[0]
    names = list(range(out.rank))
    operands = [(Value(op.what, out.dtype, out.shape, fields=fields), names)]
    bias, z = op.given(2), op.given(3)
    if bias is not None:
        operands.append((bias, [1]))
    if z is not None:
        operands.append((z, names))
    out.fields = contract(op.space, operands, names, op.what, zero=all) if len(operands) > 1 else fields


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxUnpool")
def pool(op: Op) -> None:
    """Slides over the spatial axes of each channel."""
    x = op.need(0)
    for axis in range(2, x.rank):
        op.freeze_axis(x, axis, f"{op.what} slides over it")
    kept = [f for f in x.fields if max(f.axes) < 2]
    for out in op.outs:
        out.fields = list(kept) if out.name else []
    if len(op.outs) > 1 and op.outs[1].name:
        for f in kept:  # flat positions: they count channels too
            op.space.freeze(f.labels, f"{op.what} returns positions that count channels")


@rule("Resize", "Upsample")
def resize(op: Op) -> None:
    """Axes that keep their length pass; `sizes` names all of them."""
    x, out = op.need(0), op.outs[0]
    for axis in range(x.rank):
        if x.sizes[axis] != out.sizes[axis]:
            op.freeze_axis(x, axis, f"{op.what} changes its length")
    op.outs[0].fields = [f for f in x.fields if all(x.sizes[a] == out.sizes[a] for a in f.axes)]
    if op.node.op == "Resize" and op.given(3) is not None:
        axes = [int(a) % x.rank for a in op.attr("axes", range(x.rank))]
        op.follow(3, dict(enumerate(axes)))


@rule("GridSample", "RoiAlign", "MaxRoiPool", "DeformConv")
def sample(op: Op) -> None:
    """Samples positions of each channel."""
    x = op.need(0)
    if op.node.op == "DeformConv":
        op.freeze_all(f"{op.what}: deformable convolution is not pruned")
        return
    for axis in (0, *range(2, x.rank)):
        op.freeze_axis(x, axis)
    for i in range(1, len(op.ins)):
        op.freeze(op.given(i))
    if op.node.op == "GridSample":
        op.outs[0].fields = [f for f in x.fields if max(f.axes) < 2]
        return
    labels, f = op.alone(x, 1), x.field_on(1)
    op.outs[0].fields = [] if labels is None or f is None else [Field((1,), labels, f.zero)]


@rule("DepthToSpace")
def depth_to_space(op: Op) -> None:
    """All b * b channels that make one output channel go together."""
    x = op.need(0)
    block = int(op.attr("blocksize")) ** 2
    labels = op.alone(x, 1)
    for axis in (2, 3):
        op.freeze_axis(x, axis)
    if labels is None:
        return
    cells = labels.reshape(-1, block) if op.attr("mode", "DCR") == "CRD" else labels.reshape(block, -1).T
    op.space.tie(cells, cells[:, :1])
    f = x.field_on(1)
    op.outs[0].fields = [Field((1,), np.ascontiguousarray(cells[:, 0]), bool(f and f.zero))]


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> None:
    """Output channel = (row in block, column in block, input channel)."""
    x = op.need(0)
    labels = op.alone(x, 1)
    for axis in (2, 3):
        op.freeze_axis(x, axis)
    if labels is not None:
        f = x.field_on(1)
        op.outs[0].fields = [Field((1,), np.tile(labels, int(op.attr("blocksize")) ** 2), bool(f and f.zero))]
