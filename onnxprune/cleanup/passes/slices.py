"""Parts of tensors, and tensors that are repeated, in the fewest nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.work import Work

_BROADCASTS = {
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And",
    "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Min", "Max", "Sum", "Mean", "Where", "PRelu",
}  # fmt: skip
_END = 1 << 62


@dataclass(frozen=True)
class _Bounds:
    """What a Slice cuts out: for each axis the first index, the one behind the last, and the step, as they are written."""

    of: dict[int, tuple[int, int, int]]


@node_pass("expand-operand", phase="clean", ops=("Expand",))
def expand_operand(work: Work, node: ir.Node) -> bool:
    """f(expand(x), y) = f(x, y) for a pointwise f whose other operands have the expanded shape.

    1. Every axis that Expand makes longer is as long in another operand, so f repeats x along it by itself.
    2. f broadcasts: since opset 7; PRelu broadcasts its slope alone.
    """
    out, x = node.outputs[0], node.inputs[0]
    before, after = work.shape(x), work.shape(out)
    if x is None or before is None or after is None or work.opset < 8:
        return False
    changed = False
    for usage in list(out.uses()):
        if full_name(usage.node) not in _BROADCASTS or (full_name(usage.node) == "PRelu" and usage.idx == 0):
            continue
        others = [work.shape(v) for k, v in enumerate(usage.node.inputs) if k != usage.idx]
        if any(s is not None and _covers(s, before, after) for s in others):
            work.set_input(usage.node, usage.idx, x)
            changed = True
    return changed


def _covers(other: tuple[object, ...], before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    """Broadcasting with `other` makes the small shape as large as the large one."""
    if len(other) < len(after):
        return False
    for k in range(1, len(after) + 1):
        small = before[-k] if k <= len(before) else 1
        if (small is None or small != after[-k]) and (after[-k] is None or other[-k] != after[-k]):
            return False
    return True


@node_pass("slice-of-slice", phase="normalize", ops=("Slice",), since=10)
def slice_of_slice(work: Work, node: ir.Node) -> bool:
    """x[a][b] = x[a, b] for two Slices along different axes.

    1. Nobody else reads the first one, and all bounds are constants.
    """
    inner = work.producer(node.inputs[0], "Slice")
    if inner is None or not work.private(inner.outputs[0]):
        return False
    first, second = _bounds(work, inner), _bounds(work, node)
    if first is None or second is None:
        raise Declined("bounds are computed")
    if set(first.of) & set(second.of):
        raise Declined("both cut along the same axis")
    merged = {**first.of, **second.of}
    axes = sorted(merged)
    columns = [[merged[a][0] for a in axes], [merged[a][1] for a in axes], axes, [merged[a][2] for a in axes]]
    constants = [work.weight(np.array(c, np.int64), node.outputs[0]) for c in columns]
    work.replace(node, "Slice", [inner.inputs[0], *constants])
    return True


def _bounds(work: Work, node: ir.Node) -> _Bounds | None:
    rank = work.rank(node.inputs[0])
    held = [work.constant(work.input(node, k)) for k in (1, 2, 3, 4)]
    if rank is None or held[0] is None or held[1] is None:
        return None
    if any(h is None and work.input(node, k) is not None for k, h in enumerate(held, 1)):
        return None
    starts, ends = held[0], held[1]
    axes = held[2] if held[2] is not None else np.arange(len(starts))
    steps = held[3] if held[3] is not None else np.ones(len(starts), np.int64)
    of = {int(a) % rank: (int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}
    return _Bounds(of) if len(of) == len(starts) else None


def _single(work: Work, node: ir.Node) -> tuple[int, int, int, int] | None:
    """Axis, first index, last index and length of the axis, of a Slice along one axis of known length with step 1."""
    bounds = _bounds(work, node) if work.opset >= 10 else None
    shape = work.shape(node.inputs[0])
    if bounds is None or len(bounds.of) != 1 or shape is None:
        return None
    ((axis, (start, end, step)),) = bounds.of.items()
    size = shape[axis]
    if step != 1 or not isinstance(size, int):
        return None
    start, end, _ = slice(start, min(end, _END)).indices(size)
    return axis, start, end, size


@node_pass("split", phase="normalize", ops=("Slice",), since=10)
def split(work: Work, node: ir.Node) -> bool:
    """x[0:a], x[a:b], x[b:] = Split(x): Slices that share out one axis are one node.

    1. Together they hold each element once; all of them have step 1, in the same graph.
    """
    mine = _single(work, node)
    x = node.inputs[0]
    if mine is None or x is None:
        return False
    axis, _, _, size = mine
    parts: dict[tuple[int, int], ir.Node] = {}
    for usage in x.uses():
        found = _single(work, usage.node) if full_name(usage.node) == "Slice" and usage.node.graph is node.graph else None
        if found is not None and found[0] == axis and usage.idx == 0 and usage.node.outputs[0].uses():
            parts.setdefault(found[1:3], usage.node)
    cuts = _share_out(set(parts), size)
    if cuts is None or mine[1:3] not in cuts or len(cuts) < 2:
        return False
    nodes = [parts[c] for c in cuts]
    first = next(n for n in node.graph if n in nodes)  # type: ignore[union-attr]
    sizes = [end - start for start, end in cuts]
    inputs: list[ir.Value | None] = [x]
    attributes: dict[str, object] = {"axis": axis}
    if work.opset >= 13:
        inputs.append(work.weight(np.array(sizes, np.int64), x))
    else:
        attributes["split"] = sizes
    made = work.emit(first, "Split", inputs, attributes, outputs=len(cuts), like=x)  # type: ignore[arg-type]
    for old, out in zip(nodes, made.outputs, strict=True):
        out.type, out.shape = old.outputs[0].type, old.outputs[0].shape
        work.substitute(old.outputs[0], out)
    return True


def _share_out(cuts: set[tuple[int, int]], size: int) -> list[tuple[int, int]] | None:
    """Cuts in order that cover the axis once, the shortest first where there is a choice."""
    found, at = [], 0
    while at < size:
        following = min((c for c in cuts if c[0] == at and c[1] > at), default=None)
        if following is None:
            return None
        found.append(following)
        at = following[1]
    return found


@node_pass("index", phase="normalize", ops=("Squeeze", "Unsqueeze"))
def index(work: Work, node: ir.Node) -> bool:
    """squeeze(x[i:i+1]) = gather(x, i), and unsqueeze(gather(x, i)) = x[i:i+1] as gather(x, [i]).

    1. The axis that is squeezed is the one that is cut, or the one that was gathered along comes back at its place.
    2. A Split into parts that are all squeezed is a Gather for each.
    3. Nobody else reads what is in between.
    """
    axes = _squeezed_axes(work, node)
    if axes is None or len(axes) != 1:
        return False
    if full_name(node) == "Unsqueeze":
        return _unsqueezed(work, node, axes[0])
    source = work.producer(node.inputs[0], "Slice")
    found = _single(work, source) if source is not None and work.private(source.outputs[0]) else None
    rank = work.rank(node.inputs[0])
    if source is not None and found is not None and rank is not None:
        axis, start, end, _ = found
        if end - start != 1 or axes[0] % rank != axis:
            return False
        number = work.weight(np.array(start, np.int64), node.outputs[0])
        work.replace(node, "Gather", [source.inputs[0], number], {"axis": axis})
        return True
    return _split_up(work, node)


def _split_up(work: Work, node: ir.Node) -> bool:
    source = work.producer(node.inputs[0], "Split")
    rank = work.rank(node.inputs[0])
    if source is None or rank is None:
        return False
    axis = work.attribute(source, "axis", 0) % rank
    readers = [work.reader(o, "Squeeze") for o in source.outputs]
    for out, reader in zip(source.outputs, readers, strict=True):
        shape = work.shape(out)
        axes = None if reader is None else _squeezed_axes(work, reader)
        if shape is None or shape[axis] != 1 or axes is None or [a % rank for a in axes] != [axis]:
            return False
    for k, reader in enumerate(readers):
        assert reader is not None
        number = work.weight(np.array(k, np.int64), reader.outputs[0])
        work.replace(reader, "Gather", [source.inputs[0], number], {"axis": axis})
    return True


def _unsqueezed(work: Work, node: ir.Node, axis: int) -> bool:
    source = work.producer(node.inputs[0], "Gather")
    rank = work.rank(node.outputs[0])
    if source is None or rank is None or not work.private(source.outputs[0]):
        return False
    along = work.attribute(source, "axis", 0) % rank
    which = work.constant(source.inputs[1])
    if which is None or which.ndim != 0 or axis % rank != along or work.is_constant(source.inputs[0]):
        return False
    number = work.weight(which.reshape(1), source.inputs[1] or node.outputs[0])
    work.replace(node, "Gather", [source.inputs[0], number], {"axis": along})
    return True


def _squeezed_axes(work: Work, node: ir.Node) -> list[int] | None:
    attribute = work.attribute(node, "axes")
    if attribute is not None:
        return [int(a) for a in attribute]
    array = work.constant(work.input(node, 1))
    return None if array is None else [int(a) for a in array.reshape(-1)]


@node_pass("concat-of-concat", phase="normalize", ops=("Concat",))
def concat_of_concat(work: Work, node: ir.Node) -> bool:
    """concat(concat(x, y), z) = concat(x, y, z) along one axis.

    1. Nobody else reads the inner one.
    """
    rank, axis = work.rank(node.outputs[0]), work.attribute(node, "axis", 0 if work.opset < 4 else None)
    if rank is None or axis is None:
        return False
    flat: list[ir.Value | None] = []
    for value in node.inputs:
        inner = work.producer(value, "Concat")
        same = inner is not None and value is not None and work.private(value)
        if inner is not None and same and work.attribute(inner, "axis", 1) % rank == axis % rank:
            flat.extend(inner.inputs)
        else:
            flat.append(value)
    if len(flat) == len(node.inputs):
        return False
    work.replace(node, "Concat", flat, {"axis": axis})
    return True


@node_pass("sum-of-two", phase="normalize", ops=("Sum",), since=8)
def sum_of_two(work: Work, node: ir.Node) -> bool:
    """Sum(x, y) = Add(x, y), which more passes and runtimes know."""
    if len(node.inputs) != 2:
        return False
    work.replace(node, "Add", list(node.inputs))
    return True
