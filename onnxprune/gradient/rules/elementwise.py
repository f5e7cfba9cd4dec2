"""Functions of one element, and of two that are broadcast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from onnxprune.gradient.registry import REAL, Array, Gradients, Step, derivative

_Slope = Callable[[Array, Array, Mapping[str, Any]], Array]
_ROOT = float(np.sqrt(2 / np.pi))


def _erf_slope(x: Array) -> Array:
    return np.asarray(2 / np.sqrt(np.pi) * np.exp(-x * x))


def _gelu(x: Array, y: Array, a: Mapping[str, Any]) -> Array:
    if a.get("approximate") == "tanh":
        return _fast_gelu(x, y, a)
    return np.asarray(special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi))


def _fast_gelu(x: Array, y: Array, a: Mapping[str, Any]) -> Array:
    t = np.tanh(_ROOT * (x + 0.044715 * x**3))
    return np.asarray((1 + t + x * (1 - t * t) * _ROOT * (1 + 3 * 0.044715 * x * x)) / 2)


def _sigmoid_times(x: Array, alpha: float) -> Array:
    s = special.expit(alpha * x)
    return np.asarray(s + alpha * x * s * (1 - s))


def _mish(x: Array, y: Array, a: Mapping[str, Any]) -> Array:
    t = np.tanh(np.logaddexp(0, x))
    return np.asarray(t + x * special.expit(x) * (1 - t * t))


def _elu(x: Array, alpha: float, gamma: float = 1.0, width: float = 1.0) -> Array:
    return np.where(x > 0, gamma, gamma * alpha * np.exp(np.minimum(x, 0) / width))


def _hard(x: Array, a: Mapping[str, Any]) -> Array:
    alpha, beta = a.get("alpha", 0.2), a.get("beta", 0.5)
    line = alpha * x + beta
    return np.where((line > 0) & (line < 1), alpha, 0.0)


# Slope of y at x, for ONNX operators of one input.
_SLOPES: dict[str, _Slope] = {
    "Abs": lambda x, y, a: np.sign(x),
    "Acos": lambda x, y, a: -1 / np.sqrt(1 - x * x),
    "Acosh": lambda x, y, a: 1 / np.sqrt(x * x - 1),
    "Asin": lambda x, y, a: 1 / np.sqrt(1 - x * x),
    "Asinh": lambda x, y, a: 1 / np.sqrt(x * x + 1),
    "Atan": lambda x, y, a: 1 / (1 + x * x),
    "Atanh": lambda x, y, a: 1 / (1 - x * x),
    "Celu": lambda x, y, a: _elu(x, 1.0, 1.0, a.get("alpha", 1.0)),
    "Cos": lambda x, y, a: -np.sin(x),
    "Cosh": lambda x, y, a: np.sinh(x),
    "Elu": lambda x, y, a: _elu(x, a.get("alpha", 1.0)),
    "Erf": lambda x, y, a: _erf_slope(x),
    "Exp": lambda x, y, a: y,
    "Gelu": _gelu,
    "HardSigmoid": lambda x, y, a: _hard(x, a),
    "HardSwish": lambda x, y, a: np.where(x >= 3, 1.0, np.where(x <= -3, 0.0, (2 * x + 3) / 6)),
    "LeakyRelu": lambda x, y, a: np.where(x > 0, 1.0, a.get("alpha", 0.01)),
    "Log": lambda x, y, a: 1 / x,
    "Mish": _mish,
    "Neg": lambda x, y, a: np.full(x.shape, -1.0),
    "Reciprocal": lambda x, y, a: -y * y,
    "Relu": lambda x, y, a: x > 0,
    "Selu": lambda x, y, a: _elu(x, a.get("alpha", 1.6732632423543772), a.get("gamma", 1.0507009873554805)),
    "Sigmoid": lambda x, y, a: y * (1 - y),
    "Sin": lambda x, y, a: np.cos(x),
    "Sinh": lambda x, y, a: np.cosh(x),
    "Softplus": lambda x, y, a: special.expit(x),
    "Softsign": lambda x, y, a: 1 / (1 + np.abs(x)) ** 2,
    "Sqrt": lambda x, y, a: 0.5 / y,
    "Swish": lambda x, y, a: _sigmoid_times(x, a.get("alpha", 1.0)),
    "Tan": lambda x, y, a: 1 + y * y,
    "Tanh": lambda x, y, a: 1 - y * y,
    "ThresholdedRelu": lambda x, y, a: x > a.get("alpha", 1.0),
}


def _register(op: str, slope: _Slope, domain: str = "") -> None:
    def rule(step: Step) -> Gradients:
        return {0: _times(step.grad, slope(step.need(0), step.out, step.attrs))}

    derivative(op, domain=domain)(rule)


def _times(dy: Array, slope: Array | NDArray[np.bool_]) -> Array:
    return np.asarray(dy * slope, dy.dtype)


for _op, _slope in _SLOPES.items():
    _register(_op, _slope)
_register("Gelu", _gelu, "com.microsoft")
_register("QuickGelu", lambda x, y, a: _sigmoid_times(x, a.get("alpha", 1.702)), "com.microsoft")


@derivative("BiasGelu", domain="com.microsoft")
def bias_gelu(step: Step) -> Gradients:
    """Gelu of a sum."""
    d = _times(step.grad, _gelu(step.need(0) + step.need(1), step.out, {}))
    return {0: d, 1: d}


@derivative("FastGelu", domain="com.microsoft")
def fast_gelu(step: Step) -> Gradients:
    """Gelu by tanh, of a sum where there is a bias."""
    bias = step.given(1)
    x = step.need(0) if bias is None else step.need(0) + bias
    d = _times(step.grad, _fast_gelu(x, step.out, {}))
    return {0: d} if bias is None else {0: d, 1: d}


@derivative("Clip", inputs=[0])
def clip(step: Step) -> Gradients:
    """Limits are attributes, or inputs since version 11."""
    x = step.need(0)
    low, high = (step.given(k) for k in (1, 2))
    least = step.attrs.get("min", -np.inf) if low is None else low
    most = step.attrs.get("max", np.inf) if high is None else high
    return {0: _times(step.grad, (x >= least) & (x <= most))}


@derivative("Identity")
def identity(step: Step) -> Gradients:
    """Nothing changes."""
    return {0: step.grad}


@derivative("Cast", when=lambda n, a: a["to"] in REAL)
@derivative("CastLike")
def cast(step: Step) -> Gradients:
    """Between types of floats; of the second input of CastLike only the type counts."""
    return {0: step.grad}


@derivative("Dropout", inputs=[0])
def dropout(step: Step) -> Gradients:
    """Nothing is dropped at inference."""
    return {0: step.grad}


@derivative("Add")
def add(step: Step) -> Gradients:
    """The sum a + b."""
    return {0: step.grad, 1: step.grad}


@derivative("Sub")
def sub(step: Step) -> Gradients:
    """The difference a - b."""
    return {0: step.grad, 1: -step.grad}


@derivative("Mul")
def mul(step: Step) -> Gradients:
    """The product a * b."""
    return {k: step.grad * step.need(1 - k) for k in step.wanted}


@derivative("Div")
def div(step: Step) -> Gradients:
    """The quotient a / b."""
    b = step.need(1)
    slopes = {0: lambda: 1 / b, 1: lambda: -step.out / b}
    return {k: _times(step.grad, slopes[k]()) for k in step.wanted}


@derivative("Pow")
def power(step: Step) -> Gradients:
    """The power a ^ b, for a > 0 where the gradient of b is asked for."""
    a, b = step.need(0), step.need(1)
    result = {}
    if 0 in step.wanted:
        result[0] = _times(step.grad, b * np.power(a, b - 1))
    if 1 in step.wanted:
        result[1] = _times(step.grad, step.out * np.log(np.maximum(a, np.finfo(np.float32).tiny)))
    return result


@derivative("PRelu", inputs=[0])
def prelu(step: Step) -> Gradients:
    """Itself where x is positive, else x times a slope."""
    return {0: _times(step.grad, np.where(step.need(0) > 0, 1.0, step.need(1)))}


@derivative("Sum")
def total(step: Step) -> Gradients:
    """Sum of all inputs."""
    return dict.fromkeys(step.wanted, step.grad)


@derivative("Mean")
def mean(step: Step) -> Gradients:
    """Mean of all inputs."""
    return dict.fromkeys(step.wanted, step.grad / step.grad.dtype.type(len(step.x)))


@derivative("Max", "Min")
def extreme(step: Step) -> Gradients:
    """To the first input that is as large, or as small, as the result."""
    left = np.ones(step.grad.shape, np.bool_)
    result = {}
    for k in range(len(step.x)):
        here = left & (step.need(k) == step.out)
        result[k] = step.grad * here
        left &= ~here
    return result
