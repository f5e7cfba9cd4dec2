"""Models of two layers, and of nested branches."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.io.graphs import CONV, IF, parse


@pytest.fixture
def conv() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "v": (6, 4), "c": (6,)}
    return parse(CONV, **{name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})


@pytest.fixture
def branches() -> onnx.ModelProto:
    model = parse(IF, outer=np.array([1, 2], np.float32))
    inner = model.graph.node[1].attribute[1].g.node[1].attribute[0].g
    inner.initializer.append(numpy_helper.from_array(np.array([3, 4], np.float32), "inner"))
    inner.node[0].doc_string = "deep"
    return model
