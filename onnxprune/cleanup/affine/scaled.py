"""Operators with a scale or a bias of their own, which take over s, t or both."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.affine.affine import Affine, affine_of, compact
from onnxprune.cleanup.affine.plan import Plan, Rest, down, times, up
from onnxprune.cleanup.reading import Array, full_name
from onnxprune.cleanup.registry import Declined

_CHANNELS = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")


@up(*_CHANNELS)
def normalized_by_channel(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """s·(g·n(x) + b) + t = (s·g)·n(x) + (s·b + t), all by channel, (C,)."""
    if index or (full_name(node) == "BatchNormalization" and affine_of(plan.work, node) is None):
        raise Declined("the normalization does not work by stored statistics")
    if full_name(node) == "GroupNormalization" and plan.work.opset < 21:
        raise Declined("GroupNormalization has one scale for each group before opset 21")
    gain, bias = (np.asarray(plan.weight(node, k), np.float64) for k in (1, 2))
    scale, shift = affine.along(1, len(gain))
    if affine.scales:
        plan.change(node, 1, gain * scale)
    plan.change(node, 2, bias * scale + shift)
    return []


@down("BatchNormalization")
def normalization_input(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """g·(s·x + t - m) + b = (g·s)·x + (b + g·(t - m)) with g = scale / sqrt(variance + ε).

    The statistics stay: scale becomes s·scale, and the bias b + g·(t - m + s·m).
    """
    if index or affine_of(plan.work, node) is None:
        raise Declined("the normalization does not work by stored statistics")
    gain, bias, mean, variance = (np.asarray(plan.weight(node, k), np.float64) for k in (1, 2, 3, 4))
    scale, shift = affine.along(1, len(gain))
    factor = gain / np.sqrt(variance + plan.work.attribute(node, "epsilon", 1e-5))
    plan.change(node, 1, gain * scale)
    plan.change(node, 2, bias + factor * (shift - mean + scale * mean))
    return []


@up("LayerNormalization", "RMSNormalization")
def normalized_by_position(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """s·(g·n(x) + b) + t = (s·g)·n(x) + (s·b + t) over the normalized axes; RMSNormalization has no b."""
    axis = plan.work.attribute(node, "axis", -1) % affine.rank
    affine.constant_along(set(range(axis)), "the normalization has no scale")
    scale, shift = (a.reshape(a.shape[axis:]) for a in (affine.scale, affine.shift))
    gain = plan.weight(node, 1)
    if affine.scales:
        plan.change(node, 1, _same_shape(times(gain, scale), gain))
    if full_name(node) == "RMSNormalization":
        affine.scale_only("RMSNormalization")
        return []
    bias = plan.optional(node, 2)
    if bias is not None:
        plan.change(node, 2, _same_shape(np.asarray(bias, np.float64) * scale + shift, bias))
    elif affine.shifts:
        plan.change(node, 2, np.array(np.broadcast_to(shift, gain.shape)), like=1)
    return []


@up("Mul", "Div")
def product(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·(c·x) = (s·c)·x; of two activations, the first that can takes s over."""
    affine.scale_only(full_name(node))
    constant = _constant_operand(plan, node)
    if constant is not None:
        factor = affine.scale if full_name(node) == "Mul" or constant == 0 else 1 / _nonzero(affine.scale)
        plan.change(node, constant, _operand(plan, node, constant, factor, None))
        return []
    for index in (0, 1) if full_name(node) == "Mul" else (0,):
        rest = _not_broadcast(plan, node, index, affine)
        if rest is not None and plan.takes(node, index, rest):
            return [(index, rest)]
    raise Declined(f"neither operand of {full_name(node)} can take it over")


