"""bfloat16 models as float32 ones: few bfloat16 kernels exist on a CPU, and a proof in float32 is the stricter one."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnxprune.io.walk import graphs


def is_narrow(model: onnx.ModelProto) -> bool:
    """Some weight, input or cast is bfloat16."""
    for graph in graphs(model):
        if any(t.data_type == TensorProto.BFLOAT16 for t in graph.initializer):
            return True
        if any(v.type.tensor_type.elem_type == TensorProto.BFLOAT16 for v in graph.input):
            return True
        for node in graph.node:
            if any(a.t.data_type == TensorProto.BFLOAT16 or _casts(node, a) for a in node.attribute):
                return True
    return False


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every bfloat16 is a float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in graphs(wide):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                _widen(attribute.t)
                if _casts(node, attribute):
                    attribute.i = TensorProto.FLOAT
    return wide


def _casts(node: onnx.NodeProto, attribute: AttributeProto) -> bool:
    """A type attribute (`to` of Cast, `dtype` of random operators) that names bfloat16."""
    return attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.BFLOAT16


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
