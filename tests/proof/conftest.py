from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper


@pytest.fixture
def make() -> Callable[..., onnx.ModelProto]:
    """A model from ONNX text; weights are shapes or arrays."""

    def build(text: str, **weights: Any) -> onnx.ModelProto:
        model = onnx.parser.parse_model(text)
        rng = np.random.default_rng(0)
        for name, given in weights.items():
            array = rng.standard_normal(given).astype(np.float32) if isinstance(given, tuple) else np.asarray(given)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        return model

    return build


@pytest.fixture
def net(make) -> onnx.ModelProto:
    """Two groups of channels, the second through a grouped convolution."""
    return make(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[2, 3, 6, 6] x) => (float[2, 4] y) {
          a = Conv (x, w1, b1)
          b = Sigmoid (a)
          c = Conv <group = 2> (b, wg)
          d = Tanh (c)
          e = Conv (d, w2)
          f = LeakyRelu (e)
          g = GlobalAveragePool (f)
          h = Flatten (g)
          y = MatMul (h, w3)
        }
        """,
        w1=(8, 3, 3, 3),
        b1=(8,),
        wg=(8, 4, 1, 1),
        w2=(10, 8, 1, 1),
        w3=(10, 4),
    )
