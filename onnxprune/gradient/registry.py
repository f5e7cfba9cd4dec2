"""Derivatives of operators. One decorator registers them, by domain and operator.

A rule gets one run of a node (`Step`) and returns the gradients of its inputs, by position. It may leave positions out that
are not `wanted`. What is broadcast is summed by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

Array = NDArray[Any]


@dataclass
class Step:
    """One run of a node, and the gradients of its outputs.

    Attributes:
        node: the node.
        attrs: its attributes.
        version: of its operator set.
        x: values of its inputs; None where there is none.
        y: values of its outputs; None where it has no name.
        dy: gradients of its outputs; None where the loss does not depend on one.
        wanted: positions of inputs whose gradients are asked for.
        memory: of the node, from run to run.
        products: for a recurrent node, position of R -> gradient times value `(samples, directions, hidden)`, see `gates`.
    """

    node: onnx.NodeProto
    attrs: Mapping[str, Any]
    version: int
    x: Sequence[Array | None]
    y: Sequence[Array | None]
    dy: Sequence[Array | None]
    wanted: set[int]
    memory: dict[Any, Any] = field(default_factory=dict)
    products: dict[int, Array] = field(default_factory=dict)

    def need(self, k: int) -> Array:
        """An input that is not optional."""
        found = self.x[k]
        assert found is not None
        return found

    def given(self, k: int) -> Array | None:
        """An optional input."""
        return self.x[k] if k < len(self.x) else None

    @property
    def out(self) -> Array:
        """The first output."""
        assert self.y[0] is not None
        return self.y[0]

    @property
    def grad(self) -> Array:
        """Gradient of the first output."""
        assert self.dy[0] is not None
        return self.dy[0]


Gradients = Mapping[int, Array]
Rule = Callable[[Step], Gradients]
Condition = Callable[[onnx.NodeProto, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Derivative:
    """A registered rule.

    Attributes:
        rule: from a step to gradients.
        inputs: positions that it has gradients for; None: all.
        when: it holds for nodes that pass this test only.
    """

    rule: Rule
    inputs: frozenset[int] | None = None
    when: Condition | None = None


_rules: dict[tuple[str, str], Derivative] = {}
# Outputs that do not change as inputs do, almost everywhere: the gradient is 0, which is exact.
_FLAT = {
    "And", "ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "IsInf",
    "IsNaN", "Less", "LessOrEqual", "NonZero", "Not", "Or", "Round", "Shape", "Sign", "Size", "Xor",
}  # fmt: skip
REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def is_flat(node: onnx.NodeProto, attrs: Mapping[str, Any]) -> bool:
    """The outputs of a node are piecewise constant."""
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in _FLAT or (node.op_type == "Cast" and attrs["to"] not in REAL)


def derivative(
    *ops: str, domain: str = "", inputs: Sequence[int] | None = None, when: Condition | None = None
) -> Callable[[Rule], Rule]:
    """Registers a rule for some operators.

    Args:
        ops: operator types.
        domain: of the operators; empty for ONNX's own.
        inputs: positions of the inputs that the rule has gradients for; all where not given.
        when: what a node has to be like.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            _rules[domain, op] = Derivative(rule, None if inputs is None else frozenset(inputs), when)
        return rule

    return register


@cache
def _load() -> None:
    from importlib import import_module

    for family in ("contractions", "elementwise", "moves", "normalization", "pooling", "recurrent", "reductions"):
        import_module(f"onnxprune.gradient.rules.{family}")


def find(domain: str, op: str) -> Derivative | None:
    """The rule of an operator."""
    _load()
    return _rules.get(("" if domain == "ai.onnx" else domain, op))


def summed_to(gradient: Array, shape: Sequence[int]) -> Array:
    """The gradient of a tensor that was broadcast: sums over what was repeated."""
    shape = tuple(shape)
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra)))
    axes = tuple(k for k, n in enumerate(shape) if n == 1 and gradient.shape[k] != 1)
    return np.broadcast_to(gradient.sum(axis=axes, keepdims=True) if axes else gradient, shape)
