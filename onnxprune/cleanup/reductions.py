"""Which axes a Reduce operator runs over."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.work import Work


def given_axes(work: Work, node: ir.Node) -> list[int] | None:
    """The axes that a Reduce operator names, counted from the front; empty where it names none; None where unknown.

    They are an attribute or, from opset 13 (ReduceSum) and 18 on, an input.

    Raises:
        Declined: the attribute is given by the caller of a function.
    """
    rank = work.rank(node.inputs[0])
    axes = work.attribute(node, "axes")
    given = work.input(node, 1)
    if axes is None:
        array = () if given is None else work.constant(given)
        axes = None if array is None else [int(a) for a in np.reshape(array, -1)]
    if rank is None or axes is None or (axes and not rank):
        return None
    return [a % rank for a in axes]


def reduced_axes(work: Work, node: ir.Node) -> list[int] | None:
    """As `given_axes`; where none are named, all of them, or none with `noop_with_empty_axes`."""
    axes = given_axes(work, node)
    if axes is None or axes or work.attribute(node, "noop_with_empty_axes", 0):
        return axes
    rank = work.rank(node.inputs[0])
    return None if rank is None else list(range(rank))
