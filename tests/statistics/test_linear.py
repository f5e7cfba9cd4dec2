"""Rows times matrix is what ONNX Runtime computes."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxprune.proof.session import run
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import find_declined, find_linear
from onnxprune.statistics.positions import spread
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


def check(model, shape, limit=1000, samples=None):
    """The linear node computes its output from rows and matrix, and its weight survives the way there and back."""
    (linear,) = find_linear(Flow(model), lambda name: tuple(shape) if name == "x" else None)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (y,) = run(model, {"x": x}, [linear.y])
    stored = numpy_helper.to_array(Flow(model).initializers[linear.weight])
    matrix = linear.matrix(stored)
    form = linear.form if samples is None else linear.form.arranged(y.shape, samples)
    chosen = spread(form.positions(y), limit)
    made = np.einsum("npgk,gkm->npgm", form.rows(x, chosen).astype(np.float64), matrix)
    assert np.allclose(made, form.outputs(y, chosen), atol=1e-4)
    assert np.array_equal(form.flat(y, chosen), form.outputs(y, chosen).reshape(*made.shape[:2], -1))
    assert np.array_equal(linear.stored(matrix, stored), stored)
    assert samples is None or len(made) == samples


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
        ("Gemm", (4, 3), (5, 3), {"transB": 1, "alpha": 0.5}),
        ("Gemm", (3, 4), (3, 5), {"transA": 1}),
        ("Gemm", (3, 4), (5, 3), {"transA": 1, "transB": 1}),
        ("MatMul", (2, 6, 5, 3), (6, 3, 4), {}),  # a matrix for each head
        ("MatMul", (2, 6, 5, 3), (1, 6, 3, 4), {}),
        ("MatMul", (2, 1, 5, 3), (6, 3, 4), {}),  # every expert reads the same
        ("MatMul", (5, 3), (6, 3, 4), {}),
        ("MatMul", (6, 5, 3), (1, 3, 4), {}),
        ("Einsum", (2, 5, 3), (3, 4), {"equation": "bsc,cd->bsd"}),
        ("Einsum", (2, 5, 8), (8, 3, 4, 2), {"equation": "bsc,cthd->tbhsd"}),  # query, key and value in one
        ("Einsum", (2, 5, 4, 3), (4, 3, 7), {"equation": "bshd,hdm->bsm"}),
        ("Einsum", (2, 5, 4, 3), (7, 3, 4), {"equation": "bshd,mdh"}),
        ("Einsum", (2, 5, 4, 3), (4, 3, 7), {"equation": "bshd,hdm->bhsm"}),
        ("Einsum", (2, 5, 6, 3), (3, 4), {"equation": "...c,cd->...d"}),
        ("Einsum", (3, 5), (3, 4), {"equation": "ct,cd"}),
    ],
)
def test_products(op, x, w, attrs):
    check(one_node(op, x, w, **attrs), x)


@pytest.mark.parametrize(
    ("op", "x", "w", "attrs"),
    [("MatMul", (7, 4, 3), (3, 4), {}), ("Einsum", (7, 4, 3), (3, 2, 5), {"equation": "tbc,chd->htbd"})],
)
def test_time_comes_first(op, x, w, attrs):
    """Seven steps of four samples: rows are told apart by sample."""
    check(one_node(op, x, w, **attrs), x, samples=4)


@pytest.mark.parametrize(
    ("equation", "w", "reason"),
    [
        ("bsc,cc->bs", (3, 3), "diagonal"),
        ("bsc,cd->bd", (3, 4), "one operand alone"),
        ("bsc,sd->bscd", (5, 4), "no channel"),
        ("bsc,bscd->d", (2, 5, 3, 4), "samples"),
        ("bsc,...cd->bsd", (3, 4), "ellipsis"),
    ],
)
def test_an_einsum_that_is_no_product(equation, w, reason):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation=equation)
    weight = numpy_helper.from_array(np.zeros(w, np.float32), "w")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, (2, 5, 3))], [], [weight])
    flow = Flow(helper.make_model(graph))
    assert find_linear(flow) == []
    assert reason in find_declined(flow)[0].reason


def test_a_weight_that_is_moved_about():
    text = """(float[2, 5, 6] x) => (float[2, 5, 4] y) {
      a = Cast <to = 1> (w)
      b = Unsqueeze (a, one)
      c = Reshape (b, s)
      d = Transpose (c)
      e = Squeeze (d)
      y = MatMul (x, e)
    }"""
    model = make(
        text, dict(w=np.random.default_rng(0).standard_normal((2, 2, 6)).astype(np.float16), one=ints(1), s=ints(1, -1, 6))
    )
    check(model, (2, 5, 6))


def test_a_quantized_weight_is_declined():
    text = """(float[2, 6] x) => (float[2, 4] y) {
      w = DequantizeLinear (q, scale)
      y = MatMul (x, w)
    }"""
    flow = Flow(make(text, dict(q=np.ones((6, 4), np.int8), scale=np.array(0.1, np.float32))))
    assert find_linear(flow) == [] and "quantized" in find_declined(flow)[0].reason


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
      b = Mul (a, w)
      r = Reshape (x, s)
      c = MatMul (b, r)
      y = MatMul (c, w3)
    }"""
    flow = Flow(make(text, dict(w=(4, 4), s=ints(4, 2), w3=(2, 2, 4))))
    assert find_linear(flow) == []
    assert [d.reason for d in find_declined(flow)] == [
        "its weight is computed by Softmax",
        "the shape of what its weight multiplies is not known",
    ]


def test_bodies_are_readers():
    text = """(float[2, 4] x, bool c) => (float[2, 4] y) {
      a = MatMul (x, w)
      y = If (c) <then_branch = t () => (float[2, 4] z) { z = Relu (a) }, else_branch = e () => (float[2, 4] z) { z = Neg (a) }>
    }"""
    flow = Flow(onnx.ModelProto.FromString(make(text, dict(w=(4, 4))).SerializeToString()))
    assert flow.readers["a"] == [(1, -1)]
    assert flow.ancestors(["y"]) == {0, 1}


@pytest.mark.parametrize("total, limit", [(256, 129), (50, 32), (10, 3), (256, 1), (9, 9), (4, 8)])
def test_the_first_positions_are_always_among_those_that_are_looked_at(total, limit):
    chosen = spread(total, limit).tolist()
    assert len(chosen) == len(set(chosen)) == min(total, limit)
    assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < total
    assert chosen[: min(8, limit // 2)] == list(range(min(8, limit // 2, total)))
