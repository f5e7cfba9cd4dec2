"""Moves: executed on label arrays with the operator's own semantics."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from onnxprune.trace import moves
from onnxprune.trace.labels import Field, Labels
from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule
from onnxprune.trace.unify import Index, contract, unify
from onnxprune.trace.value import Value


@rule("Transpose")
def transpose(op: Op) -> None:
    """Permutes axes."""
    x = op.need(0)
    perm = list(op.attr("perm", range(x.rank - 1, -1, -1)))
    op.outs[0].fields = moves.transpose(op.space, x.fields, perm)
    op.outs[0].why = {perm.index(a): r for a, r in x.why.items()}


@rule("Reshape")
def reshape(op: Op) -> None:
    """Splits and merges axes; target lengths follow."""
    x, target = op.need(0), op.static(1)
    if target is None:
        op.freeze_all(f"{op.what} takes its target from data")
        return
    op.outs[0].fields = moves.reshape(op.space, x.fields, x.sizes, op.outs[0].sizes, op.what)
    op.follow(1, {k: k for k, size in enumerate(target.ravel()) if size > 0})


@rule("Flatten")
def flatten(op: Op) -> None:
    """Merges axes into two."""
    op.outs[0].fields = moves.reshape(op.space, op.need(0).fields, op.need(0).sizes, op.outs[0].sizes, op.what)


@rule("Squeeze", "Unsqueeze")
def squeeze(op: Op) -> None:
    """Drops or adds axes of size 1."""
    x, out = op.need(0), op.outs[0]
    axes = op.ints(1, "axes", [a for a, size in enumerate(x.sizes) if size == 1])
    if axes is None:
        op.freeze_all(f"{op.what} takes its axes from data")
        return
    rank = max(x.rank, out.rank)
    listed = {a % rank for a in axes}
    kept = [a for a in range(rank) if a not in listed]
    position = {a: k for k, a in enumerate(kept)} if op.node.op == "Squeeze" else dict(enumerate(kept))
    out.fields = moves.remap(x.fields, lambda a: position[a])
    out.why = {position[a]: r for a, r in x.why.items() if a in position}


@rule("Concat")
def concat(op: Op) -> None:
    """Puts label arrays one after the other; the other axes are tied."""
    out = op.outs[0]
    axis = int(op.attr("axis", 1)) % out.rank
    values = [op.need(i) for i in range(len(op.ins))]
    along = [v.field_on(axis) for v in values]
    shapes = {f.axes for f in along if f is not None}
    if len(shapes) > 1 or (any(len(s) > 1 for s in shapes) and None in along):
        along = [None if f is None else Field((axis,), op.space.separate(f, axis), f.zero) for f in along]
        rest = [_apart(op, v, axis) for v in values]
        shapes = {(axis,)}
    else:
        rest = [replace(v, fields=[f for f in v.fields if axis not in f.axes]) for v in values]
    names: list[Index] = [None if a == axis else a for a in range(out.rank)]
    covered = next(iter(shapes), ())
    hidden = [None if a in covered else n for a, n in enumerate(names)]
    fields = contract(op.space, [(v, hidden) for v in rest], hidden, op.what, zero=all)
    if shapes:
        position = covered.index(axis)
        parts = []
        for v, f in zip(values, along, strict=True):
            if f is None:
                fixed = op.space.fresh(v.sizes[axis])
                op.space.freeze(fixed, f"{op.what} appends {v.reason(axis)}")
                parts.append(fixed)
            else:
                parts.append(f.labels)
        joined = moves.make_field(
            op.space, covered, np.concatenate(parts, axis=position), all(f is not None and f.zero for f in along)
        )
        fields += [joined] if joined else []
    out.fields = fields


def _apart(op: Op, v: Value, axis: int) -> Value:
    """A value whose field over `axis` is split into single axes, without `axis` itself."""
    fields = []
    for f in v.fields:
        if axis not in f.axes:
            fields.append(f)
            continue
        fields += [Field((a,), op.space.separate(f, a), f.zero) for a in f.axes if a != axis]
    return replace(v, fields=fields)


def part(op: Op, value: Value, axis: int, start: int, stop: int) -> list[Field]:
    """Fields of a contiguous part; the parts before and behind it stay boxes too."""
    f = value.field_on(axis)
    if f is not None and f.joint and f.axes[-1] == axis:
        for a, b in ((0, start), (stop, value.sizes[axis])):
            rest = moves.make_field(op.space, f.axes, f.labels[..., a:b], f.zero) if b > a else None
            if rest is not None and rest.joint:
                op.space.grid(rest.labels)
    return moves.select(op.space, value.fields, axis, lambda labels, p: np.take(labels, range(start, stop), axis=p))


@rule("Split", "SplitToSequence")
def split(op: Op) -> None:
    """Consecutive parts of one axis; listed sizes follow."""
    x = op.need(0)
    axis = op.axis()
    if op.node.op == "SplitToSequence":
        op.freeze_all(f"{op.what} makes a sequence")
        return
    start = 0
    f = x.field_on(axis)
    for k, out in enumerate(op.outs):
        stop = start + out.sizes[axis]
        out.fields = part(op, x, axis, start, stop)
        out.why = dict(x.why)
        if f is not None:
            position = f.axes.index(axis)
            labels = np.take(f.labels, range(start, stop), axis=position)
            op.count("split" if op.version < 13 else 1, k, labels, position)
        start = stop


@rule("Slice")
def slice_(op: Op) -> None:
    """Bounds follow; steps keep whole strides."""
    x = op.need(0)
    starts, ends = op.ints(1, "starts"), op.ints(2, "ends")
    axes = op.ints(3, "axes", range(len(starts or ())))
    steps = op.ints(4, "steps", [1] * len(starts or ()))
    if starts is None or ends is None or axes is None or steps is None:
        for axis in range(x.rank):
            if axes is None or axis in {a % x.rank for a in axes}:
                op.freeze_axis(x, axis, f"{op.what} cuts it at bounds that depend on data")
        fields = [f for f in x.fields if axes is not None and not {a % x.rank for a in axes} & set(f.axes)]
        op.outs[0].fields = fields
        return
    value = x
    for element, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        axis %= x.rank
        if op.version >= 10 and (op.varies(1, element) or op.varies(2, element)) and value.field_on(axis):
            op.freeze_axis(value, axis, f"{op.what} cuts it elsewhere at other input sizes")
        value = replace(value, fields=_slice_axis(op, value, axis, slice(start, end, step), element))
    op.outs[0].fields = value.fields
    op.outs[0].why = dict(x.why)


def _slice_axis(op: Op, x: Value, axis: int, bounds: slice, element: int) -> list[Field]:
    f, size = x.field_on(axis), x.sizes[axis]
    picked = range(size)[bounds]
    if f is None or picked == range(size):
        return x.fields
    if picked == range(size - 1, -1, -1):
        op.space.separate(f, axis)
        return moves.select(op.space, x.fields, axis, lambda labels, p: np.flip(labels, p))
    if len(picked) == 0 or picked.step < 0 or size % picked.step:
        op.freeze_axis(x, axis, f"{op.what} takes every {bounds.step}th slice")
        return moves.select(op.space, x.fields, axis, lambda labels, p: np.take(labels, picked, axis=p))
    position = f.axes.index(axis)
    if picked.step > 1:  # whole strides go together, then positions within a stride stay what they were
        own = op.space.separate(f, axis).reshape(-1, picked.step)
        op.space.tie(own, own[:, :1])
    start = picked.start - picked.start % picked.step
    stop = min(size, picked.start + picked.step * len(picked) - picked.start % picked.step)
    names = ("starts", "ends") if op.version < 10 else (1, 2)
    before = np.take(f.labels, range(start), axis=position)
    until = np.take(f.labels, range(stop), axis=position)
    if picked.start or bounds.start < 0:
        due = f.labels if bounds.start < 0 else None
        op.count(names[0], element, before, position, add=picked.start - start, due=due)
    if bounds.stop < size:
        op.count(names[1], element, until, position, due=f.labels if bounds.stop < 0 else None)
    if picked.step == 1:
        return part(op, x, axis, picked.start, picked.stop)
    return moves.select(op.space, x.fields, axis, lambda labels, p: np.take(labels, picked, axis=p))


@rule("Pad")
def pad(op: Op) -> None:
    """Padded slices are new channels that hold a constant; how many there are follows."""
    x = op.need(0)
    pads = op.ints(1, "pads")
    axes = op.ints(3, "axes", range(x.rank))
    if pads is None or axes is None:
        op.freeze_all(f"{op.what} pads by amounts that depend on data")
        return
    constant = op.attr("mode", "constant") in ("constant", b"constant")
    value = op.attr("value", 0.0) if op.version < 11 else (0.0 if op.given(2) is None else op.static(2))
    zero = constant and value is not None and not np.any(np.asarray(value))
    fields = list(x.fields)
    slot = "pads" if "pads" in op.node.attrs else 1
    for k, axis in enumerate(a % x.rank for a in axes):
        begin, end = pads[k], pads[k + len(axes)]
        f = x.field_on(axis)
        if f is None or (begin == 0 and end == 0):
            continue
        fields.remove(f)
        if f.joint or not constant or begin < 0 or end < 0:
            op.freeze_axis(x, axis, f"{op.what} pads it")
            fields += [Field((a,), op.space.separate(f, a), False) for a in f.axes if a != axis]
            continue
        first, last = op.space.fresh(begin), op.space.fresh(end)
        for element, labels in ((k, first), (k + len(axes), last)):
            if labels.size:
                op.count(slot, element, labels)
        fields.append(Field((axis,), np.concatenate([first, f.labels, last]), f.zero and zero))
    op.outs[0].fields = fields if zero else [Field(f.axes, f.labels, f.zero and len(f.axes) == 1) for f in fields]


@rule("Tile")
def tile(op: Op) -> None:
    """Repeats label arrays."""
    x, repeats = op.need(0), op.static(1)
    if repeats is None:
        op.freeze_all(f"{op.what} repeats as often as data says")
        return
    fields = []
    for f in x.fields:
        moved = moves.make_field(op.space, f.axes, np.tile(f.labels, [int(repeats[a]) for a in f.axes]), f.zero)
        fields += [moved] if moved else []
    op.outs[0].fields = fields


@rule("Expand")
def expand(op: Op) -> None:
    """Broadcast axes get labels of their own: any slice of them can go."""
    x, out = op.need(0), op.outs[0]
    target = op.static(1)
    shift = out.rank - x.rank
    out.fields = moves.remap(x.fields, lambda a: a + shift)
    if target is None or out.static is not None:
        return
    for axis, size in enumerate(out.sizes):
        if size > 1 and (axis < shift or x.sizes[axis - shift] == 1):
            out.fields.append(Field((axis,), op.space.fresh_free(size), False))
    offset = out.rank - target.size
    op.follow(1, {k: k + offset for k, size in enumerate(target.ravel()) if size > 1})


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> None:
    """A constant of any length: each slice of it can go."""
    value = op.attr("value")
    filled = 0.0 if value is None else float(np.asarray(value.values).ravel()[0])
    out = op.outs[0]
    if op.static(0) is None or not out.shape or out.static is not None:
        return
    op.label_output(zero=filled == 0)
    op.follow(0, {k: k for k in range(out.rank)})


@rule("Shape", "Size")
def shape(op: Op) -> None:
    """Lengths are followed wherever they go; nothing to tie."""
    for f in op.need(0).fields:
        op.space.end(f.labels)


@rule("Col2Im")
def col2im(op: Op) -> None:
    """(N, C * block, L) to (N, C, ...): all columns of a channel go together."""
    x = op.need(0)
    op.freeze_axis(x, 2)
    labels = op.alone(x, 1)
    block = op.static(2)
    if labels is None or block is None:
        op.freeze(x)
        return
    cells = labels.reshape(-1, int(np.prod(block)))
    op.space.tie(cells, cells[:, :1])
    f = x.field_on(1)
    op.outs[0].fields = [Field((1,), np.ascontiguousarray(cells[:, 0]), bool(f and f.zero))]


def tied_elsewhere(op: Op, positions: list[int], axis: int) -> list[Field]:
    """Ties operands of one rank on all axes but one, which none of them may shrink."""
    operands = []
    for i in positions:
        value = op.need(i)
        op.freeze_axis(value, axis)
        names = cast("list[Index]", [None if a == axis else a for a in range(value.rank)])
        operands.append((_apart(op, value, axis), names))
    unified = unify(op.space, operands, op.what)
    return [Field(tuple(sorted(cast("list[int]", list(f.names)))), _ordered(f.names, f.labels), False) for f in unified]


def _ordered(names: tuple[Index, ...], labels: Labels) -> Labels:
    return np.ascontiguousarray(labels.transpose(np.argsort(cast("list[int]", list(names)))))
