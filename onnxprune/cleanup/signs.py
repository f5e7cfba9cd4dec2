"""What is known of the sign of a tensor's elements, by how they are made."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.work import Work

_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus", "Sqrt")
_KEEPS_SIGN = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "Concat",
    "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity", "Dropout",
)  # fmt: skip
_DEPTH = 8


def not_negative(work: Work, value: ir.Value | None, depth: int = _DEPTH) -> bool:
    """No element of the value is negative."""
    node = work.producer(value)
    if node is None or depth == 0:
        return False
    op = full_name(node)
    if op in _NOT_NEGATIVE:
        return True
    if op == "Clip":
        low = work.attribute(node, "min") if work.opset < 11 else work.scalar(work.input(node, 1))
        return low is not None and low >= 0
    if op in _KEEPS_SIGN:
        data = node.inputs if op == "Concat" else node.inputs[:1]
        return all(not_negative(work, v, depth - 1) for v in data)
    return op in ("Add", "Mul", "Sum") and all(not_negative(work, v, depth - 1) for v in node.inputs)
