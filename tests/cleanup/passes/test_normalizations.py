"""LayerNormalization and RMSNormalization that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cleanup.passes.checks import becomes, operators, run, stays
from tests.models_text import make

HELD = {
    "axes": np.array([-1]), "eps": np.array(1e-5, np.float32), "two": np.array(2, np.float32), "one": np.array(1, np.float32),
    "g": (8,), "b": (1, 1, 8), "wide": (5, 8), "first": np.array([1]),
}  # fmt: skip
CENTRE = "m = ReduceMean(x, axes) c = Sub(x, m) "
NORMS = ("layer-norm", "rms-norm")


def model_of(body: str, opset: int = 18):
    return make(f"(float[2,5,8] x) => (float[2,5,8] y) {{ {body} }}", HELD, opset=opset)


def divided(x: str, square: str = "Pow({0}, two)", root: str = "n = Div({0}, r)", axes: str = "axes") -> str:
    return f"s = {square} v = ReduceMean(s, {axes}) w = Add(v, eps) r = Sqrt(w) {root} ".replace("{0}", x)


@pytest.mark.parametrize("square", ["Pow({0}, two)", "Mul({0}, {0})"])
@pytest.mark.parametrize("root", ["n = Div({0}, r)", "q = Reciprocal(r) n = Mul({0}, q)", "q = Div(one, r) n = Mul(q, {0})"])
@pytest.mark.parametrize("tail", ["p = Mul(n, g) y = Add(p, b)", "p = Mul(g, n) y = Add(b, p)", "y = Mul(n, g)"])
def test_layer_norm(square, root, tail):
    body = CENTRE + divided("c", square, root) + tail
    becomes(model_of(body), NORMS, {"LayerNormalization": 1})


@pytest.mark.parametrize("root", ["n = Div({0}, r)", "q = Reciprocal(r) n = Mul({0}, q)"])
def test_rms_norm(root):
    body = "x2 = Neg(x) " + divided("x2", root=root) + "y = Mul(n, g)"
    becomes(model_of(body, 23), NORMS, {"Neg": 1, "RMSNormalization": 1})
    result, _ = run(model_of(body, 22), *NORMS)
    assert operators(result)["RMSNormalization"] == 0


@pytest.mark.parametrize(
    "body, reason",
    [
        (CENTRE + divided("c") + "y = Mul(n, wide)", "by a vector"),
        (CENTRE + divided("c") + "p = Mul(n, g) y = Add(p, n)", "others read it"),
        (CENTRE + divided("c", axes="first") + "y = Mul(n, g)", ""),
        (CENTRE + divided("x", root="n = Div(c, r)") + "y = Mul(n, g)", ""),
        (CENTRE + divided("c") + "p = Mul(n, g) q = Add(p, b) y = Add(q, r)", ""),
        ("m = ReduceMean(x, first) c = Sub(x, m) " + divided("c") + "y = Mul(n, g)", ""),
    ],
)
def test_what_is_no_normalization(body, reason):
    stays(model_of(body), NORMS, reason)
