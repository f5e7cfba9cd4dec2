"""Pointwise functions, pools and joins, which hand s and t on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.affine.affine import Affine
from onnxprune.cleanup.affine.plan import Plan, Rest, down, up
from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.reductions import given_axes
from onnxprune.cleanup.registry import Declined

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Abs")
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool")
_MEANS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")


@up(*_HOMOGENEOUS)
@down(*_HOMOGENEOUS)
def homogeneous(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """f(s·x) = s·f(x) for s > 0."""
    if index:
        raise Declined("the tensor is the slope of a PRelu")
    affine.scale_only(full_name(node))
    _positive(affine, full_name(node))
    return [(0, affine)]


@up("Clip")
def clipped(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·clip(x, a, b) + t = clip(s·x + t, s·a + t, s·b + t) for one number s > 0."""
    _positive(affine, "Clip")
    if affine.varies:
        raise Declined("the bounds of a Clip are the same for all channels")
    if plan.work.opset < 11:
        raise Declined("the bounds of a Clip are attributes before opset 11")
    for index in (1, 2):
        bound = plan.optional(node, index)
        if bound is not None:
            plan.change(node, index, (np.asarray(bound, np.float64) * affine.scale + affine.shift).reshape(bound.shape))
    return [(0, affine)]


@up(*_POOLS)
@down(*_POOLS)
def pooled(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """pool(s·x + t) = s·pool(x) + t for s and t constant over positions.

    1. MaxPool: s > 0, and nobody reads its indices.
    2. AveragePool that counts zeros of its padding: t = 0.
    """
    if index or len(node.outputs) > 1:
        raise Declined("positions of the largest elements are read")
    affine.constant_along(set(range(2, affine.rank)), "it pools")
    if "Max" in full_name(node):
        _positive(affine, full_name(node))
    elif plan.work.attribute(node, "count_include_pad", 0):
        affine.scale_only("an AveragePool that counts its padding")
    return [(0, affine)]


@up(*_MEANS)
def reduced(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·mean(x) + t = mean(s·x + t) for s and t constant over the axes it runs over.

    1. A maximum or minimum needs s > 0; a sum takes no t.
    """
    axes = _axes(plan, node)
    _extremes(node, affine)
    if plan.work.attribute(node, "keepdims", 1):
        affine.constant_along(axes, "it reduces")
        return [(0, affine)]
    return [(0, affine.moved(lambda a: np.expand_dims(a, tuple(sorted(axes)))))]


@down(*_MEANS)
def reducing(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """As `reduced`, from the input on."""
    if index:
        raise Declined("the tensor says which axes are reduced")
    axes = _axes(plan, node)
    affine.constant_along(axes, "it reduces")
    _extremes(node, affine)
    if plan.work.attribute(node, "keepdims", 1):
        return [(0, affine)]
    return [(0, affine.moved(lambda a: a.squeeze(tuple(axes))))]


def _length(plan: Plan, node: ir.Node, value: ir.Value | None, axis: int) -> int:
    """Of a part of a Concat or Split."""
    shape = plan.work.shape(value)
    size = shape[axis] if shape is not None else None
    if not isinstance(size, int):
        raise Declined(f"the length of a part of the {node.op_type} is not known")
    return size


@up("Concat")
def joined(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·concat(x, y) + t = concat(s1·x + t1, s2·y + t2): each part takes its own."""
    axis = plan.work.attribute(node, "axis", 0) % affine.rank
    rest: Rest = []
    start = 0
    for index, value in enumerate(node.inputs):
        part = affine
        if axis in affine.varies:
            size = _length(plan, node, value, axis)
            part = _cut(affine, axis, start, start + size)
            start += size
        rest.append((index, part))
    return rest


@down("Concat")
def joining(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """concat(s·x + t, y) = [s, 1]·concat(x, y) + [t, 0]."""
    axis = plan.work.attribute(node, "axis", 0) % affine.rank
    return [(0, _among(affine, axis, [_length(plan, node, v, axis) for v in node.inputs], index))]


@up("Split")
def split(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """The other parts of the input get s = 1 and t = 0."""
    axis = plan.work.attribute(node, "axis", 0) % affine.rank
    return [(0, _among(affine, axis, [_length(plan, node, v, axis) for v in node.outputs], index))]


@down("Split")
def splitting(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """Each part gets its own."""
    axis = plan.work.attribute(node, "axis", 0) % affine.rank
    rest: Rest = []
    start = 0
    for k, value in enumerate(node.outputs):
        size = _length(plan, node, value, axis)
        rest.append((k, _cut(affine, axis, start, start + size)))
        start += size
    return rest


def _positive(affine: Affine, what: str) -> None:
    if (affine.scale <= 0).any():
        raise Declined(f"a factor that is not positive does not go through {what}")


def _extremes(node: ir.Node, affine: Affine) -> None:
    if full_name(node) == "ReduceSum":
        affine.scale_only("a sum")
    elif full_name(node) != "ReduceMean":
        _positive(affine, full_name(node))


def _axes(plan: Plan, node: ir.Node) -> set[int]:
    axes = given_axes(plan.work, node)
    if not axes:
        raise Declined(f"the axes of {full_name(node)} are not known")
    return set(axes)


def _cut(affine: Affine, axis: int, start: int, stop: int) -> Affine:
    return affine.moved(lambda a: a if a.shape[axis] == 1 else np.take(a, range(start, stop), axis))


def _among(affine: Affine, axis: int, sizes: list[int], index: int) -> Affine:
    def spread(a: object, fill: float) -> object:
        assert isinstance(a, np.ndarray)
        shape = list(a.shape)
        parts = []
        for k, size in enumerate(sizes):
            shape[axis] = size
            parts.append(np.broadcast_to(a, shape) if k == index else np.full(shape, fill))
        return np.concatenate(parts, axis)

    scale, shift = spread(affine.scale, 1.0), spread(affine.shift, 0.0)
    assert isinstance(scale, np.ndarray) and isinstance(shift, np.ndarray)
    return Affine(scale, shift)
