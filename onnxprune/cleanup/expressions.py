"""Small expressions, recognized up to the order of operands: x·c, x + c, x²."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.work import Work

_CLOSE = 1e-6  # relative; constants are written with the digits of their type


def close(a: float | int | bool | None, b: float) -> bool:
    """A constant is this number, up to the rounding of an export."""
    return a is not None and math.isclose(a, b, rel_tol=_CLOSE if b else 0.0, abs_tol=0.0 if b else 1e-12)


def scaled(work: Work, value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Finds x and c where the value is x·c or x/(1/c), for one number c."""
    node = work.producer(value, "Mul", "Div")
    if node is None:
        return None
    if full_name(node) == "Div":
        c = number(work, node.inputs[1])
        return (node.inputs[0], 1 / c) if c and node.inputs[0] is not None else None
    return _with_number(work, node)


def shifted(work: Work, value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Finds x and c where the value is x + c, for one number c."""
    node = work.producer(value, "Add")
    return None if node is None else _with_number(work, node)


def other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The operand of a node of two that is not `value`; `value` itself where it is both."""
    first, second = node.inputs[0], node.inputs[1]
    return second if first is value else first


def number(work: Work, value: ir.Value | None) -> float | None:
    """The number in a constant that does not make what it is combined with larger."""
    if value is None or not work.is_constant(value):
        return None
    shape = work.static_shape(value)
    if shape is None or len(shape) > 1 or math.prod(shape) != 1:
        return None
    found = work.scalar(value)
    return None if found is None else float(found)


def _with_number(work: Work, node: ir.Node) -> tuple[ir.Value, float] | None:
    for k in (0, 1):
        c, x = number(work, node.inputs[1 - k]), node.inputs[k]
        if c is not None and x is not None and not work.is_constant(x):
            return x, c
    return None
