"""Rows instead of stacks of rows, and Gemm."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cleanup.passes.checks import becomes, declared, operators, run, same, stays
from tests.models_text import make

ROWS = ("rows", "moves", "gemm")


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("a = MatMul(x, w) y = Add(a, c)", {"Gemm": 1}),
        ("a = MatMul(x, w) y = Add(c, a)", {"Gemm": 1}),
        ("a = MatMul(x, w) y = Add(a, z)", {"Gemm": 1}),
        ("a = MatMul(x, w) b = Add(a, a) y = Add(b, c)", {"MatMul": 1, "Add": 2}),
        ("a = MatMul(x, w) y = Add(a, large)", {"MatMul": 1, "Add": 1}),
    ],
)
def test_a_product_and_a_sum_are_one_gemm(body, wanted):
    model = make(
        f"(float[3,8] x, float[3,6] z) => (float y) {{ {body} }}",
        {"w": (8, 6), "c": (6,), "large": (2, 3, 6)},
    )
    becomes(declared(model), ("gemm",), wanted)


def test_a_product_of_unknown_size_is_no_gemm():
    model = make("(float[n,8] x, float[m,6] z) => (float[k,6] y) { a = MatMul(x, w) y = Add(a, z) }", {"w": (8, 6)})
    stays(model, ("gemm",), "may be larger")


def test_integers_are_no_gemm():
    body = "(int32[3,8] x) => (int32[3,6] y) { a = MatMul(x, w) y = Add(a, c) }"
    stays(make(body, {"w": np.arange(48, dtype=np.int32).reshape(8, 6), "c": np.arange(6, dtype=np.int32)}), ("gemm",))


ATTENTION = """(float[b,6,8] x) => (float[b,6,8] y) {
    n = LayerNormalization(x, g, h)
    q0 = MatMul(n, wq)
    q1 = Add(q0, cq)
    q = Reshape(q1, heads)
    k0 = MatMul(n, wk)
    k1 = Add(ck, k0)
    k = Reshape(k1, heads)
    qt = Transpose<perm=[0,2,1,3]>(q)
    kt = Transpose<perm=[0,2,3,1]>(k)
    s = MatMul(qt, kt)
    p = Softmax<axis=-1>(s)
    o = MatMul(p, qt)
    ot = Transpose<perm=[0,2,1,3]>(o)
    r = Reshape(ot, joined)
    o0 = MatMul(r, wo)
    o1 = Add(o0, co)
    z = Add(o1, n)
    m0 = MatMul(z, w1)
    m1 = Add(m0, c1)
    m2 = Tanh(m1)
    e0 = MatMul(m2, w2)
    e1 = Add(e0, c2)
    y = Add(e1, z)
}"""
WEIGHTS = {
    "g": (8,), "h": (8,), "wq": (8, 8), "cq": (8,), "wk": (8, 8), "ck": (8,), "wo": (8, 8), "co": (8,), "w1": (8, 16), "c1": (16,),
    "w2": (16, 8), "c2": (8,), "heads": ints(0, 6, 2, 4), "joined": ints(0, 6, 8),
}  # fmt: skip


def test_a_transformer_block_is_computed_on_rows():
    """Five Adds go; one Reshape at each end comes, those in between change their targets."""
    model = make(ATTENTION, WEIGHTS)
    result = becomes(
        model,
        ROWS,
        {"Reshape": 5, "LayerNormalization": 1, "Gemm": 5, "Transpose": 3, "MatMul": 2, "Softmax": 1, "Add": 2, "Tanh": 1},
        b=2,
    )
    assert len(result.graph.node) == len(model.graph.node) - 3


def test_two_unknown_dimensions_have_no_way_back():
    model = make(
        ATTENTION.replace("float[b,6,8]", "float[b,t,8]"), {**WEIGHTS, "heads": ints(0, 0, 2, 4), "joined": ints(0, 0, 8)}
    )
    result, _ = run(model, *ROWS)
    assert operators(result) == operators(model)
    same(model, result, b=2, t=5)


def test_one_product_does_not_pay():
    stays(make("(float[2,3,8] x) => (float[2,3,6] y) { a = MatMul(x, w) y = Add(a, c) }", {"w": (8, 6), "c": (6,)}), ROWS)


@pytest.mark.parametrize(
    "step",
    ["Softmax<axis=-1>(b)", "Softmax<axis=1>(b)", "Mul(b, per)", "Mul(b, each)", "Mul(b, row)", "Concat<axis=2>(b, b)",
     "Concat<axis=1>(b, b)", "Transpose<perm=[1,0,2]>(b)", "LayerNormalization<axis=1>(b, wide)", "Clip(b, low)"],
)  # fmt: skip
def test_what_is_between_two_products_stays_what_it_computes(step):
    """Whether or not the step can work on rows."""
    width = 12 if "axis=2" in step else 6
    model = make(
        f"""(float[4,6] s) => (float y) {{
            x = Reshape(s, t)
            a = MatMul(x, w)
            b = Add(a, c)
            d = {step}
            e = MatMul(d, u)
            f = Add(e, c)
            g = Tanh(f)
            h = MatMul(g, w6)
            y = Add(h, c)
        }}""",
        {"t": ints(2, 2, 6), "w": (6, 6), "c": (6,), "u": (width, 6), "w6": (6, 6), "per": (6,), "each": (2, 2, 6),
         "row": (2, 2, 1), "wide": (2, 6), "low": np.array(-0.1, np.float32)},
    )  # fmt: skip
    model = declared(model)
    result, _ = run(model, *ROWS)
    same(model, result)
    on_rows = step.startswith(("Softmax<axis=-1>", "Mul(b, per)", "Mul(b, each)", "Concat<axis=2>", "Clip"))
    assert operators(result)["Gemm"] == (3 if on_rows else 1)  # the last two would cost two Reshapes


def test_a_product_whose_result_is_an_output_keeps_its_shape():
    model = make(
        """(float[2,3,8] x) => (float[2,3,6] b, float[2,3,6] y) {
            a = MatMul(x, w)
            b = Add(a, c)
            d = MatMul(b, u)
            e = Add(d, c)
            f = MatMul(e, u)
            g = Add(f, c)
            h = MatMul(g, u)
            y = Add(h, c)
        }""",
        {"w": (8, 6), "c": (6,), "u": (6, 6)},
    )
    result, _ = run(model, *ROWS)
    assert len(result.graph.node) < len(model.graph.node)
    same(model, result)


def test_pointwise_functions_between_rows_need_no_reshape():
    """What exporters write around every Gemm goes, as far as all that is in between works on rows."""
    model = make(
        """(float[2,3,8] x) => (float[2,3,6] y) {
            a = Reshape(x, rows)
            b = Gemm(a, w, c)
            d = Reshape(b, back)
            e = Tanh(d)
            f = Mul(e, d)
            g = Reshape(f, rows)
            h = Gemm(g, u, c)
            y = Reshape(h, back)
        }""",
        {"w": (8, 6), "u": (6, 6), "c": (6,), "rows": ints(6, -1), "back": ints(2, 3, 6)},
    )
    becomes(model, ROWS, {"Reshape": 2, "Gemm": 2, "Tanh": 1, "Mul": 1})
