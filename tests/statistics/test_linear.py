"""Rows times matrix is what ONNX Runtime computes."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxprune.proof.session import run
from onnxprune.statistics.channels import spread
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import find_linear
from tests.models_text import ints, make


def one_node(op, x, w, **attrs):
    """A model of one node over a stored weight."""
    node = helper.make_node(op, ["x", "w"], ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.random.default_rng(1).standard_normal(w).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(model, shape, limit=1000):
    """The linear node computes its output from rows and matrix, and its weight survives the way there and back."""
    (linear,) = find_linear(Flow(model))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (y,) = run(model, {"x": x}, [linear.y])
    stored = numpy_helper.to_array(Flow(model).initializers[linear.weight])
    matrix = linear.matrix(stored)
    chosen = spread(linear.form.positions(y), limit)
    made = np.einsum("npgk,gkm->npgm", linear.form.rows(x, chosen).astype(np.float64), matrix)
    assert np.allclose(made, linear.form.outputs(y, chosen), atol=1e-4)
    assert np.array_equal(linear.stored(matrix, stored), stored)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(transposed, data):
    draw = data.draw
    n = draw(st.integers(1, 3))
    group, a, b = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    strides = [draw(st.integers(1, 3)) for _ in range(n)]
    dilations = [draw(st.integers(1, 2)) for _ in range(n)]
    pads = [draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilations, strict=True)] * 2
    shape = (2, group * a, *[draw(st.integers(6, 8)) for _ in range(n)])
    attrs = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
    if transposed:
        attrs["output_padding"] = [draw(st.integers(0, s - 1)) if s > 1 else 0 for s in strides]
        attrs["output_padding"] = [
            min(p, max(s, d) - 1) for p, s, d in zip(attrs["output_padding"], strides, dilations, strict=True)
        ]
        check(one_node("ConvTranspose", shape, (group * a, b, *kernel), **attrs), shape, draw(st.sampled_from([7, 1000])))
        return
    if draw(st.booleans()):
        attrs |= {"auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])), "dilations": [1] * n}
        del attrs["pads"]
    check(one_node("Conv", shape, (group * b, a, *kernel), **attrs), shape, draw(st.sampled_from([7, 1000])))


@pytest.mark.parametrize(
    ("op", "x", "w", "attrs"),
    [
        ("MatMul", (2, 5, 3), (3, 4), {}),
        ("MatMul", (2, 6, 5, 3), (3, 4), {}),
        ("MatMul", (4, 3), (3, 4), {}),
        ("Gemm", (4, 3), (3, 5), {}),
        ("Gemm", (4, 3), (5, 3), {"transB": 1}),
    ],
)
def test_products(op, x, w, attrs):
    check(one_node(op, x, w, **attrs), x)


def test_a_weight_on_the_left():
    model = make("(float[2, 5, 7] x) => (float[2, 4, 7] y) { y = MatMul (w, x) }", dict(w=(4, 5)))
    check(model, (2, 5, 7))


def test_a_transposed_weight():
    text = (
        "(float[2, 5, 3] x) => (float[2, 5, 4] y) { t = Transpose <perm = [1, 0]> (w)  i = Identity (t)  y = MatMul (x, i) }"
    )
    check(make(text, dict(w=(4, 3))), (2, 5, 3))


def test_what_is_not_linear_in_a_stored_weight():
    text = """(float[2, 4] x) => (float[2, 4] y) {
      h = Softmax (w)
      a = MatMul (x, h)
      b = Gemm <alpha = 2.0> (a, w)
      r = Reshape (x, s)
      c = MatMul (b, r)
      y = MatMul (c, w3)
    }"""
    model = make(text, dict(w=(4, 4), s=ints(4, 2), w3=(1, 2, 4)))
    assert find_linear(Flow(model)) == []


def test_bodies_are_readers():
    text = """(float[2, 4] x, bool c) => (float[2, 4] y) {
      a = MatMul (x, w)
      y = If (c) <then_branch = t () => (float[2, 4] z) { z = Relu (a) }, else_branch = e () => (float[2, 4] z) { z = Neg (a) }>
    }"""
    flow = Flow(onnx.ModelProto.FromString(make(text, dict(w=(4, 4))).SerializeToString()))
    assert flow.readers["a"] == [(1, -1)]
    assert flow.ancestors(["y"]) == {0, 1}
