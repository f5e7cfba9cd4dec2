"""What can be said about a model without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto

from onnxprune.errors import ModelError
from onnxprune.io.walk import graphs, tensors

_INDICES = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING, TensorProto.UINT64}


def count_parameters(model: onnx.ModelProto) -> int:
    """Elements of all stored tensors but those of indices, shapes and texts; quantized weights count."""
    return sum(math.prod(t.dims) for t in tensors(model) if t.data_type not in _INDICES)


def count_nodes(model: onnx.ModelProto) -> int:
    """Nodes of the graph and of all bodies."""
    return sum(len(graph.node) for graph in graphs(model))


def count_model_macs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Multiply-accumulates of one run; None where the model can't be followed at these shapes.

    Args:
        model: any model.
        shapes: of all inputs.
    """
    from onnxprune.profiling.count import profile

    try:
        return profile(model, shapes).macs
    except ModelError:  # a model that runs may still be one whose shapes can't be followed
        return None
