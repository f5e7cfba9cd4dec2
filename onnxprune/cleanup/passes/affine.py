"""Arithmetic by channel goes into weights."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.cleanup.affine import linear, moves, scaled, through  # noqa: F401  (their rules register)
from onnxprune.cleanup.affine.affine import READ, Affine, affine_of
from onnxprune.cleanup.affine.plan import Plan
from onnxprune.cleanup.gelu import gelu_around
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.work import Work


@node_pass("affine", phase="absorb", ops=READ)
def affine(work: Work, node: ir.Node) -> bool:
    """An affine y = s·x + t with constant s and t moves into what makes x, or into all that reads y; the node goes.

    BatchNormalization at inference, and Mul, Div, Add and Sub with a constant, are such functions. s and t may be numbers,
    or differ along any axes. Weights take them over: of Conv, ConvTranspose, Gemm, MatMul, normalizations, tables, and the
    constants of other such nodes (so BN-Mul-Add becomes BN). Operators in between hand them on: Relu where s > 0, pools,
    Concat and Split by parts, Reshape, Transpose, sums and products. The rules in `cleanup/affine/` say how, and what is
    exact.

    1. Towards x: everything on the way has one reader, or other readers would see the change.
    2. Towards y: all readers take it over, and y is no output of a graph.
    3. The file does not grow: weights that others read too would have to be copied.
    4. A Gelu that has to stay written out is left alone: runtimes know it as a whole.
    5. Types are floats; 16-bit weights only where the new ones are exact. Constants that broadcast x to a larger shape stay.
    """
    found = affine_of(work, node)
    if found is None:
        return False
    index, function = found
    if work.is_constant(node.inputs[index]):
        return False  # a constant, for fold-constants
    if gelu_around(work, node):
        raise Declined("it is part of a Gelu, which ONNX Runtime runs as one operator")
    before = _absorbed(work, node, index, function, upward=True)
    after = before and _absorbed(work, node, index, function, upward=False)
    if before and after:
        raise Declined(f"before it: {before}; behind it: {after}")
    return True


def _absorbed(work: Work, node: ir.Node, index: int, function: Affine, *, upward: bool) -> str:
    """Removes the node if weights on one side can take its function over; else says why they can't."""
    value = node.inputs[index]
    assert value is not None
    plan = Plan(work)
    try:
        if upward:
            plan.up(node, index, function)
        else:
            plan.down(node, 0, function)
        plan.commit(node)
    except Declined as reason:
        return str(reason)
    work.substitute(node.outputs[0], value)
    if node.graph is not None and not any(o.uses() or o.is_graph_output() for o in node.outputs):
        work.remove(node)
    return ""
