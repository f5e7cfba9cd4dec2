"""The written-out Gelu: x·Φ(x) with Φ(x) = (1 + erf(x/√2)) / 2, or with a tanh instead of the erf."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.cleanup.expressions import close, number, other, scaled, shifted
from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.work import Work

_CUBE = 0.044715
_ROOT = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Gelu:
    """A Gelu.

    Attributes:
        x: what it is applied to.
        sum: the node that makes 1 + erf(...).
        tail: the nodes behind it, in order: the products with x and 1/2.
        tanh: it is the approximation.
        last: the node that makes the result.
    """

    x: ir.Value
    sum: ir.Node
    tail: tuple[ir.Node, ...]
    tanh: bool

    @property
    def last(self) -> ir.Node:
        """The node that makes the result."""
        return self.tail[-1]

    @property
    def in_order(self) -> bool:
        """It is spelled (x·(1 + erf))·½ or (½·x)·(1 + erf), which runtimes know."""
        return any(self.x in node.inputs for node in self.tail[:1])


def gelu_of(work: Work, core: ir.Node) -> Gelu | None:
    """The Gelu around an Erf or a Tanh."""
    tanh = full_name(core) == "Tanh"
    x = _inside_tanh(work, core.inputs[0]) if tanh else _inside_erf(work, core.inputs[0])
    one = work.reader(core.outputs[0], "Add")
    if x is None or one is None or not close(number(work, other(one, core.outputs[0])), 1.0):
        return None
    tail = _tail(work, one, x)
    return None if tail is None else Gelu(x, one, tail, tanh)


def gelu_around(work: Work, node: ir.Node) -> bool:
    """The node is one of the products at the end of a written-out Gelu."""
    for value in node.inputs:
        for start in (value, *_inner(work, value)):
            one = work.producer(start, "Add")
            core = one and next((c for v in one.inputs if (c := work.producer(v, "Erf", "Tanh")) is not None), None)
            found = core and gelu_of(work, core)
            if found and node in found.tail:
                return True
    following = work.reader(node.outputs[0], "Mul")
    return following is not None and following is not node and _half_first(work, node, following)


def _inner(work: Work, value: ir.Value | None) -> tuple[ir.Value | None, ...]:
    node = work.producer(value, "Mul")
    return () if node is None else tuple(node.inputs)


def _half_first(work: Work, node: ir.Node, following: ir.Node) -> bool:
    """The node is the ½·x of (½·x)·(1 + erf)."""
    one = work.producer(other(following, node.outputs[0]), "Add")
    core = one and next((c for v in one.inputs if (c := work.producer(v, "Erf", "Tanh")) is not None), None)
    found = core and gelu_of(work, core)
    return bool(found and found.tail == (node, following))


def _tail(work: Work, one: ir.Node, x: ir.Value) -> tuple[ir.Node, ...] | None:
    """The products of 1 + erf with x and ½, in whatever order."""
    first = work.reader(one.outputs[0], "Mul")
    if first is None:
        return None
    with_what = other(first, one.outputs[0])
    half = scaled(work, with_what)
    if half is not None and half[0] is x and close(half[1], 0.5) and with_what is not None and work.private(with_what):
        inner = with_what.producer()
        return None if inner is None else (inner, first)
    second = work.reader(first.outputs[0], "Mul", "Div")
    if second is None:
        return None
    if with_what is x:
        found = scaled(work, second.outputs[0])
        return (first, second) if found is not None and found[0] is first.outputs[0] and close(found[1], 0.5) else None
    if close(number(work, with_what), 0.5) and full_name(second) == "Mul" and other(second, first.outputs[0]) is x:
        return (first, second)
    return None


def _inside_erf(work: Work, value: ir.Value | None) -> ir.Value | None:
    found = scaled(work, value)
    return found[0] if found is not None and close(found[1], math.sqrt(0.5)) else None


def _inside_tanh(work: Work, value: ir.Value | None) -> ir.Value | None:
    """Finds x in √(2/π)·(x + 0.044715·x³), or in √(2/π)·x·(1 + 0.044715·x²)."""
    outer = scaled(work, value)
    if outer is not None and close(outer[1], _ROOT):
        node = work.producer(outer[0], "Add")
        for k in (0, 1) if node is not None else ():
            x, cubed = node.inputs[k], scaled(work, node.inputs[1 - k])  # type: ignore[union-attr]
            if x is not None and cubed is not None and close(cubed[1], _CUBE) and _power(work, cubed[0], x, 3):
                return x
    return _inside_product(work, value)


def _inside_product(work: Work, value: ir.Value | None) -> ir.Value | None:
    node = work.producer(value, "Mul")
    for k in (0, 1) if node is not None else ():
        assert node is not None
        first, second = scaled(work, node.inputs[k]), shifted(work, node.inputs[1 - k])
        if first is None or second is None or not close(first[1], _ROOT) or not close(second[1], 1.0):
            continue
        square = scaled(work, second[0])
        if square is not None and close(square[1], _CUBE) and _power(work, square[0], first[0], 2):
            return first[0]
    return None


def _power(work: Work, value: ir.Value | None, x: ir.Value, exponent: int) -> bool:
    """The value is x to a power of 1, 2 or 3."""
    if exponent == 1:
        return value is x
    node = work.producer(value, "Pow", "Mul")
    if node is None:
        return False
    if full_name(node) == "Pow":
        return node.inputs[0] is x and close(number(work, node.inputs[1]), float(exponent))
    return any(node.inputs[k] is x and _power(work, node.inputs[1 - k], x, exponent - 1) for k in (0, 1))
