"""Moves and what slides over positions: pooling, resizing, reductions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.lossless.content import Content, constant, joined
from onnxprune.lossless.elementwise import together
from onnxprune.lossless.interpret import Reading, Unread, reads
from onnxprune.trace import moves
from onnxprune.trace.op import Op

_ELEMENTS = 1 << 18  # told apart where axes are merged


@reads("Transpose")
def transpose(r: Reading, op: Op) -> Sequence[Content | None]:
    """Permutes axes."""
    x = op.need(0)
    return [r.book.renew(r.content(x).transpose(op.attr("perm", range(x.rank - 1, -1, -1))))]


@reads("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(r: Reading, op: Op) -> Sequence[Content | None]:
    """Axes that are merged or split with one that is told apart are told apart too."""
    x, out = op.need(0), op.outs[0]
    runs = moves.blocks(x.sizes, out.sizes)
    if runs is None:
        raise Unread
    content = r.content(x)
    shape = [1] * out.rank
    for ins, outs in runs:
        if all(content.shape[a] == 1 for a in ins):
            continue
        if np.prod([x.sizes[a] for a in ins]) > _ELEMENTS:
            content = r.book.collapse(content, list(ins), r.eps(x))
            continue
        for a in ins:
            content = r.book.resolve(content, a, x.sizes[a])
        for a in outs:
            shape[a] = out.sizes[a]
    return [r.book.renew(content.reshape(*shape))]


@reads("Slice")
def slice_(r: Reading, op: Op) -> Sequence[Content | None]:
    """Picks along axes."""
    x = op.need(0)
    starts, ends = op.ints(1, "starts"), op.ints(2, "ends")
    axes = op.ints(3, "axes", range(len(starts or ())))
    steps = op.ints(4, "steps", [1] * len(starts or ()))
    if starts is None or ends is None or axes is None or steps is None:
        return []
    content = r.content(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if content.shape[axis] > 1:
            content = content.take(range(x.sizes[axis])[start:end:step], axis)
    return [r.book.renew(content)]


@reads("Split")
def split(r: Reading, op: Op) -> Sequence[Content | None]:
    """Consecutive parts."""
    axis, start, results = op.axis(), 0, []
    content = r.content(op.need(0))
    for out in op.outs:
        stop = start + out.sizes[axis]
        part = content.take(range(start, stop), axis) if content.shape[axis] > 1 else content
        results.append(r.book.renew(part))
        start = stop
    return list(results)


@reads("Gather")
def gather(r: Reading, op: Op) -> Sequence[Content | None]:
    """Looks up along one axis."""
    x, indices = op.need(0), op.need(1)
    axis, found = op.axis(), indices.static
    content = r.content(x)
    if found is None or content.shape[axis] == 1:
        if x.constant and content.shape == (1,) * x.rank:  # a table too large to be told apart: its columns are
            content = _columns(r, op, axis)
        content = r.book.collapse(content, [axis], r.eps(x))
        shape = (*content.shape[:axis], *[1] * indices.rank, *content.shape[axis + 1 :])
        return [r.book.renew(content.reshape(*shape))]
    content = content.take(np.asarray(found).ravel() % x.sizes[axis], axis)
    shape = (*content.shape[:axis], *found.shape, *content.shape[axis + 1 :])
    return [r.book.renew(content.reshape(*shape))]


def _columns(r: Reading, op: Op, axis: int) -> Content:
    """Content of the columns of a table with two axes."""
    x = op.need(0)
    array = r.tensors.array(x.name)
    if array is None or array.shape != x.sizes or x.rank != 2:
        return r.content(x)
    rows = np.asarray(array if axis == 1 else array.T, np.float64)
    shared = np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], 0.0)
    shape = [len(rows) if a != axis else 1 for a in range(2)]
    return r.book.slices(np.zeros((len(rows), 1), np.int64), rows - shared[:, None], shared.reshape(shape), r.eps(x))


@reads("Concat")
def concat(r: Reading, op: Op) -> Sequence[Content | None]:
    """Parts one after the other."""
    out = op.outs[0]
    axis = int(op.attr("axis", 1)) % out.rank
    values = [op.need(i) for i in range(len(op.ins))]
    contents = [r.content(v) for v in values]
    if r.prunable(out, axis):
        contents = [r.book.resolve(c, axis, v.sizes[axis]) for c, v in zip(contents, values, strict=True)]
    else:
        contents = [r.book.collapse(c, [axis], r.eps(v)) for c, v in zip(contents, values, strict=True)]
    sizes = [[*v.sizes[:axis], c.shape[axis], *v.sizes[axis + 1 :]] for c, v in zip(contents, values, strict=True)]
    result = joined(together(r, contents, sizes, apart=axis), axis)
    return [r.book.renew(result if r.prunable(out, axis) else r.book.collapse(result, [axis], r.eps(out)))]


@reads("Expand", "Tile")
def expand(r: Reading, op: Op) -> Sequence[Content | None]:
    """Repeats."""
    x, out = op.need(0), op.outs[0]
    content = r.content(x)
    content = content.reshape(*[1] * (out.rank - x.rank), *content.shape)
    for axis, n in enumerate(content.shape):
        if n > 1 and n != out.sizes[axis]:
            content = content.take(np.tile(np.arange(n), out.sizes[axis] // n), axis)
    return [r.book.renew(content)]


@reads("Pad")
def pad(r: Reading, op: Op) -> Sequence[Content | None]:
    """Adds a constant: new slices of an axis that is told apart, linear in what is above the constant on any other."""
    x = op.need(0)
    pads = op.ints(1, "pads")
    axes = op.ints(3, "axes", range(x.rank))
    mode = op.attr("mode", "constant")
    given = op.attr("value", 0.0) if op.version < 11 else 0.0 if op.given(2) is None else op.static(2)
    if pads is None or axes is None or given is None or mode not in ("constant", b"constant") or min(pads) < 0:
        return []
    value = float(np.asarray(given).ravel()[0])
    content = r.content(x)
    slides = False
    for k, axis in enumerate(a % x.rank for a in axes):
        begin, end = pads[k], pads[k + len(axes)]
        if not begin and not end:
            continue
        if content.shape[axis] == 1 and not r.prunable(op.outs[0], axis):
            slides = True
            continue
        content = r.book.resolve(content, axis, x.sizes[axis])
        before, behind = (
            constant(np.full([n if a == axis else m for a, m in enumerate(content.shape)], value)) for n in (begin, end)
        )
        content = joined([before, content, behind], axis)
    return [linear(r, op, content, value) if slides else r.book.renew(content)]


def linear(r: Reading, op: Op, x: Content, neutral: float = 0.0) -> Content:
    """f(s x) = s f(x), but a constant is no constant afterwards, unless it is the neutral one."""
    rows = np.stack([x.scale.ravel(), x.offset.ravel() - neutral], axis=1)
    return r.book.slices(x.ids.reshape(-1, 1), rows, np.full(x.shape, neutral), r.eps(op.outs[0]))


def highest(r: Reading, op: Op, x: Content) -> Content:
    """f(s x + d) = s f(x) + d for s > 0."""
    return r.book.slices(x.ids.reshape(-1, 1), x.scale.reshape(-1, 1), x.offset, r.eps(op.outs[0]), positive=True)


def over(r: Reading, op: Op) -> Content:
    """Input 0, the slices of axes that change their length not told apart."""
    x, out = op.need(0), op.outs[0]
    return r.book.collapse(r.content(x), [a for a in range(x.rank) if x.sizes[a] != out.sizes[a]], r.eps(x))


@reads("GlobalAveragePool", "AveragePool", "MaxPool", "GlobalMaxPool", "Resize", "Upsample")
def pool(r: Reading, op: Op) -> Sequence[Content | None]:
    """Slides over positions; an average that counts padding is not the same at the borders."""
    x = over(r, op)
    if op.node.op in ("MaxPool", "GlobalMaxPool"):
        return [highest(r, op, x)]
    if op.attr("coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        return []
    if op.node.op == "AveragePool" and (padded(op) or op.attr("ceil_mode", 0)):
        return [linear(r, op, x)]
    return [r.book.renew(x)]


def padded(op: Op) -> bool:
    """An operator on images pads with zeros."""
    automatic = op.attr("auto_pad", "NOTSET")
    return any(op.attr("pads", [])) or automatic not in ("NOTSET", "VALID", b"NOTSET", b"VALID", "", b"")


@reads("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
def reduce(r: Reading, op: Op) -> Sequence[Content | None]:
    """Over axes of which nothing goes."""
    x = op.need(0)
    axes = op.ints(1, "axes", [])
    if axes is None:
        raise Unread
    if not axes and op.attr("noop_with_empty_axes", 0):
        return [r.content(x)]
    reduced = sorted({a % x.rank for a in axes} or set(range(x.rank)))
    if any(r.prunable(x, a) for a in reduced):
        raise Unread
    content = r.book.collapse(r.content(x), reduced, r.eps(x))
    if op.node.op in ("ReduceMax", "ReduceMin"):
        content = highest(r, op, content)
    else:
        content = linear(r, op, content) if op.node.op == "ReduceSum" else r.book.renew(content)  # lengths may be symbolic
    if not op.attr("keepdims", 1):
        content = content.reshape(*[n for a, n in enumerate(content.shape) if a not in reduced])
    return [content]
