"""Models to import and export, and the parts of a graph by name."""

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper


def data(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def parse(text: str, **initializers) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, value in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def node_of(graph: gs.Graph, op: str) -> gs.Node:
    return next(node for node in graph.nodes if node.op == op)


def constant_of(graph: gs.Graph, name: str) -> gs.Constant:
    found = [t for node in graph.nodes for t in node.inputs if t.name == name]
    assert isinstance(found[0], gs.Constant)
    return found[0]


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def identity_of(name: str) -> onnx.GraphProto:
    """A body that captures a value."""
    node = helper.make_node("Identity", [name], ["i"])
    return helper.make_graph([node], "body", [], [helper.make_empty_tensor_value_info("i")])


CONV = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "test">
agraph (float[1, 3, 8, 8] x) => (float[1, 6] y)
<float[1, 4, 6, 6] h, float[1, 4, 6, 6] r, float[4, 3, 3, 3] w>
{
  h = Conv <kernel_shape = [3, 3], auto_pad = "NOTSET"> (x, w, b)
  r = LeakyRelu <alpha = 0.25> (h)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, v, c)
}
"""


IF = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[2] x, bool c) => (float[2] y)
{
  h = Relu (x)
  y = If (c) <
    then_branch = t () => (float[2] a) <float[2] k> {
      k = Mul (h, outer)
      a = LeakyRelu <alpha = 0.5> (k)
    },
    else_branch = e () => (float[2] b) {
      n = Not (c)
      b = If (n) <then_branch = t2 () => (float[2] d) { d = Add (h, inner) },
                  else_branch = e2 () => (float[2] d2) { d2 = Identity (outer) }>
    }
  >
}
"""
