from collections.abc import Callable

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
  c = Conv (b, w2)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = MatMul (f, w3)
}
"""
GROUPED = """
<ir_version: 8, opset_import: ["" : 17]>
grouped (float[2, 3, 8, 8] x) => (float[2, 4, 8, 8] y) {
  a = Conv (x, w1)
  b = Conv <group = 4> (a, wg)
  y = Conv (b, w3)
}
"""
ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[2, 5, 6] x) => (float[2, 5, 6] y) {
  split = Constant <value_ints = [0, 0, 4, 4]> ()
  merge = Constant <value_ints = [0, 0, 16]> ()
  q0 = MatMul (x, wq)
  q1 = Reshape (q0, split)
  q = Transpose <perm = [0, 2, 1, 3]> (q1)
  k0 = MatMul (x, wk)
  k1 = Reshape (k0, split)
  k = Transpose <perm = [0, 2, 3, 1]> (k1)
  v0 = MatMul (x, wv)
  v1 = Reshape (v0, split)
  v = Transpose <perm = [0, 2, 1, 3]> (v1)
  s = MatMul (q, k)
  p = Softmax (s)
  o = MatMul (p, v)
  o1 = Transpose <perm = [0, 2, 1, 3]> (o)
  o2 = Reshape (o1, merge)
  h = MatMul (o2, wo)
  u = MatMul (h, w4)
  y = MatMul (u, w5)
}
"""
_SHAPES = {
    CHAIN: {"w1": (12, 3, 3, 3), "b1": (12,), "w2": (10, 12, 1, 1), "w3": (10, 4)},
    GROUPED: {"w1": (16, 3, 1, 1), "wg": (16, 4, 1, 1), "w3": (4, 16, 1, 1)},
    ATTENTION: {
        "wq": (6, 16), "wk": (6, 16), "wv": (6, 16), "wo": (16, 10), "w4": (10, 8), "w5": (8, 6),
    },
}  # fmt: skip


def make(text: str, **given: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in _SHAPES[text].items():
        array = given.get(name, rng.standard_normal(shape))
        assert array.shape == shape
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.fixture
def chain() -> Callable[..., onnx.ModelProto]:
    """12 channels, then 10."""
    return lambda **given: make(CHAIN, **given)


@pytest.fixture
def grouped() -> Callable[..., onnx.ModelProto]:
    """16 channels in 4 groups on both sides."""
    return lambda **given: make(GROUPED, **given)


@pytest.fixture
def attention() -> Callable[..., onnx.ModelProto]:
    """4 heads of 4, then two plain layers."""
    return lambda **given: make(ATTENTION, **given)
