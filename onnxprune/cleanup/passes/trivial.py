"""Nodes that hand on what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reductions import reduced_axes
from onnxprune.cleanup.registry import node_pass
from onnxprune.cleanup.work import Work


def _same_shape(work: Work, a: ir.Value | None, b: ir.Value) -> bool:
    """Both shapes are known, the same, and without unknown dimensions."""
    one, other = work.shape(a), work.shape(b)
    return one is not None and one == other and None not in one


def _dropout(work: Work, node: ir.Node) -> bool:
    training = work.input(node, 2)
    off = training is None or (work.is_constant(training) and not work.scalar(training))
    return off and (len(node.outputs) < 2 or (not node.outputs[1].uses() and not node.outputs[1].is_graph_output()))


def _cast(work: Work, node: ir.Node) -> bool:
    dtype = work.dtype(node.inputs[0])
    return dtype is not None and dtype == work.attribute(node, "to")


def _cast_like(work: Work, node: ir.Node) -> bool:
    dtype = work.dtype(node.inputs[0])
    return dtype is not None and dtype == work.dtype(node.inputs[1])


def _transpose(work: Work, node: ir.Node) -> bool:
    perm, rank = work.attribute(node, "perm"), work.rank(node.inputs[0])
    return list(perm) == list(range(len(perm))) if perm is not None else rank is not None and rank < 2


def _moves_nothing(work: Work, node: ir.Node) -> bool:
    return _same_shape(work, node.inputs[0], node.outputs[0])


def _one_input(work: Work, node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _one_output(work: Work, node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _tile(work: Work, node: ir.Node) -> bool:
    repeats = work.constant(node.inputs[1])
    return repeats is not None and bool((repeats == 1).all())


def _pad(work: Work, node: ir.Node) -> bool:
    pads = work.constant(work.input(node, 1)) if work.opset >= 11 else work.attribute(node, "pads")
    return pads is not None and not np.any(np.asarray(pads))


def _slice(work: Work, node: ir.Node) -> bool:
    if work.opset < 10:
        starts, ends = work.attribute(node, "starts"), work.attribute(node, "ends")
        steps: Any = 1
    else:
        starts, ends = work.constant(node.inputs[1]), work.constant(node.inputs[2])
        given = work.input(node, 4)
        steps = 1 if given is None else work.constant(given)
    if starts is None or steps is None or not np.all(np.asarray(steps) == 1):
        return False
    if _same_shape(work, node.inputs[0], node.outputs[0]):
        return True
    return ends is not None and not np.any(np.asarray(starts)) and bool((np.asarray(ends) >= 2**31 - 1).all())


def _clip(work: Work, node: ir.Node) -> bool:
    return all(v is None for v in node.inputs[1:]) and not node.attributes


def _pool(work: Work, node: ir.Node) -> bool:
    kernel, ceil = work.attribute(node, "kernel_shape"), work.attribute(node, "ceil_mode", 0)
    plain = set(kernel or (0,)) == {1} and set(work.attribute(node, "strides", (1,))) == {1} and not ceil
    one = len(node.outputs) == 1 or not (node.outputs[1].uses() or node.outputs[1].is_graph_output())
    padded = any(work.attribute(node, "pads", ())) or work.attribute(node, "auto_pad", "NOTSET") != "NOTSET"
    return plain and one and not padded


_OF_ONE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")  # f of one number is that number


def _ones(work: Work, node: ir.Node, axes: Iterable[int] | None) -> bool:
    """These axes of the input are 1 long."""
    shape = work.shape(node.inputs[0])
    return shape is not None and axes is not None and all(shape[a] == 1 for a in axes)


def _reduction(work: Work, node: ir.Node) -> bool:
    axes = reduced_axes(work, node)
    return _ones(work, node, axes) and (not axes or bool(work.attribute(node, "keepdims", 1)))


def _global_pool(work: Work, node: ir.Node) -> bool:
    return _ones(work, node, range(2, work.rank(node.inputs[0]) or 2))


_NOTHING: dict[str, Callable[[Work, ir.Node], bool]] = {
    "Identity": lambda work, node: True,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _moves_nothing,
    "Flatten": _moves_nothing,
    "Squeeze": _moves_nothing,
    "Unsqueeze": _moves_nothing,
    "Expand": _moves_nothing,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalMaxPool": _global_pool,
    "GlobalAveragePool": _global_pool,
    **dict.fromkeys(_OF_ONE, _reduction),
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Mean": _one_input,
    "Split": _one_output,
}


@node_pass("nothing", phase="clean", ops=tuple(_NOTHING))
def nothing(work: Work, node: ir.Node) -> bool:
    """f(x) = x, so readers of f(x) read x.

    1. Identity; Dropout in inference, where nobody reads its mask; Cast and CastLike to the type that x has.
    2. Moves that leave all elements where they are: Transpose in order, Reshape and its kin to the same shape, Slice of
       everything, Tile once, Pad by nothing, Expand to the same shape.
    3. One of many: Concat, Sum, Max, Min and Mean of one tensor, Split into one part; pooling with a kernel of one;
       means, sums, products and extremes over axes of length 1, by a Reduce operator or a global pool.
    4. An input that is handed on as an output keeps one Identity.
    """
    x = node.inputs[0] if node.inputs else None
    if x is None or not _NOTHING[node.op_type](work, node):
        return False
    out = node.outputs[0]
    stays = out.is_graph_output() and (x.producer() is None or x.is_graph_output() or x.graph is not out.graph)
    if stays and node.op_type == "Identity":
        readers = bool(out.uses())
        for usage in list(out.uses()):
            usage.node.replace_input_with(usage.idx, x)
        return readers
    work.substitute(out, x)
    return True


@node_pass("reduce-ones", phase="clean", ops=_OF_ONE)
def reduce_ones(work: Work, node: ir.Node) -> bool:
    """mean(x) = squeeze(x) over axes of length 1 that are not kept; a sum, a product, a maximum and a minimum too.

    1. It is a move then, and becomes one with those around it. Where the axes are kept nothing is left (`nothing`).
    """
    axes, x = reduced_axes(work, node), node.inputs[0]
    if not axes or work.attribute(node, "keepdims", 1) or not _ones(work, node, axes):
        return False
    if len(axes) == work.rank(x):
        work.replace(node, "Squeeze", [x])  # all of them
    elif work.opset < 13:
        work.replace(node, "Squeeze", [x], {"axes": axes})
    else:
        array = np.array(axes, np.int64)
        work.replace(node, "Squeeze", [x, work.weight(array, node.outputs[0], saved=array.nbytes)])  # that held axes too
    return True
