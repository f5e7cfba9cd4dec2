"""Elementwise operators: they tie what they combine, and keep the axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.trace.op import Op, never
from onnxprune.trace.registry import rule


def _nth(*positions: int) -> object:
    def zero(flags: Iterable[bool]) -> bool:
        known = list(flags)
        return all(p < len(known) and known[p] for p in positions)

    return zero


@rule(
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Tanh", "Erf", "Abs", "Neg", "Sign", "Sqrt",
    "Sin", "Sinh", "Asin", "Asinh", "Atan", "Atanh", "Tan", "Softsign", "HardSwish", "Gelu", "Mish", "Swish", "Floor",
    "Ceil", "Round", "Identity", "Cast", "IsNaN", "IsInf",
)  # fmt: skip
def keeps_zero(op: Op) -> None:
    """f(0) = 0."""
    op.same()


@rule("CastLike")
def cast_like(op: Op) -> None:
    """Of the second input only the type is read."""
    op.same()
    for f in op.need(1).fields:
        op.space.end(f.labels)


@rule("Sigmoid", "HardSigmoid", "Exp", "Softplus", "Cos", "Cosh", "Acos", "Acosh", "Not", "BitwiseNot")
def loses_zero(op: Op) -> None:
    """f(0) != 0."""
    op.same(zero=False)


@rule("Gelu", "QuickGelu", domain="com.microsoft")
def runtime_gelu(op: Op) -> None:
    """X * Phi(x) and x * sigmoid(alpha x)."""
    op.same()


@rule("BiasGelu", "FastGelu", domain="com.microsoft")
def bias_gelu(op: Op) -> None:
    """gelu(x + bias)."""
    op.pointwise()


@rule("Dropout")
def dropout(op: Op) -> None:
    """Identity in inference; the mask is all ones."""
    op.same()
    if len(op.outs) > 1 and op.outs[1].name and op.outs[1].shape == op.need(0).shape:
        op.same(out=1, zero=False)


@rule("Clip")
def clip(op: Op) -> None:
    """Keeps zero where 0 lies between the bounds."""
    low = op.attr("min", -np.inf) if op.given(1) is None else op.static(1)
    high = op.attr("max", np.inf) if op.given(2) is None else op.static(2)
    op.same(zero=low is not None and high is not None and float(low) <= 0 <= float(high))


@rule("Log", "Reciprocal")
def singular_at_zero(op: Op) -> None:
    """Infinite at 0: a removed channel of a weight is put back as 1, one of an activation can't be."""
    _never_zero(op, 0)
    op.same(zero=False)


def _never_zero(op: Op, i: int) -> None:
    value = op.need(i)
    for f in value.fields:
        if value.constant:
            op.space.fill(f.labels, 1.0)
        elif f.zero:
            op.space.freeze(f.labels, f"{op.what} divides by it, and it is 0 once its weights are")


@rule("Add", "Sub", "Sum", "Max", "Min", "Mean", "Or", "Xor", "BitwiseOr", "BitwiseXor")
def sums(op: Op) -> None:
    """0 where all operands are."""
    op.pointwise(zero=all)


@rule("Mul", "And", "BitwiseAnd")
def products(op: Op) -> None:
    """0 where any operand is."""
    op.pointwise(zero=any)


@rule("PRelu", "Mod", "BitShift")
def first_decides(op: Op) -> None:
    """0 where the first operand is."""
    op.pointwise(zero=_nth(0))  # type: ignore[arg-type]


@rule("Div")
def quotient(op: Op) -> None:
    """0 where the dividend is; the divisor must not be."""
    _never_zero(op, 1)
    op.pointwise(zero=_nth(0))  # type: ignore[arg-type]


@rule("Pow")
def power(op: Op) -> None:
    """0 where the base is and the exponent is known to be positive."""
    exponent = op.static(1)
    positive = exponent is not None and bool(np.all(exponent > 0))
    if not positive:
        _never_zero(op, 0)
    op.pointwise(zero=_nth(0) if positive else never)  # type: ignore[arg-type]


