"""One Clip instead of several, one Cast instead of two."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.cleanup.passes.checks import becomes, operators, run, same, stays
from tests.models_text import make


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


HELD = {"low": number(-0.5), "zero": number(0), "half": number(0.5), "one": number(1)}


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("a = Relu(x) y = Relu(a)", {"Relu": 1}),
        ("a = Relu(x) y = Clip(a, low, half)", {"Clip": 1}),
        ("a = Clip(x, low) y = Relu(a)", {"Relu": 1}),
        ("a = Clip(x, low, one) y = Relu(a)", {"Clip": 1}),
        ("a = Clip(x, , half) y = Clip(a, low)", {"Clip": 1}),
        ("a = Sigmoid(x) y = Relu(a)", {"Sigmoid": 1}),
        ("a = Abs(x) b = Transpose(a) c = Transpose(b) y = Relu(c)", {"Abs": 1, "Transpose": 2}),
        ("a = Tanh(x) y = Relu(a)", {"Tanh": 1, "Relu": 1}),
        ("a = Relu(x) b = Sub(a, half) y = Relu(b)", {"Relu": 2, "Sub": 1}),
    ],
)
def test_bounds(body, wanted):
    becomes(make(f"(float[4,5] x) => (float[4,5] y) {{ {body} }}", HELD), ("bounds",), wanted)


def test_bounds_with_other_readers_stay():
    model = make("(float[4,5] x) => (float[4,5] y) { a = Relu(x) b = Clip(a, low, half) y = Add(a, b) }", HELD)
    stays(model, ("bounds",), "others read")


def test_bounds_that_cross_stay():
    model = make("(float[4,5] x) => (float[4,5] y) { a = Clip(x, one, half) y = Clip(a, low, one) }", HELD)
    stays(model, ("bounds",), "above the upper")


def test_bounds_by_attribute():
    model = make("(float[4,5] x) => (float[4,5] y) { a = Relu(x) y = Clip<min=-1.0, max=0.5>(a) }", {}, opset=9)
    result, _ = run(model, "bounds")
    assert operators(result) == {"Clip": 1}
    same(model, result)


@pytest.mark.parametrize(
    "source, between, after, goes",
    [
        ("int32", "int64", "int32", True),
        ("bool", "float", "int64", True),
        ("float16", "float", "double", True),
        ("int32", "double", "int64", True),
        ("int32", "float", "int64", False),
        ("float", "float16", "float", False),
        ("float", "int64", "float", False),
        ("int64", "bool", "int64", False),
    ],
)
def test_casts(source, between, after, goes):
    code = {n: getattr(TensorProto, n.upper()) for n in ("int32", "int64", "bool", "float", "float16", "double")}
    model = make(
        f"({source}[40] x) => ({after}[40] y) {{ a = Cast<to={code[between]}>(x) y = Cast<to={code[after]}>(a) }}", {}
    )
    result, _ = run(model, "cast-of-cast")
    assert operators(result)["Cast"] + operators(result)["Identity"] == (1 if goes else 2)
    same(model, result)
