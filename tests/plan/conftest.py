import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[2, 3, 8, 8] x) => (float[2, 4] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  b = Relu (a)
  c = Conv <group = 2> (b, wg)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = MatMul (f, w3)
}
"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "wg": (6, 4, 1, 1), "w3": (6, 4)}


def make(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


@pytest.fixture
def model() -> onnx.ModelProto:
    """Eight channels into two groups of four, six out."""
    return make(CHAIN, SHAPES)


@pytest.fixture
def other() -> onnx.ModelProto:
    """The same with other weights."""
    return make(CHAIN, SHAPES, seed=1)