@rule("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def comparisons(op: Op) -> None:
    """Comparisons say nothing about zero."""
    op.pointwise(zero=never)


@rule("Where")
def where(op: Op) -> None:
    """0 where both alternatives are."""
    op.pointwise(zero=_nth(1, 2))  # type: ignore[arg-type]


@rule("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(op: Op) -> None:
    """Normalizes over one axis, which can't shrink."""
    op.freeze_axis(op.need(0), op.axis(default=-1))
    op.same(zero=False)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax_flattened(op: Op) -> None:
    """Before opset 13 the axes from `axis` on are normalized together."""
    for axis in range(op.axis(default=1), op.need(0).rank):
        op.freeze_axis(op.need(0), axis)
    op.same(zero=False)


@rule("CumSum", "CumProd")
def cumulative(op: Op) -> None:
    """Runs along one axis, which can't shrink."""
    axis = op.static(1)
    rank = op.need(0).rank
    for a in range(rank) if axis is None else [int(axis) % rank]:
        op.freeze_axis(op.need(0), a)
    op.same()


@rule("TopK")
def top_k(op: Op) -> None:
    """Chooses along one axis, which can't shrink."""
    op.freeze_axis(op.need(0), op.axis(default=-1))
    axis = op.axis(default=-1)
    for out in range(len(op.outs)):
        op.same(out=out, zero=out == 0)
        op.outs[out].fields = [f for f in op.outs[out].fields if axis not in f.axes]


@rule("Trilu")
def triangle(op: Op) -> None:
    """Keeps a triangle of the last two axes."""
    value = op.need(0)
    for axis in (value.rank - 2, value.rank - 1):
        op.freeze_axis(value, axis)
    op.same()


@rule("ReverseSequence")
def reverse_sequence(op: Op) -> None:
    """Reverses along the time axis per batch element."""
    for axis in (int(op.attr("time_axis", 0)), int(op.attr("batch_axis", 1))):
        op.freeze_axis(op.need(0), axis)
    op.same()


@rule("DFT")
def dft(op: Op) -> None:
    """Fourier transform along one axis; the last axis holds real and imaginary part."""
    value = op.need(0)
    given = op.static(2) if op.given(2) is not None else op.attr("axis", -2 if op.version >= 20 else 1)
    for axis in range(value.rank) if given is None else [int(given) % value.rank, value.rank - 1]:
        op.freeze_axis(value, axis)
    op.outs[0].fields = (
        [f for f in value.fields if all(op.outs[0].sizes[a] == value.sizes[a] for a in f.axes)]
        if op.outs[0].rank == value.rank
        else []
    )


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(op: Op) -> None:
    """Affine per tensor or per axis: scale and zero point share the labels of that axis.

    "Zero" is the zero point on the quantized side.
    """
    x, scale = op.need(0), op.need(1)
    axis = int(op.attr("axis", 1)) % max(x.rank, 1)
    parameters: Sequence[int] = [i for i in (1, 2) if op.given(i) is not None]
    op.same()
    if int(op.attr("block_size", 0)):
        op.freeze_all(f"{op.what} is quantized in blocks")
        op.outs[0].fields = []
        return
    zero_point = op.static(2)
    if op.node.op == "DequantizeLinear" and x.constant and zero_point is not None and zero_point.size == 1:
        for f in x.fields:
            op.space.fill(f.labels, float(zero_point.ravel()[0]))
    if scale.rank == 0 or scale.sizes == (1,):
        return
    for i in parameters:
        op.tie_axis(op.need(i), 0, op.alone(x, axis), f"{op.what} quantizes an axis that can't shrink: {x.reason(axis)}")
    for f in scale.fields:
        op.space.fill(f.labels, 1.0)


@rule(
    "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear",
)  # fmt: skip
def integer_arithmetic(op: Op) -> None:
    """Fused integer arithmetic is left alone."""
    op.freeze_all(f"{op.what} computes in integers: prune the float model, then quantize it")