@up("Add", "Sub", "Sum")
def summed(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·(x ± c) + t = s·x ± (s·c ± t): a constant takes t over, s goes on to all others."""
    signs = [-1.0 if full_name(node) == "Sub" and k else 1.0 for k in range(len(node.inputs))]
    constant = _constant_operand(plan, node)
    if constant is not None:
        added = signs[constant] * affine.shift
        plan.change(node, constant, _operand(plan, node, constant, affine.scale, added))
    elif affine.shifts:
        raise Declined("a sum of activations has no constant to add to")
    rest: Rest = []
    for index in range(len(node.inputs)):
        if index != constant:
            part = _not_broadcast(plan, node, index, affine.only(scale=True))
            if part is None:
                raise Declined("an operand of the sum is broadcast")
            rest.append((index, part))
    return rest


@down("Mul", "Div")
def factor(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """(s·x)·c = x·(s·c); with two activations s is left for what reads the product."""
    if full_name(node) == "Div" and index == 1:
        raise Declined("the tensor is a divisor")
    affine.scale_only(full_name(node))
    constant = _constant_operand(plan, node)
    if constant is None:
        return [(0, _grown(plan, node, affine))]
    factor = affine.scale if full_name(node) == "Mul" else 1 / _nonzero(affine.scale)
    plan.change(node, constant, _operand(plan, node, constant, factor, None))
    return []


@down("Add", "Sub", "Sum")
def summand(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """(x + t) ± c = x ± (c ± t); with activations alone t is left for what reads the sum. s has to be 1."""
    if affine.scales:
        raise Declined("the other operand of a sum would have to be scaled too")
    negative = full_name(node) == "Sub" and index == 1
    shift = Affine(affine.scale, -affine.shift if negative else affine.shift)
    constant = _constant_operand(plan, node)
    if constant is None:
        return [(0, _grown(plan, node, shift))]
    added = -shift.shift if full_name(node) == "Sub" and constant == 1 else shift.shift
    plan.change(node, constant, _operand(plan, node, constant, np.ones(()), added))
    return []


@up("Gather")
def table(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·W[i] + t = (s·W + t)[i] for a table W, s and t constant over the indices."""
    if not plan.work.is_constant(node.inputs[0]):
        return _gathered(plan, node, affine)
    weight = plan.weight(node, 0)
    indices = affine.rank - weight.ndim + 1
    axis = plan.work.attribute(node, "axis", 0) % weight.ndim
    affine.constant_along(set(range(axis, axis + indices)), "the table is read")

    def move(a: Array) -> Array:
        return a.reshape(*a.shape[:axis], 1, *a.shape[axis + indices :])

    moved = affine.moved(move)
    changed = times(weight, moved.scale)
    plan.change(node, 0, _same_shape(changed + moved.shift if affine.shifts else changed, weight))
    return []


def _gathered(plan: Plan, node: ir.Node, affine: Affine) -> Rest:
    rank = plan.work.rank(node.inputs[0])
    if rank is None:
        raise Declined("the rank of the gathered tensor is not known")
    axis = plan.work.attribute(node, "axis", 0) % rank
    indices = affine.rank - rank + 1
    affine.constant_along(set(range(axis, axis + indices)), "slices are gathered")

    def move(a: Array) -> Array:
        return a.reshape(*a.shape[:axis], 1, *a.shape[axis + indices :])

    return [(0, affine.moved(move))]


def _constant_operand(plan: Plan, node: ir.Node) -> int | None:
    found = [k for k, x in enumerate(node.inputs) if plan.work.is_constant(x)]
    return found[0] if len(found) == 1 else None


def _operand(plan: Plan, node: ir.Node, index: int, factor: Array, added: Array | None) -> Array:
    """The constant operand times `factor` plus `added`, of the fewest axes."""
    array = plan.weight(node, index)
    changed = times(array, factor) if added is None else np.asarray(array, np.float64) * factor + added
    if changed.size != array.size:
        changed = compact(changed)
    lead = 0
    while changed.ndim - lead > array.ndim and changed.shape[lead] == 1:
        lead += 1
    return changed.reshape(changed.shape[lead:])


def _not_broadcast(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Affine | None:
    """The function for one operand; None where that is broadcast along an axis along which the function differs."""
    shape = plan.work.shape(node.inputs[index])
    if shape is None:
        return None
    lead = affine.rank - len(shape)
    if any(a < lead or shape[a - lead] == 1 or not isinstance(shape[a - lead], int) for a in affine.varies):
        return None
    return affine.moved(lambda a: a.reshape(a.shape[lead:]))


def _grown(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """The function with the rank of the node's output."""
    rank = plan.work.rank(node.outputs[0])
    if rank is None or rank < affine.rank:
        raise Declined(f"the rank of what {full_name(node)} computes is not known")
    return affine.moved(lambda a: a.reshape((1,) * (rank - affine.rank) + a.shape))


def _nonzero(array: Array) -> Array:
    if (array == 0).any():
        raise Declined("a divisor would become infinite")
    return array


def _same_shape(changed: Array, old: Array) -> Array:
    if math.prod(changed.shape) != math.prod(old.shape):
        raise Declined("the weights of the node would get larger")
    return changed.reshape(old.shape)
