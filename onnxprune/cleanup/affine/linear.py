"""Convolutions and matrix products: s scales weights, t goes into the bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.affine.affine import Affine
from onnxprune.cleanup.affine.plan import Plan, Rest, down, times, up
from onnxprune.cleanup.reading import Array
from onnxprune.cleanup.registry import Declined

_PRECISE = 1 << 26  # bytes of a weight up to which sums over it are taken in float64


@up("Conv")
def conv_output(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·(W*x + b) + t = (s·W)*x + (s·b + t), s and t by output channel, (C_out, C_in/g, k...)."""
    weight = plan.weight(node, 1)
    scale, shift = affine.along(1, weight.shape[0])
    if affine.scales:
        plan.change(node, 1, times(weight, scale.reshape(-1, *(1,) * (weight.ndim - 1))))
    _bias(plan, node, scale, shift)
    return []


@up("ConvTranspose")
def conv_transpose_output(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """As Conv; the output channels are the second axis of each group's weights, (C_in, C_out/g, k...)."""
    weight = plan.weight(node, 1)
    groups = plan.work.attribute(node, "group", 1)
    inner = weight.shape[1]
    scale, shift = affine.along(1, groups * inner)
    if affine.scales:
        factors = scale.reshape(groups, 1, inner, *(1,) * (weight.ndim - 2))
        plan.change(node, 1, _by_group(weight, factors, groups))
    _bias(plan, node, scale, shift)
    return []


@down("Conv")
def conv_input(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """W*(s·x + t) + b = (W·s)*x + (W·t + b), s and t by input channel.

    1. Padding puts 0 beside s·x + t, not t. So t has to be 0 where there is any.
    """
    if index != 0:
        raise Declined("the tensor is a convolution's weight")
    weight = plan.weight(node, 1)
    groups = plan.work.attribute(node, "group", 1)
    scale, shift = affine.along(1, groups * weight.shape[1])
    padded = any(plan.work.attribute(node, "pads", ()))
    if affine.shifts and (padded or plan.work.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")):
        raise Declined("the convolution pads with zeros, which the constant that is added does not reach")
    tail = (1,) * (weight.ndim - 2)
    if affine.shifts:
        sums = _wide(weight).reshape(*weight.shape[:2], -1).sum(-1).reshape(groups, -1, weight.shape[1])
        _bias(plan, node, np.ones(1), np.einsum("goi,gi->go", sums, shift.reshape(groups, -1)).reshape(-1))
    if affine.scales:
        plan.change(node, 1, _by_group(weight, scale.reshape(groups, 1, -1, *tail), groups))
    return []


@down("ConvTranspose")
def conv_transpose_input(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """As Conv, with s by the first axis of the weights. Positions at the border see fewer taps, so t has to be 0."""
    if index != 0:
        raise Declined("the tensor is a convolution's weight")
    affine.scale_only("the border of a transposed convolution")
    weight = plan.weight(node, 1)
    scale, _ = affine.along(1, weight.shape[0])
    plan.change(node, 1, times(weight, scale.reshape(-1, *(1,) * (weight.ndim - 1))))
    return []


@up("Gemm")
def gemm_output(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """s·(α·A·B + β·C) + t = α·A·(B·s) + β·(C·s + t/β), s and t by column of the output."""
    weight = plan.weight(node, 1)
    columns = 0 if plan.work.attribute(node, "transB", 0) else 1
    scale, shift = affine.along(1, weight.shape[columns])
    if affine.scales:
        plan.change(node, 1, times(weight, scale if columns else scale[:, None]))
    _added(plan, node, scale, shift)
    return []


@down("Gemm")
def gemm_input(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """α·(A·s + t)·B + β·C = α·A·(s·B) + β·(C + α/β·t·B), s and t by column of A."""
    if index != 0:
        raise Declined("the tensor is not the first operand of the Gemm")
    weight = plan.weight(node, 1)
    transposed = plan.work.attribute(node, "transB", 0)
    inner = 1 if transposed else 0
    axis = 0 if plan.work.attribute(node, "transA", 0) else 1
    scale, shift = affine.along(axis, weight.shape[inner])
    if affine.shifts:
        wide = _wide(weight)
        _added(
            plan, node, np.ones(1), plan.work.attribute(node, "alpha", 1.0) * (wide @ shift if transposed else shift @ wide)
        )
    if affine.scales:
        plan.change(node, 1, times(weight, scale if inner else scale[:, None]))
    return []


@up("MatMul")
def matmul_output(plan: Plan, node: ir.Node, _: int, affine: Affine) -> Rest:
    """(A·B)·s = A·(B·s) with s by column; s by row or by matrix goes to A.

    1. With a constant operand, s goes there.
    2. With two activations, s has to be one number; the first of them that can takes it.
    """
    affine.scale_only("a matrix product")
    for index in (1, 0):
        weight = plan.work.constant(node.inputs[index])
        if weight is None or weight.ndim < 2:
            continue
        axis = affine.rank - 1 if index else affine.rank - 2
        scale = affine.along(axis, weight.shape[-1 if index else -2])[0]
        plan.change(node, index, times(weight, scale if index else scale[:, None]))
        return []
    ranks = [plan.work.rank(x) for x in node.inputs]
    if affine.varies or None in ranks:
        raise Declined("a product of two activations can only take over one number")
    for index in (0, 1):
        value = node.inputs[index]
        rest = _uniform(affine, ranks[index] or 0)
        if value is not None and plan.takes(node, index, rest):
            return [(index, rest)]
    raise Declined("neither operand of the matrix product can take it over")


@down("MatMul")
def matmul_input(plan: Plan, node: ir.Node, index: int, affine: Affine) -> Rest:
    """(x·s + t)·B = x·(s·B) + t·B, s and t by column of x; t·B is left for what reads the product."""
    other = node.inputs[1 - index]
    rank = plan.work.rank(node.outputs[0])
    if rank is None:
        raise Declined("the rank of a matrix product is not known")
    weight = plan.work.constant(other)
    if weight is None:
        affine.scale_only("a product of two activations")
        if affine.varies:
            raise Declined("a product of two activations can only take over one number")
        return [(0, _uniform(affine, rank))]
    if index != 0 or weight.ndim != 2 or affine.rank < 2:
        raise Declined("the constant is not the second operand of the matrix product, or no matrix")
    scale, shift = affine.along(affine.rank - 1, weight.shape[0])
    if affine.scales:
        plan.change(node, 1, times(weight, scale[:, None]))
    added = (shift @ _wide(weight) if affine.shifts else np.zeros(1)).reshape((1,) * (rank - 1) + (-1,))
    return [(0, Affine(np.ones((1,) * rank), added))]


def _by_group(weight: Array, factors: Array, groups: int) -> Array:
    """The weight, cut into `groups` blocks along its first axis, times (groups, 1, ...)."""
    if groups == 1:
        return times(weight, factors[0])
    return times(weight.reshape(groups, -1, *weight.shape[1:]), factors).reshape(weight.shape)


def _uniform(affine: Affine, rank: int) -> Affine:
    return Affine(affine.scale.reshape((1,) * rank), affine.shift.reshape((1,) * rank))


def _wide(weight: Array) -> Array:
    return np.asarray(weight, np.float64 if weight.nbytes <= _PRECISE else np.float32)


def _bias(plan: Plan, node: ir.Node, scale: Array, shift: Array) -> None:
    """The third input of a convolution, (C_out,), becomes s·b + t."""
    old = plan.optional(node, 2)
    if old is not None:
        plan.change(node, 2, np.asarray(old, np.float64) * scale + shift)
    elif shift.any():
        plan.change(node, 2, np.array(shift), like=1)


def _added(plan: Plan, node: ir.Node, scale: Array, shift: Array) -> None:
    """The third input of a Gemm, which broadcasts to (M, N), becomes s·C + t/β."""
    old = plan.optional(node, 2)
    beta = plan.work.attribute(node, "beta", 1.0)
    if shift.any() and beta == 0:
        raise Declined("the Gemm multiplies its bias by 0")
    if old is not None:
        plan.change(node, 2, np.asarray(old, np.float64) * scale + shift / (beta or 1.0))
    elif shift.any():
        plan.change(node, 2, shift / beta, like=1)
