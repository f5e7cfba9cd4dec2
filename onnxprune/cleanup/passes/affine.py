"""Arithmetic by channel goes into weights."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.cleanup.affine import linear, moves, scaled, through  # noqa: F401  (their rules register)
from onnxprune.cleanup.affine.affine import READ, Affine, affine_of
from onnxprune.cleanup.affine.plan import Plan
from onnxprune.cleanup.gelu import gelu_around
from onnxprune.cleanup.reading import full_name
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
    3. The file does not grow: weights that others read too would have to be copied. Where all who read a weight are followed
       (or preceded) by equal functions, it takes them over at once, and stays shared: the branches of a siamese network.
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
    try:
        plan = _planned(work, node, index, function, upward=upward)
        try:
            plan.commit()
        except Declined:
            if not _with_partners(plan, node, upward=upward):
                raise
            plan.commit()
    except Declined as reason:
        return str(reason)
    for spared, data in plan.spares.items():
        value = spared.inputs[data]
        assert value is not None
        work.substitute(spared.outputs[0], value)
        if spared.graph is not None and not any(o.uses() or o.is_graph_output() for o in spared.outputs):
            work.remove(spared)
    return ""


def _planned(work: Work, node: ir.Node, index: int, function: Affine, *, upward: bool) -> Plan:
    plan = Plan(work, {node: index})
    if upward:
        plan.up(node, index, function)
    else:
        plan.down(node, 0, function)
    return plan


def _with_partners(plan: Plan, node: ir.Node, *, upward: bool) -> bool:
    """Adds the nodes with the same constants that would give a shared weight the same new elements, if there are any."""
    work = plan.work
    constants = [x for x in node.inputs if x is not None and work.is_constant(x)]
    readers = dict.fromkeys(usage.node for x in constants for usage in x.uses())
    joined = False
    for other in readers:
        if full_name(other) != full_name(node) or other is node or gelu_around(work, other):
            continue
        try:
            found = affine_of(work, other)
            if found is not None and not work.is_constant(other.inputs[found[0]]):
                joined |= plan.join(_planned(work, other, *found, upward=upward))
        except Declined:
            continue
    return joined
