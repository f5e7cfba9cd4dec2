"""Counts multiply-accumulates (MACs) of nodes from shapes alone. 1 MAC = 2 FLOPs.

Counted are the operators that contract an axis (`contractions.py`) and fused attention (`attention.py`), the quantized ones
and those that ONNX Runtime fuses among them. Elementwise work, normalization, pooling, resampling, Fourier transforms and
data movement count 0. Border positions of a Conv count like inner ones. All steps of a recurrent layer count, whatever
`sequence_lens` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.profiling import attention, contractions  # noqa: F401  (they register their counters)
from onnxprune.profiling.counters import COUNTERS, MICROSOFT, Attributes, Shape, Shapes, UnknownShapeError

_STANDARD = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"}
# Operators of ONNX Runtime that contract nothing. Those named neither here nor in the counters are not known.
_LIGHT = {
    "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "BitmaskBiasDropout", "BitmaskDropout", "CDist",
    "ConvTransposeBias", "CropAndResize", "DequantizeLinear", "DynamicTimeWarping", "EmbedLayerNormalization",
    "ExpandDims", "FastGelu", "GatherBlockQuantized", "GatherND", "Gelu", "GridSample", "GroupNorm", "NhwcMaxPool", "Pad",
    "QEmbedLayerNormalization", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
    "QuantizeLinear", "QuickGelu", "RemovePadding", "RestorePadding", "RotaryEmbedding", "SkipGroupNorm",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "Tokenizer", "Trilu",
    "Unique", "UnfoldTensor",
}  # fmt: skip


def is_counted(op_type: str, domain: str = "") -> bool:
    """Whether an operator multiplies and adds, so that its MACs are counted."""
    return ("" if domain == "ai.onnx" else domain, op_type) in COUNTERS


def node_macs(
    op_type: str,
    domain: str,
    attrs: Attributes,
    input_shapes: Sequence[Shape | None],
    output_shapes: Sequence[Shape | None],
) -> int:
    """MACs of one node; 0 where `known_macs` says that they can't be told."""
    return known_macs(op_type, domain, attrs, input_shapes, output_shapes) or 0


def known_macs(
    op_type: str,
    domain: str,
    attrs: Attributes,
    input_shapes: Sequence[Shape | None],
    output_shapes: Sequence[Shape | None],
) -> int | None:
    """MACs of one node; None if a shape the count needs is not known, or nobody knows what the operator does.

    Args:
        op_type: Such as "Conv".
        domain: Such as "com.microsoft"; "" and "ai.onnx" are the same.
        attrs: The node's attributes as Python values (strings as str or bytes).
        input_shapes: One shape per input, None for an omitted one.
        output_shapes: One shape per output.
    """
    counter = COUNTERS.get(("" if domain == "ai.onnx" else domain, op_type))
    if counter is None:
        return 0 if domain in _STANDARD or (domain == MICROSOFT and op_type in _LIGHT) else None
    try:
        return counter(attrs, Shapes(input_shapes), Shapes(output_shapes))
    except UnknownShapeError:
        return None
