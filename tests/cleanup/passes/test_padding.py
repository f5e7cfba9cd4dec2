"""Padding that the convolution or pool behind it does itself."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cleanup.passes.checks import becomes, declared, operators, run, same, stays
from tests.models_text import make

PAD = ("pad",)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


WEIGHTS = {
    "w": (5, 4, 3, 3), "p": ints(0, 0, 1, 0, 0, 0, 1, 2), "low": np.array(-np.inf, np.float32), "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32), "channels": ints(0, 1, 0, 0, 0, 0, 0, 0), "crop": ints(0, 0, -1, 0, 0, 0, 1, 0),
    "wide": ints(0, 0, 3, 3, 0, 0, 3, 3), "u": (5, 5, 3, 3), "v": (5, 4, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        "a = Pad(x, p) y = Conv(a, w)",
        "a = Pad(x, p, zero) y = Conv<pads=[0,1,0,1], strides=[2,2]>(a, w)",
        'a = Pad(x, p) y = Conv<auto_pad="VALID", dilations=[2,1]>(a, w)',
        "a = Pad(x, p) y = AveragePool<kernel_shape=[3,3]>(a)",
        "a = Pad(x, p) y = AveragePool<kernel_shape=[3,4], pads=[1,0,0,1], count_include_pad=1>(a)",
        "a = Pad(x, p, low) y = MaxPool<kernel_shape=[3,3], pads=[0,1,0,0]>(a)",
        "a = Pad(x, p, zero) y = MaxPool<kernel_shape=[3,3]>(a)",
    ],
)
def test_padding_goes_into_the_reader(body):
    body = body.replace("Pad(x", "Pad(r")
    model = declared(make(f"(float[1,4,7,7] x) => (float y) {{ r = Relu(x) {body} }}", WEIGHTS))
    wanted = {name: 1 for name in ("Conv", "AveragePool", "MaxPool") if name in body}
    becomes(model, PAD, {**wanted, "Relu": 1})


@pytest.mark.parametrize(
    "body, reason",
    [
        ("a = Pad(x, p, one) y = Conv(a, w)", "not with 1"),
        ('a = Pad<mode="reflect">(x, p) y = Conv(a, w)', "mirrors"),
        ("a = Pad(x, channels) y = Conv(a, u)", "channels"),
        ("a = Pad(x, crop) y = Conv(a, w)", "crops"),
        ('a = Pad(x, p) y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(a, w)', "auto_pad"),
        ("a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)", "does not count"),
        ("a = Pad(x, p, one) y = AveragePool<kernel_shape=[3,3]>(a)", "not with 1"),
        ("a = Pad(x, wide) y = AveragePool<kernel_shape=[3,3]>(a)", "kernel or more"),
        ("a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(a)", "round up"),
        ("a = Pad(x, p, zero) y = MaxPool<kernel_shape=[3,3]>(a)", "smaller"),
        ("a = Pad(x, p, low) y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(a)", "dilated"),
    ],
)
def test_padding_that_means_something_else_stays(body, reason):
    stays(declared(make(f"(float[1,4,7,7] x) => (float y) {{ {body} }}", WEIGHTS)), PAD, reason)


def test_padding_with_other_readers_stays():
    model = declared(
        make("(float[1,4,7,7] x) => (float y, float z) { a = Pad(x, p) y = Conv(a, w) z = Conv(a, v) }", WEIGHTS)
    )
    stays(model, PAD)


def test_padding_of_named_axes():
    model = make(
        "(float[1,4,7,7] x) => (float[1,5,8,5] y) { a = Pad(x, s, , q) y = Conv(a, w) }",
        {"w": (5, 4, 3, 3), "s": ints(1, 2), "q": ints(-2)},
        opset=18,
    )
    becomes(model, PAD, {"Conv": 1})


def test_padding_by_attribute():
    """Before opset 11 padding is an attribute."""
    model = make(
        "(float[1,4,7,7] x) => (float[1,5,7,7] y) { a = Pad<pads=[0,0,1,1,0,0,1,1], value=0.0>(x) y = Conv(a, w) }",
        {"w": (5, 4, 3, 3)},
        opset=9,
    )
    result, _ = run(model, *PAD)
    assert operators(result) == {"Conv": 1}
    same(model, result)
