"""Operators that multiply by weights or contract two activations; attention is in `attention.py`."""

from __future__ import annotations

import math

from onnxprune.profiling.counters import MICROSOFT, Attributes, Shape, Shapes, counts


@counts("", "Conv", "ConvInteger", "DeformConv")
@counts(MICROSOFT, "FusedConv", "NhwcFusedConv")
def _conv(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """Each output element takes C_in / g * kH * kW; W is (C_out, C_in / g, kH, kW)."""
    return math.prod(outputs[0]) * math.prod(inputs[1][1:])


@counts("", "QLinearConv")
@counts(MICROSOFT, "QLinearConv")
def _quantized_conv(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """As Conv; x, its scale and zero point, then W, which keeps its layout with `channels_last` too."""
    return math.prod(outputs[0]) * math.prod(inputs[3][1:])


@counts("", "ConvTranspose")
@counts(MICROSOFT, "ConvTransposeWithDynamicPads")
def _conv_transpose(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """Each input element feeds C_out / g * kH * kW; W is (C_in, C_out / g, kH, kW)."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


@counts("", "Gemm")
@counts(MICROSOFT, "FusedGemm", "GemmFloat8", "QGemm")
def _gemm(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    return math.prod(outputs[0]) * inputs[0][0 if attrs.get("transA", 0) else 1]


@counts("", "MatMul", "MatMulInteger", "QLinearMatMul")
@counts(
    MICROSOFT, "FusedMatMul", "FusedMatMulActivation", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "TransposeMatMul"
)
def _matmul(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    a = inputs[0]
    axis = -1
    if attrs.get("transA", 0) and len(a) > 1:
        # transBatchA moves the first axis behind the batch axes, so there transA contracts the first one.
        axis = 0 if attrs.get("transBatchA", 0) else -2
    return math.prod(outputs[0]) * a[axis]


@counts(MICROSOFT, "MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _packed_matmul(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """The weight (K, N) is packed, so that its shape says little: A has K columns."""
    return math.prod(outputs[0]) * inputs[0][-1]


@counts("", "Einsum")
def _einsum(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """The product of the sizes of all indices, once for every operand after the first: no order of contraction is chosen."""
    equation = attrs["equation"]
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        for index, size in _einsum_indices(term, inputs[position]):
            # An axis of size 1 broadcasts.
            sizes[index] = max(size, sizes.get(index, 0))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _einsum_indices(term: str, shape: Shape) -> list[tuple[str, int]]:
    """The indices of a term with their sizes; those of an ellipsis are named by their distance from its end."""
    before, ellipsis, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after) if ellipsis else 0
    names = [*before, *(f".{distance}" for distance in range(hidden, 0, -1)), *after]
    return list(zip(names, shape, strict=True))


@counts("", "LSTM", "GRU", "RNN")
@counts(MICROSOFT, "DynamicQuantizeLSTM")
def _recurrent(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """Each step of each sequence takes W (D, gates * H, I) and R (D, gates * H, H), or their transposes, once."""
    steps = inputs[0][0] * inputs[0][1]
    return steps * (math.prod(inputs[1]) + math.prod(inputs[2]))
