"""Activations that are written out."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest

from tests.cleanup.passes.checks import becomes, operators, run, same, stays
from tests.models_text import make


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


NUMBERS = {
    "one": number(1), "half": number(0.5), "two": number(2), "three": number(3), "six": number(6), "zero": number(0),
    "sixth": number(1 / 6), "root": number(math.sqrt(2)), "inverse": number(math.sqrt(0.5)), "rp": number(math.sqrt(2 / math.pi)),
    "cube": number(0.044715),
}  # fmt: skip
ERF = "d = {} e = Erf(d) p = Add({}) "
TAILS = [
    "q = Mul(x, p) y = Mul(q, half)",
    "q = Mul(p, half) y = Mul(q, x)",
    "q = Mul(half, x) y = Mul(p, q)",
    "q = Mul(p, x) y = Div(q, two)",
]


def model_of(body: str, opset: int = 17):
    return make(f"(float[2,5] x) => (float[2,5] y) {{ {body} }}", NUMBERS, opset=opset)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("inner", ["Div(x, root)", "Mul(inverse, x)"])
def test_gelu(inner, tail):
    body = ERF.format(inner, "one, e") + tail
    becomes(model_of(body, 20), ("gelu",), {"Gelu": 1})


@pytest.mark.parametrize("cube", ["c = Pow(x, three)", "b = Mul(x, x) c = Mul(b, x)", "b = Mul(x, x) c = Mul(x, b)"])
@pytest.mark.parametrize("tail", TAILS)
def test_gelu_with_a_tanh(cube, tail):
    body = f"{cube} s = Mul(c, cube) a = Add(x, s) d = Mul(a, rp) e = Tanh(d) p = Add(e, one) {tail}"
    result = becomes(model_of(body, 20), ("gelu",), {"Gelu": 1})
    assert result.graph.node[0].attribute[0].s == b"tanh"


def test_gelu_needs_its_opset():
    body = ERF.format("Div(x, root)", "e, one") + TAILS[0]
    result, _ = run(model_of(body, 19), "gelu")
    assert operators(result)["Gelu"] == 0


@pytest.mark.parametrize(
    "body",
    [
        ERF.format("Div(x, two)", "e, one") + TAILS[0],
        ERF.format("Div(x, root)", "e, half") + TAILS[0],
        ERF.format("Div(x, root)", "e, one") + "q = Mul(x, p) y = Mul(q, two)",
        ERF.format("Div(x, root)", "e, one") + "n = Neg(x) q = Mul(n, p) y = Mul(q, half)",
        ERF.format("Div(x, root)", "e, one") + "q = Mul(x, p) g = Mul(q, half) y = Add(g, p)",
    ],
)
def test_what_is_no_gelu(body):
    stays(model_of(body, 20), ("gelu", "gelu-order"))


def test_a_written_out_gelu_is_in_the_order_that_the_runtime_knows(tmp_path):
    body = ERF.format("Div(x, root)", "e, one") + "q = Mul(half, p) y = Mul(x, q)"
    model = model_of(body)
    result, _ = run(model, "gelu-order", "affine")
    assert len(result.graph.node) == len(model.graph.node)
    same(model, result)
    assert [run_by_runtime(m, tmp_path)["Gelu"] for m in (model, result)] == [0, 1]


def run_by_runtime(model, folder):
    import onnx

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(options.optimized_model_filepath))


SHIFTED = "a = Add(x, three) c = Clip(a, zero, six) "


@pytest.mark.parametrize(
    "body, wanted",
    [
        (SHIFTED + "y = Div(c, six)", {"HardSigmoid": 1}),
        (SHIFTED + "y = Mul(sixth, c)", {"HardSigmoid": 1}),
        (SHIFTED + "q = Mul(x, c) y = Div(q, six)", {"HardSwish": 1}),
        (SHIFTED + "q = Div(c, six) y = Mul(q, x)", {"HardSwish": 1}),
        ("c = Clip(x, zero, two) y = Div(c, two)", {"HardSigmoid": 1}),
        ("h = HardSigmoid<alpha=0.2, beta=0.5>(x) y = Mul(x, h)", {"HardSigmoid": 1, "Mul": 1}),
        (SHIFTED + "y = Div(c, three)", {"Add": 1, "Clip": 1, "Div": 1}),
        (SHIFTED + "q = Div(c, six) y = Add(q, c)", {"Add": 2, "Clip": 1, "Div": 1}),
        ("s = Softplus(x) t = Tanh(s) y = Mul(x, t)", {"Mish": 1}),
        ("s = Softplus(x) t = Tanh(s) q = Mul(x, t) y = Add(q, t)", {"Softplus": 1, "Tanh": 1, "Mul": 1, "Add": 1}),
    ],
)
def test_hard_and_smooth_gates(body, wanted):
    becomes(model_of(body, 18), ("hard-sigmoid", "hard-swish", "mish"), wanted)


def test_hard_sigmoid_before_hard_swish():
    becomes(
        model_of(SHIFTED + "q = Mul(x, c) y = Div(q, six)", 12), ("hard-sigmoid", "hard-swish"), {"HardSigmoid": 1, "Mul": 1}
    )


@pytest.mark.parametrize(
    "body, alpha", [("s = Sigmoid(x) y = Mul(s, x)", 1.0), ("d = Mul(x, two) s = Sigmoid(d) y = Mul(x, s)", 2.0)]
)
def test_swish_needs_opset_24(body, alpha):
    result, _ = run(model_of(body, 24), "swish")
    assert operators(result) == {"Swish": 1} and result.graph.node[0].attribute[0].f == alpha
    result, _ = run(model_of(body, 23), "swish")
    assert operators(result)["Swish"] == 0
