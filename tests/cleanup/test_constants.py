"""What is computed from constants alone becomes one, unless that takes more room."""

import numpy as np
import onnx
import pytest

import onnxprune
from tests.models_text import ints, make

ROW = np.arange(4, dtype=np.int32)
FOLDED = {
    "Cast": ("c = Cast<to=1>(k)", {"k": ROW}),
    "CastLike": ("c = CastLike(k, like)", {"k": ROW, "like": np.zeros(1, np.float32)}),
    "CastLike of the input": ("c = CastLike(k, x)", {"k": ROW}),
    "Expand": ("e = Expand(k, shape) c = Cast<to=1>(e)", {"k": ROW, "shape": ints(3, 1)}),
}


@pytest.mark.parametrize("name", FOLDED)
def test_it_is_folded(name):
    body, weights = FOLDED[name]
    source = make(f"(float[3,4] x) => (float[3,4] y) {{ {body} y = Sub(x, c) }}", weights)
    made = onnxprune.simplify(source).model  # checked on random inputs
    assert [n.op_type for n in made.graph.node] in (["Sub"], ["Add"])
    assert made.ByteSize() <= source.ByteSize()


def test_what_is_large_is_not_written_out():
    source = make(
        "(float[1024,1024] x) => (float[1024,1024] y) { c = Expand(k, shape) y = Sub(x, c) }",
        {"k": np.arange(1024, dtype=np.float32)[None], "shape": ints(1024, 1024)},
    )
    made = onnxprune.simplify(source).model
    assert made.ByteSize() <= source.ByteSize() < 8192
    assert [n.op_type for n in made.graph.node] == ["Sub"], "Sub repeats the row by itself"


def test_what_has_to_be_large_stays_an_operator():
    source = make(
        "(float[4] x) => (float[1024,1024] y, float[4] z) { y = Expand(k, shape) z = Relu(x) }",
        {"k": np.arange(1024, dtype=np.float32)[None], "shape": ints(1024, 1024)},
    )
    made = onnxprune.simplify(source).model
    assert sorted(n.op_type for n in made.graph.node) == ["Expand", "Relu"]
    assert made.ByteSize() <= source.ByteSize()
    onnx.checker.check_model(made, full_check=True)
