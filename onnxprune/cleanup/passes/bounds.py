"""Bounds of elements and their types: one Clip instead of several, one Cast instead of two."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.signs import not_negative
from onnxprune.cleanup.work import Work

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
_BOUNDS = ("Relu", "Clip")


@node_pass("bounds", phase="clean", ops=_BOUNDS)
def bounds(work: Work, node: ir.Node) -> bool:
    """clip(clip(x, a, b), c, d) = clip(x, a', b') with a' = clip(a, c, d) and b' = clip(b, c, d); Relu is clip(x, 0, ∞).

    1. Nobody else reads the inner one.
    2. Bounds are constants, a ≤ b and c ≤ d; floats.
    3. A Relu of what is never negative is nothing.
    """
    x = node.inputs[0]
    if full_name(node) == "Relu" and not_negative(work, x):
        work.substitute(node.outputs[0], x)  # type: ignore[arg-type]
        return True
    inner = work.producer(x, *_BOUNDS)
    if inner is None or x is None or work.dtype(node.outputs[0] if work.dtype(x) is None else x) not in _FLOATS:
        return False
    first, second = _range(work, inner), _range(work, node)
    if first is None or second is None:
        raise Declined("bounds are computed")
    if first[0] > first[1] or second[0] > second[1]:
        raise Declined("a lower bound is above the upper one")
    low, high = (min(max(bound, second[0]), second[1]) for bound in first)
    if not work.private(x):
        raise Declined("others read the inner one")
    _write(work, node, inner.inputs[0], low, high)
    return True


def _range(work: Work, node: ir.Node) -> tuple[float, float] | None:
    if full_name(node) == "Relu":
        return 0.0, math.inf
    found = []
    for name, index, default in (("min", 1, -math.inf), ("max", 2, math.inf)):
        value = work.input(node, index)
        held = work.attribute(node, name, default) if work.opset < 11 or value is None else work.scalar(value)
        if held is None:
            return None
        found.append(float(held))
    return found[0], found[1]


def _write(work: Work, node: ir.Node, x: ir.Value | None, low: float, high: float) -> None:
    if (low, high) == (0.0, math.inf):
        work.replace(node, "Relu", [x])
        return
    if work.opset < 11:
        given = {"min": low, "max": high}
        work.replace(node, "Clip", [x], {k: v for k, v in given.items() if math.isfinite(v)})
        return
    dtype = work.dtype(x) or work.dtype(node.outputs[0])
    assert dtype is not None
    constants = [
        work.weight(np.array(bound, dtype.numpy()), node.outputs[0]) if math.isfinite(bound) else None
        for bound in (low, high)
    ]
    work.replace(node, "Clip", [x, *constants])


@node_pass("cast-like", phase="clean", ops=("CastLike",))
def cast_like(work: Work, node: ir.Node) -> bool:
    """CastLike(x, t) = Cast(x, type of t): t need not be there for it.

    1. The type of t is known.
    """
    target = work.dtype(node.inputs[1])
    if target is None:
        raise Declined("the type to be cast to is not known")
    kept = {n: a.value for n, a in node.attributes.items()}
    work.replace(node, "Cast", [node.inputs[0]], {"to": int(target), **kept})
    return True


@node_pass("cast-of-cast", phase="clean", ops=("Cast",))
def cast_of_cast(work: Work, node: ir.Node) -> bool:
    """Cast(Cast(x, a), b) = Cast(x, b) where a holds every number of x's type.

    1. Integers up to 32 bits go into float64, up to 16 bits into float32; int64 goes into no float without loss.
    """
    inner = work.producer(node.inputs[0], "Cast")
    if inner is None or node.inputs[0] is None:
        return False
    source, between = work.dtype(inner.inputs[0]), work.dtype(node.inputs[0])
    if source is None or between is None or not _holds(between, source):
        raise Declined("the type in between does not hold every number, or is not known")
    work.set_input(node, 0, inner.inputs[0])
    return True


def _holds(large: ir.DataType, small: ir.DataType) -> bool:
    try:
        a, b = np.dtype(small.numpy()), np.dtype(large.numpy())
    except TypeError:
        return False
    if a.kind not in "biuf" or b.kind not in "biuf":
        return False
    if a.kind in "iu" and b.kind == "f":
        return a.itemsize * 8 <= np.finfo(b).nmant + 1
    return bool(np.can_cast(a, b, "safe"))
