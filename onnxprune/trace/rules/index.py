"""Indexing: constant indices move labels, indices that depend on data freeze the axis they look up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxprune.trace import moves
from onnxprune.trace.labels import Field
from onnxprune.trace.op import Edit, Op
from onnxprune.trace.registry import rule
from onnxprune.trace.rules.move import tied_elsewhere
from onnxprune.trace.unify import Index, contract
from onnxprune.trace.value import Value


@rule("Gather")
def gather(op: Op) -> None:
    """Axis `axis` of the data is replaced by the axes of the indices."""
    x, indices = op.need(0), op.need(1)
    axis = op.axis()
    f = x.field_on(axis)
    added = indices.rank - 1
    others = moves.remap([g for g in x.fields if g is not f], lambda a: a if a < axis else a + added)
    op.outs[0].why = {a if a < axis else a + added: r for a, r in x.why.items() if a != axis}
    if f is None:
        op.outs[0].fields = others
        return
    static = indices.static
    op.space.end(f.labels)
    movable = static is not None and static.size > 0
    if op.varies(1):
        op.freeze_axis(x, axis, f"{op.what} picks other slices of it at other input sizes")
    if not movable or indices.rank != 1:
        reason = f"{op.what} looks it up by data" if static is None else f"{op.what} picks single slices of it"
        op.freeze_axis(x, axis, reason)
    position = f.axes.index(axis)
    axes = [a if a < axis else a + added for a in f.axes if a != axis]
    if not movable:
        others += [
            Field((b,), op.space.separate(f, a), f.zero) for a, b in zip((a for a in f.axes if a != axis), axes, strict=True)
        ]
        op.outs[0].fields = others
        return
    assert static is not None
    picked = np.take(f.labels, np.asarray(static) % x.sizes[axis], axis=position)
    all_axes = [*axes[:position], *range(axis, axis + indices.rank), *axes[position:]]
    if indices.rank == 1:
        op.edits.append(Edit(op.node, 1, None, op.space.separate(f, axis), 0, "index"))
    moved = moves.make_field(op.space, all_axes, picked, f.zero) if picked.ndim else None
    op.outs[0].fields = others + ([moved] if moved else [])


@rule("GatherElements")
def gather_elements(op: Op) -> None:
    """Data and indices run together on all axes but `axis`."""
    op.outs[0].fields = tied_elsewhere(op, [0, 1], op.axis())


@rule("ScatterElements", "Scatter")
def scatter_elements(op: Op) -> None:
    """Data, indices and updates run together on all axes but `axis`."""
    op.outs[0].fields = tied_elsewhere(op, [0, 1, 2], op.axis())


@rule("GatherND")
def gather_nd(op: Op) -> None:
    """Indexed axes are looked up by data; those behind them pass."""
    x, indices = op.need(0), op.need(1)
    batch = int(op.attr("batch_dims", 0))
    depth = indices.sizes[-1]
    for axis in range(batch + depth):
        op.freeze_axis(x, axis, f"{op.what} looks it up by data")
    shift = indices.rank - 1 - depth - batch  # of the axes behind the indexed ones
    fields = []
    for f in x.fields:
        kept = [a for a in f.axes if a >= batch + depth]
        if len(kept) == len(f.axes):
            fields.append(Field(tuple(a + shift for a in kept), f.labels, f.zero))
        else:
            fields += [Field((a + shift,), op.space.separate(f, a), f.zero) for a in kept]
    op.outs[0].fields = fields
    op.freeze(indices)


@rule("ScatterND")
def scatter_nd(op: Op) -> None:
    """Indexed axes are fixed; those behind them are tied between data and updates."""
    x, indices, updates = op.need(0), op.need(1), op.need(2)
    depth = indices.sizes[-1]
    tail = x.rank - depth
    for value, fixed in ((x, depth), (updates, updates.rank - tail)):
        for axis in range(fixed):
            op.freeze_axis(value, axis, f"{op.what} writes it by data")
    shared: list[Index] = [f"t{k}" for k in range(tail)]
    names: list[Index] = [*[None] * depth, *shared]
    other: list[Index] = [*[None] * (updates.rank - tail), *shared]

    def apart(value: Value, fixed: int) -> Value:
        fields = []
        for f in value.fields:
            if max(f.axes) < fixed:
                continue
            if min(f.axes) >= fixed:
                fields.append(f)
            else:
                fields += [Field((a,), op.space.separate(f, a), f.zero) for a in f.axes if a >= fixed]
        return replace(value, fields=fields)

    operands = [(apart(x, depth), names), (apart(updates, updates.rank - tail), other)]
    op.outs[0].fields = contract(op.space, operands, names, op.what, zero=all)
    op.freeze(indices)


@rule("Compress", "OneHot", "NonZero", "Unique", "NonMaxSuppression", "StringNormalizer")
def by_data(op: Op) -> None:
    """What comes out depends on data."""
    op.freeze_all(f"{op.what} picks by data")
