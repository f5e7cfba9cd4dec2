"""Elementwise operators and normalizations: each slice by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.lossless.content import Content, Floats, Numbers, bits
from onnxprune.lossless.interpret import Reading, Unread, reads
from onnxprune.trace.op import Op
from onnxprune.trace.value import Value


def aligned(r: Reading, op: Op, positions: Sequence[int] | None = None) -> list[Content]:
    """Inputs under the axes of the output, told apart alike."""
    rank = op.outs[0].rank
    values = [v for i in (range(len(op.ins)) if positions is None else positions) if (v := op.given(i)) is not None]
    contents, sizes = [], []
    for value in values:
        content = r.content(value)
        padded = (1,) * (rank - value.rank) + value.sizes
        content = content.reshape(*(1,) * (rank - value.rank), *content.shape)
        contents.append(content if padded == op.outs[0].sizes else r.book.renew(content))
        sizes.append(padded)
    return together(r, contents, sizes)


def together(
    r: Reading, contents: Sequence[Content], sizes: Sequence[Sequence[int]], apart: int | None = None
) -> list[Content]:
    """Contents of one rank, the slices of an axis told apart in all or in none; then of one shape but for axis `apart`."""
    result = list(contents)
    rank = len(sizes[0])
    for axis in (a for a in range(rank) if a != apart):
        if any(c.shape[axis] > 1 for c in result):
            result = [r.book.resolve(c, axis, s[axis]) for c, s in zip(result, sizes, strict=True)]
    shape = [max(c.shape[a] for c in result) for a in range(rank)]
    return [c.broadcast([c.shape[a] if a == apart else n for a, n in enumerate(shape)]) for c in result]


def plus(r: Reading, x: Content, y: Content, eps: float) -> Content:
    """Sum of two contents of one shape."""
    same = x.ids == y.ids
    ids = np.where(x.constant, y.ids, x.ids)
    scale = np.where(same, x.scale + y.scale, np.where(x.constant, y.scale, x.scale))
    both = ~x.constant & ~y.constant & ~same
    if both.any():
        keys = np.stack([x.ids[both], y.ids[both]], axis=1)
        ids[both], scale[both] = r.book.cluster(keys, np.stack([x.scale[both], y.scale[both]], axis=1), eps)
    return Content(np.where(scale == 0, 0, ids), scale, x.offset + y.offset)


def times(r: Reading, x: Content, y: Content, eps: float, *, summed: bool = False) -> Content:
    """Product of two contents of one shape; `summed`: products of slices, where a constant is no plain factor."""
    factor, other = np.where(x.constant, x.offset, y.offset), x.constant
    ids = np.where(other, y.ids, x.ids)
    scale, offset = factor * np.where(other, y.scale, x.scale), factor * np.where(other, y.offset, x.offset)
    both = np.ones(x.shape, np.bool_) if summed else ~x.constant & ~y.constant
    if both.any():
        p, q, u, v = x.scale[both], x.offset[both], y.scale[both], y.offset[both]
        keys = np.stack([x.ids[both], y.ids[both]], axis=1)
        ids[both], scale[both] = r.book.cluster(keys, np.stack([p * u, p * v, q * u, q * v], axis=1), eps)
        offset[both] = 0.0
    return Content(np.where(scale == 0, 0, ids), scale, offset)


def exact_keys(contents: Sequence[Content]) -> Numbers:
    """Everything about each slice `(slices, any)`."""
    columns = [np.asarray(a).ravel() for c in contents for a in (c.ids, bits(c.scale), bits(c.offset))]
    return np.stack(columns, axis=1)


def function(r: Reading, op: Op, contents: Sequence[Content], *, known: bool = True) -> Content:
    """Any function of the slices: equal where all operands are; computed where all are constants."""
    keys = exact_keys(contents)
    result = r.book.slices(keys, np.ones((len(keys), 1)), np.zeros(contents[0].shape))
    constants = np.logical_and.reduce([c.constant for c in contents])
    if not known or not constants.any():
        return result
    given = iter(contents)
    values = r.evaluate(op, [None if v is None else _operand(v, next(given).offset) for v in op.ins])
    if values is None or values.shape != result.shape:
        return result
    constants = constants & np.isfinite(values)
    ids, scale = np.where(constants, 0, result.ids), np.where(constants, 0.0, result.scale)
    return Content(ids, scale, np.where(constants, values, 0.0))


def _operand(value: Value, array: Floats) -> Floats:
    """A scalar operand as the scalar it is: some operators take no other."""
    return array if value.rank else array.ravel()[0].reshape(())


def floating(op: Op) -> bool:
    """The operator computes in floats."""
    return op.outs[0].dtype in (1, 10, 11, 16)


@reads("Identity", "Dropout")
def identity(r: Reading, op: Op) -> Sequence[Content | None]:
    """The same."""
    return [r.content(op.need(0))]


@reads("Cast", "CastLike")
def cast(r: Reading, op: Op) -> Sequence[Content | None]:
    """The same number where both types are floats."""
    floats = floating(op) and op.need(0).dtype in (1, 10, 11, 16)
    return identity(r, op) if floats else [function(r, op, aligned(r, op, [0]), known=False)]


@reads("Neg")
def neg(r: Reading, op: Op) -> Sequence[Content | None]:
    """Factor -1."""
    x = r.content(op.need(0))
    if not floating(op):
        return pointwise(r, op)
    return [Content(x.ids, -x.scale, -x.offset)]


@reads("Add", "Sum")
def add(r: Reading, op: Op) -> Sequence[Content | None]:
    """Sum of any number of operands."""
    if not floating(op):
        return pointwise(r, op)
    total, *rest = aligned(r, op)
    for x in rest:
        total = plus(r, total, x, r.eps(op.outs[0]))
    return [total]


@reads("Sub")
def sub(r: Reading, op: Op) -> Sequence[Content | None]:
    """Sum with the second negated."""
    if not floating(op):
        return pointwise(r, op)
    x, y = aligned(r, op)
    return [plus(r, x, Content(y.ids, -y.scale, -y.offset), r.eps(op.outs[0]))]


@reads("Mul")
def mul(r: Reading, op: Op) -> Sequence[Content | None]:
    """Product."""
    if not floating(op):
        return pointwise(r, op)
    x, y = aligned(r, op)
    return [times(r, x, y, r.eps(op.outs[0]))]


@reads("Div")
def div(r: Reading, op: Op) -> Sequence[Content | None]:
    """By a constant, or linear in the dividend."""
    x, y = aligned(r, op)
    if not (y.constant & (y.offset != 0)).all() or not floating(op):
        return [function(r, op, [x, y], known=False)]
    return [Content(x.ids, x.scale / y.offset, x.offset / y.offset)]


@reads("Relu", "LeakyRelu", "PRelu", "Abs")
def homogeneous(r: Reading, op: Op) -> Sequence[Content | None]:
    """f(s x) = s f(x) for s > 0, with equal slopes."""
    x, *slopes = aligned(r, op)
    computed = function(r, op, [x, *slopes])
    keys = np.concatenate([x.ids.reshape(-1, 1), *([exact_keys(slopes)] if slopes else [])], axis=1)
    rows = np.stack([x.scale.ravel(), x.offset.ravel()], axis=1)
    result = r.book.slices(keys, rows, np.zeros(x.shape), r.eps(op.outs[0]), positive=True)
    done = computed.constant
    return [Content(np.where(done, 0, result.ids), np.where(done, 0.0, result.scale), computed.offset)]


@reads(
    "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Tanh", "Erf", "Sign", "Sqrt", "Sin", "Sinh", "Asin", "Asinh",
    "Atan", "Atanh", "Tan", "Softsign", "HardSwish", "Gelu", "Mish", "Swish", "Floor", "Ceil", "Round", "Sigmoid",
    "HardSigmoid", "Exp", "Softplus", "Cos", "Cosh", "Acos", "Acosh", "Not", "Clip", "Log", "Reciprocal", "Max", "Min",
    "Mean", "Or", "Xor", "And", "Mod", "Pow", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where",
    "IsNaN", "IsInf",
)  # fmt: skip
@reads("Gelu", "QuickGelu", "BiasGelu", "FastGelu", domain="com.microsoft")
def pointwise(r: Reading, op: Op) -> Sequence[Content | None]:
    """Any elementwise function."""
    return [function(r, op, aligned(r, op))]


def per_channel(r: Reading, op: Op, first: int) -> tuple[Content, list[Content]]:
    """Input 0 with its channels (axis 1) told apart, and the vectors from `first` on, aligned with it."""
    x = op.need(0)
    vectors = []
    for i in range(first, len(op.ins)):
        content = r.only(op.need(i), [0])
        vectors.append(content.reshape(*[-1 if a == 1 else 1 for a in range(x.rank)]))
    content = r.book.resolve(r.content(x), 1, x.sizes[1])
    return content, [v.broadcast(content.shape) for v in vectors]


@reads("BatchNormalization")
def batch_norm(r: Reading, op: Op) -> Sequence[Content | None]:
    """Affine per channel."""
    if op.attr("training_mode", 0) or not op.attr("spatial", 1) or len([o for o in op.outs if o.name]) > 1:
        return []
    x, vectors = per_channel(r, op, 1)
    if not all(v.constant.all() for v in vectors):
        return []
    scale, bias, mean, var = (v.offset for v in vectors)
    factor = scale / np.sqrt(var + float(op.attr("epsilon", 1e-5)))
    scaled = factor * x.scale
    return [Content(np.where(scaled == 0, 0, x.ids), scaled, factor * (x.offset - mean) + bias)]


@reads("InstanceNormalization")
def instance_norm(r: Reading, op: Op) -> Sequence[Content | None]:
    """Any function per channel."""
    x, vectors = per_channel(r, op, 1)
    return [function(r, op, [x, *vectors], known=False)]


@reads("Softmax", "LogSoftmax", "Hardmax")
def softmax(r: Reading, op: Op) -> Sequence[Content | None]:
    """Any function of whole rows; before opset 13 of all axes from `axis` on."""
    x, axis = op.need(0), op.axis(default=-1 if op.version >= 13 else 1)
    content = r.book.collapse(r.content(x), [axis] if op.version >= 13 else range(axis, x.rank), r.eps(x))
    return [function(r, op, [content], known=False)]


@reads(
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "GroupNormalization", "MeanVarianceNormalization", "LRN", "CumSum", "TopK", "Trilu", "ReverseSequence",
    "DepthToSpace", "SpaceToDepth", "GridSample", "Shape", "Size", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
@reads("LayerNormalization", "SimplifiedLayerNormalization", "GroupNorm", domain="com.microsoft")
def apart(r: Reading, op: Op) -> Sequence[Content | None]:
    """Nothing is known of what comes out, but no channel that can go exactly ends here or meets another one."""
    if op.node.op == "DequantizeLinear" and int(op.attr("block_size", 0)):
        raise Unread
    return []
