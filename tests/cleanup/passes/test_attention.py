"""Attention that is written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from tests.cleanup.passes.checks import becomes, operators, run, stays
from tests.models_text import make

B, H, S, K, D, V = 2, 3, 5, 7, 4, 6
HEADS = f"float[{B},{H},{S},{D}] q, float[{B},{H},{K},{D}] k, float[{B},{H},{K},{V}] v"
ROWS = f"float[{B},{S},{H * D}] q, float[{B},{K},{H * D}] k, float[{B},{K},{H * V}] v"
HELD = {
    "c": np.array(0.3, np.float32),
    "d": np.array(4.0, np.float32),
    "negative": np.array(-0.3, np.float32),
    "by_head": np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1),
    "zero": np.array(0.0, np.float32),
    "m": (S, K),
    "m3": (H, S, K),
    "m4": (B, 1, S, K),
    "keys": (B, 1, 1, K),
    "causal": np.triu(np.full((S, K), -np.inf, np.float32), 1),
    "nothing": np.where(np.arange(S)[:, None] == 1, -np.inf, np.zeros((S, K))).astype(np.float32),
    "sq": np.array([B, S, H, D]),
    "sk": np.array([B, K, H, D]),
    "sv": np.array([B, K, H, V]),
    "so": np.array([B, S, H * V]),
}
PASSES = ("attention", "attention-rows", "attention-groups", "moves")
TURN = "t = Transpose<perm=[0,1,3,2]>(k)"


def by_heads(body: str, opset: int = 23, extra: str = "", columns: int = V) -> onnx.ModelProto:
    return make(f"({HEADS}{extra}) => (float[{B},{H},{S},{columns}] y) {{ {body} }}", HELD, opset=opset)


@pytest.mark.parametrize(
    "scores",
    [
        "a = MatMul(q, t) s = Mul(a, c)",
        "a = MatMul(q, t) s = Div(a, d)",
        "z = Mul(q, c) s = MatMul(z, t)",
        "z = Mul(c, q) z2 = Mul(t, c) s = MatMul(z, z2)",
        "s = MatMul(q, t)",
        "a = MatMul(q, t) b = Mul(a, c) s = Add(b, m)",
        "a = MatMul(q, t) b = Mul(a, c) s = Add(m3, b)",
        "a = MatMul(q, t) s = Add(a, m4)",
        "a = MatMul(q, t) s = Add(a, causal)",
    ],
)
def test_attention_by_heads(scores):
    model = by_heads(f"{TURN} {scores} p = Softmax(s) y = MatMul(p, v)")
    becomes(model, PASSES, {"Attention": 1})
    before, _ = run(by_heads(f"{TURN} {scores} p = Softmax(s) y = MatMul(p, v)", opset=22), *PASSES)
    assert operators(before)["Attention"] == 0


@pytest.mark.parametrize("where", ["q", "t"])
def test_scales_multiply(where):
    product = "MatMul(z, t)" if where == "q" else "MatMul(q, z)"
    body = f"{TURN} z = Div({where}, d) a = {product} s = Mul(a, c) p = Softmax<axis=3>(s) y = MatMul(p, v)"
    result = becomes(by_heads(body), PASSES, {"Attention": 1})
    (node,) = result.graph.node
    (scale,) = (a.f for a in node.attribute if a.name == "scale")
    assert scale == pytest.approx(0.3 / 4)


def test_keys_turned_between_two_reshapes():
    """As exporters write it that take batch and heads for one axis."""
    body = """k1 = Reshape(k, one) k2 = Transpose<perm=[0,2,1]>(k1) t = Reshape(k2, two) s = MatMul(q, t) p = Softmax(s)
        y = MatMul(p, v)"""
    model = by_heads(body)
    for name, shape in (("one", [B * H, K, D]), ("two", [B, H, D, K])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    becomes(model, PASSES, {"Attention": 1})


@pytest.mark.parametrize("mask", ["", "m", "causal"])
def test_a_softmax_that_is_guarded_against_rows_without_keys(mask):
    masked = f"a = MatMul(q, t) s = Add(a, {mask})" if mask else "s = MatMul(q, t)"
    body = f"{TURN} {masked} p0 = Softmax(s) n = IsNaN(p0) p = Where(n, zero, p0) y = MatMul(p, v)"
    becomes(by_heads(body), PASSES, {"Attention": 1})


def test_attention_by_rows():
    """No Transpose is left, and no Reshape: Attention splits heads by itself."""
    body = """q1 = Reshape(q, sq) q2 = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k, sk) t = Transpose<perm=[0,2,3,1]>(k1)
        v1 = Reshape(v, sv) v2 = Transpose<perm=[0,2,1,3]>(v1) a = MatMul(q2, t) b = Mul(a, c) s = Add(b, m4)
        p = Softmax(s) o = MatMul(p, v2) o1 = Transpose<perm=[0,2,1,3]>(o) y = Reshape(o1, so)"""
    becomes(make(f"({ROWS}) => (float[{B},{S},{H * V}] y) {{ {body} }}", HELD, opset=23), PASSES, {"Attention": 1})


def test_dimensions_may_be_symbolic():
    body = """q1 = Reshape(q, split) q2 = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k, split)
        t = Transpose<perm=[0,2,3,1]>(k1) v1 = Reshape(v, split) v2 = Transpose<perm=[0,2,1,3]>(v1) a = MatMul(q2, t)
        s = Mul(a, c) p = Softmax(s) o = MatMul(p, v2) o1 = Transpose<perm=[0,2,1,3]>(o) y = Reshape(o1, join)"""
    held = {"c": HELD["c"], "split": np.array([0, 0, H, D]), "join": np.array([0, 0, H * D])}
    inputs = ", ".join(f"float[n,{rows},{H * D}] {name}" for name, rows in (("q", "rows"), ("k", "keys"), ("v", "keys")))
    model = make(f"({inputs}) => (float[n,rows,{H * D}] y) {{ {body} }}", held, opset=23)
    becomes(model, PASSES, {"Attention": 1}, n=2, rows=5, keys=7)


@pytest.mark.parametrize("group", [2, 3])
def test_heads_that_are_repeated_for_a_group(group):
    heads = 2 * group
    signature = f"(float[{B},{heads},{S},{D}] q, float[{B},2,{K},{D}] k, float[{B},2,{K},{V}] v)"
    body = """k1 = Unsqueeze(k, two) k2 = Expand(k1, ek) k3 = Reshape(k2, rk) v1 = Unsqueeze(v, two) v2 = Expand(v1, ev)
        v3 = Reshape(v2, rv) t = Transpose<perm=[0,1,3,2]>(k3) a = MatMul(q, t) s = Mul(a, c) p = Softmax(s) y = MatMul(p, v3)"""
    held = {"c": HELD["c"], "two": np.array([2])}
    for name, columns in (("k", D), ("v", V)):
        held |= {f"e{name}": np.array([B, 2, group, K, columns]), f"r{name}": np.array([B, heads, K, columns])}
    model = make(f"{signature} => (float[{B},{heads},{S},{V}] y) {{ {body} }}", held, opset=23)
    becomes(model, PASSES, {"Attention": 1})


def test_heads_that_are_tiled_are_no_groups():
    """Head h meets head h % 2 of K, not h // 2."""
    signature = f"(float[{B},4,{S},{D}] q, float[{B},2,{K},{D}] k, float[{B},2,{K},{D}] v)"
    body = """k1 = Unsqueeze(k, one) k2 = Expand(k1, e) k3 = Reshape(k2, r) v1 = Unsqueeze(v, one) v2 = Expand(v1, e)
        v3 = Reshape(v2, r) t = Transpose<perm=[0,1,3,2]>(k3) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v3)"""
    held = {"one": np.array([1]), "e": np.array([B, 2, 2, K, D]), "r": np.array([B, 4, K, D])}
    model = make(f"{signature} => (float[{B},4,{S},{D}] y) {{ {body} }}", held, opset=23)
    result = becomes(model, PASSES, {"Unsqueeze": 2, "Expand": 2, "Reshape": 2, "Attention": 1})
    assert "Squeeze" not in operators(result)


