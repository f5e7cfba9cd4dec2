"""Sequences whose parts are known."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxprune.cleanup.registry import node_pass
from onnxprune.cleanup.work import Work


def _parts(work: Work, value: ir.Value | None) -> Sequence[ir.Value] | None:
    """The tensors in a sequence that is built right here."""
    node = work.producer(value, "SequenceConstruct", "SequenceEmpty", "SequenceInsert")
    if node is None:
        return None
    if node.op_type == "SequenceEmpty":
        return []
    if node.op_type == "SequenceConstruct":
        parts = [v for v in node.inputs if v is not None]
        return parts if len(parts) == len(node.inputs) else None
    before, added = _parts(work, node.inputs[0]), node.inputs[1]
    where = work.input(node, 2)
    at = len(before or ()) if where is None else work.scalar(where)
    if before is None or added is None or at is None or not -len(before) <= at <= len(before):
        return None
    parts = list(before)
    parts.insert(int(at), added)
    return parts


@node_pass("sequence-part", phase="clean", ops=("SequenceAt",))
def sequence_part(work: Work, node: ir.Node) -> bool:
    """SequenceAt([a, b], 1) = b.

    1. The sequence is made by SequenceConstruct, SequenceEmpty and SequenceInsert at constant positions.
    2. The position is a constant within it.
    """
    parts, at = _parts(work, node.inputs[0]), work.scalar(node.inputs[1])
    if parts is None or at is None or not -len(parts) <= at < len(parts):
        return False
    work.substitute(node.outputs[0], parts[int(at)])
    return True


@node_pass("sequence-length", phase="clean", ops=("SequenceLength",))
def sequence_length(work: Work, node: ir.Node) -> bool:
    """SequenceLength([a, b]) = 2, of a sequence as in `sequence-part`."""
    import numpy as np

    parts = _parts(work, node.inputs[0])
    if parts is None or node.outputs[0].is_graph_output():
        return False
    work.substitute(node.outputs[0], work.weight(np.array(len(parts), np.int64), node.outputs[0]))
    return True


@node_pass("sequence-concat", phase="clean", ops=("ConcatFromSequence",))
def sequence_concat(work: Work, node: ir.Node) -> bool:
    """ConcatFromSequence([a, b], axis) = Concat(a, b, axis), of a sequence as in `sequence-part`.

    1. `new_axis` is 0: parts are joined, not stacked.
    2. There is at least one part.
    """
    parts = _parts(work, node.inputs[0])
    if not parts or work.attribute(node, "new_axis", 0):
        return False
    work.replace(node, "Concat", parts, {"axis": work.attribute(node, "axis")})
    return True


@node_pass("sequence-split", phase="clean", ops=("SequenceAt",))
def sequence_split(work: Work, node: ir.Node) -> bool:
    """SequenceAt(SplitToSequence(x, sizes), k), for all readers of the sequence, are the outputs of Split(x, sizes).

    1. Every reader of the sequence is a SequenceAt with a constant position.
    2. `keepdims` is 1 and the sizes are a constant list, which Split takes as they are.
    """
    split = work.producer(node.inputs[0], "SplitToSequence")
    if split is None or node.inputs[0] is None or node.inputs[0].is_graph_output():
        return False
    sizes = work.constant(work.input(split, 1), limit=8192)
    readers = [u.node for u in node.inputs[0].uses()]
    if sizes is None or sizes.ndim != 1 or not work.attribute(split, "keepdims", 1) or work.opset < 13:
        return False
    at = [work.scalar(r.inputs[1]) if r.op_type == "SequenceAt" else None for r in readers]
    if any(k is None or not -len(sizes) <= k < len(sizes) for k in at):
        return False
    axis = work.attribute(split, "axis", 0)
    made = work.emit(split, "Split", [split.inputs[0], split.inputs[1]], {"axis": axis}, outputs=len(sizes))
    for reader, k in zip(readers, at, strict=True):
        out = made.outputs[int(k or 0)]
        out.type, out.shape = reader.outputs[0].type, reader.outputs[0].shape
        work.substitute(reader.outputs[0], out)
    return True