@pytest.mark.parametrize(
    "body, reason",
    [
        (f"{TURN} a = MatMul(q, t) s = Mul(a, negative) p = Softmax(s) y = MatMul(p, v)", "above 0"),
        (f"{TURN} a = MatMul(q, t) s = Add(a, keys) p = Softmax(s) y = MatMul(p, v)", "all rows"),
        (f"{TURN} a = MatMul(q, t) s = Mul(a, by_head) p = Softmax(s) y = MatMul(p, v)", ""),
        (f"{TURN} a = MatMul(q, t) b = Add(a, m) s = Mul(b, c) p = Softmax(s) y = MatMul(p, v)", ""),
        (f"{TURN} s = MatMul(q, t) p = Softmax<axis=2>(s) y = MatMul(p, v)", ""),
        (f"{TURN} s = MatMul(q, t) p = Softmax(s) z = MatMul(p, v) w = ReduceMax(p) y = Add(z, w)", ""),
        (f"{TURN} s = MatMul(q, t) p = Softmax(s) z = MatMul(p, v) w = ReduceMax(s) y = Add(z, w)", ""),
        (f"{TURN} a = MatMul(q, t) s = Add(a, nothing) p0 = Softmax(s) n = IsNaN(p0) p = Where(n, zero, p0) y = MatMul(p, v)",
         "no key"),
        (f"{TURN} s = MatMul(q, t) p0 = Softmax(s) n = IsNaN(p0) p = Where(n, c, p0) y = MatMul(p, v)", ""),
    ],
)  # fmt: skip
def test_what_is_no_attention(body, reason):
    stays(by_heads(body), PASSES, reason)


def test_keys_that_come_transposed_are_not_copied():
    signature = f"(float[{B},{H},{S},{D}] q, float[{B},{H},{D},{K}] t, float[{B},{H},{K},{V}] v)"
    body = f"{signature} => (float[{B},{H},{S},{V}] y) {{ s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }}"
    stays(make(body, HELD, opset=23), PASSES, "Transpose")


def test_batches_that_broadcast_are_no_attention():
    signature = f"(float[{B},{H},{S},{D}] q, float[1,{H},{K},{D}] k, float[{B},{H},{K},{V}] v)"
    body = f"{signature} => (float[{B},{H},{S},{V}] y) {{ {TURN} s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }}"
    stays(make(body, HELD, opset=23), PASSES, "same batch")


def test_half_precision_stays_written_out():
    signature = f"(float16[{B},{H},{S},{D}] q, float16[{B},{H},{K},{D}] k, float16[{B},{H},{K},{D}] v)"
    body = f"{signature} => (float16[{B},{H},{S},{D}] y) {{ {TURN} s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }}"
    stays(make(body, {}, opset=23), PASSES, "float32")


def test_a_trained_transformer_has_one_attention_a_layer():
    source = Path(__file__).parents[3] / "models" / "vit_legacy.onnx"
    kept, raised = onnxprune.simplify(source), onnxprune.simplify(source, opset=23)
    assert "Attention" not in kept.report.after
    assert raised.report.after["Attention"] == kept.report.after["Softmax"] > 0
    assert "Softmax" not in raised.report.after
    assert raised.report.nodes_after < kept.report.nodes_after
    assert raised.report.verification is not None and raised.report.verification.error <= 1e-5
