"""Contractions: channels end, and new ones begin that are equal or multiples where rows of the weights are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.lossless.content import Content, Floats, Numbers, bits
from onnxprune.lossless.elementwise import plus, times, together
from onnxprune.lossless.interpret import Reading, Unread, reads
from onnxprune.lossless.moves import padded
from onnxprune.lossless.sinks import Bias, Sink
from onnxprune.lossless.tensors import Array, View
from onnxprune.trace.op import Op
from onnxprune.trace.rules.contraction import matmul_names
from onnxprune.trace.rules.rnn import _GATES, _units
from onnxprune.trace.unify import Index
from onnxprune.trace.value import Value


def weighted(
    r: Reading, op: Op, axis: int, weight: View, out_axis: int, *, uniform: bool = True, factor: float = 1.0
) -> Content:
    """Sum over axis `axis` of input 0 times weights `(groups, rows, terms, taps)`, without a bias.

    A grouped sum of one term each is no sum: its channels go on in the rows, in the same unit.
    """
    x, out = op.need(0), op.outs[0]
    groups, rows, terms, _ = weight.array.shape
    channels = r.only(x, [axis]).reshape(groups, terms)
    if groups == 1 or terms > 1:
        ends(r, op, axis, channels, weight, out_axis, uniform=uniform, factor=factor)
    ids, scale, shift = as_read(r, channels, uniform=uniform)
    values = weight.array.astype(np.float64)
    offset = factor * np.einsum("gok,gk->go", values.sum(axis=-1), shift)
    coefficients = (values * scale[:, None, :, None]).reshape(groups * rows, -1)
    _, block = np.unique(ids, axis=0, return_inverse=True)
    new, size = r.book.cluster(np.repeat(block.reshape(-1), rows)[:, None], coefficients, r.eps(out))
    shape = [-1 if a == out_axis else 1 for a in range(out.rank)]
    return Content(new.reshape(shape), factor * size.reshape(shape), offset.reshape(shape))


def as_read(r: Reading, x: Content, *, uniform: bool) -> tuple[Numbers, Floats, Floats]:
    """Bases, factors and constants of channels; with padding, a channel that has an offset is a basis of its own."""
    plain = np.full(x.shape, uniform) | (x.offset == 0)
    own = np.zeros(x.shape, np.int64)
    live = ~plain & ~x.constant
    if live.any():
        keys = np.stack([x.ids[live], bits(x.scale[live]), bits(x.offset[live])], axis=1)
        own[live] = r.book.cluster(keys, np.ones((len(keys), 1)))[0]
    scale = np.where(plain, x.scale, np.where(x.constant, x.offset, 1.0))
    return np.where(plain, np.where(x.constant, 0, x.ids), own), scale, np.where(plain, x.offset, 0.0)


def ends(
    r: Reading, op: Op, axis: int, channels: Content, weight: View, out_axis: int, *, uniform: bool, factor: float
) -> None:
    """Records where channels end."""
    x, out = op.need(0), op.outs[0]
    groups, rows, terms, _ = weight.array.shape
    if not r.prunable(x, axis):
        return
    classes, kept = r.classes_on(x, axis), r.classes_on(out, out_axis)
    if classes is None:
        r.hold(x)
        return
    if kept is None:
        kept = np.full(out.sizes[out_axis], -1, np.int32)
    usable = np.where((classes >= 0) & r.useful[classes], classes, -1)
    bias = bias_of(r, op, out_axis, factor)
    if bias is not None:
        view = bias.view.reshaped(bias.view.array.reshape(groups, rows))
        bias = Bias(view, bias.factor) if view.stored else None
    r.sinks.append(Sink(op.what, weight, channels, usable.reshape(groups, terms), kept.reshape(groups, rows), uniform, bias))


def bias_of(r: Reading, op: Op, out_axis: int, factor: float) -> Bias | None:
    """Where a constant can be added to the output: its own bias, an Add or a BatchNormalization behind it.

    The weights of a Gemm count `factor` times, its bias `beta` times.
    """
    size = op.outs[0].sizes[out_axis]
    if op.node.op in ("Conv", "Gemm") and op.given(2) is not None:
        beta = float(op.attr("beta", 1.0)) if op.node.op == "Gemm" else 1.0
        rank, axis = (1, 0) if op.node.op == "Conv" else (2, 1)
        found = vector(r, op.need(2).name, size, rank, axis)
        return Bias(found, factor / beta) if found and beta else None
    name = op.outs[0].name
    reader = r.tensors.only_reader(name)
    if reader is None or reader.domain:
        return None
    if reader.op == "BatchNormalization" and not reader.attrs.get("training_mode", 0) and reader.inputs[0].name == name:
        found = vector(r, reader.inputs[3].name, size, 1, 0)
        return Bias(found, -factor) if found else None
    if reader.op == "Add":
        other = next((t for t in reader.inputs if t.name != name), None)
        value = r.groups.trace.values.get(other.name) if other is not None else None
        if value is None or value.shape is None:
            return None
        found = vector(r, value.name, size, op.outs[0].rank, out_axis)
        return Bias(found, factor) if found else None
    return None


def vector(r: Reading, name: str, size: int, rank: int, axis: int) -> View | None:
    """A stored vector that runs along one axis of a tensor of `rank` axes."""
    view = r.tensors.view(name)
    if view is None or view.stored is None or view.array.ndim > rank or view.array.size != size:
        return None
    shape = (1,) * (rank - view.array.ndim) + view.array.shape
    if shape[axis] != size and rank > 1:
        return None
    flat = view.reshaped(view.array.reshape(-1))
    return flat if flat.stored else None


def plus_bias(r: Reading, op: Op, x: Content, i: int, axis: int, factor: float = 1.0) -> Content:
    """Adds the vector of input `i` along an axis."""
    value, out = op.given(i), op.outs[0]
    if value is None:
        return x
    content = r.content(value)
    shape = [1] * out.rank
    if value.rank == 1 and value.sizes[0] == out.sizes[axis]:
        shape[axis] = -1
        content = r.book.resolve(content, 0, value.sizes[0]).reshape(*shape)
        sizes = [n if a == axis else 1 for a, n in enumerate(out.sizes)]
    else:  # the matrix or scalar of a Gemm
        content = content.reshape(*(1,) * (out.rank - value.rank), *content.shape)
        sizes = [1] * (out.rank - value.rank) + list(value.sizes)
    x, content = together(r, [x, content], [out.sizes, sizes])
    return plus(r, x, Content(content.ids, factor * content.scale, factor * content.offset), r.eps(out))


def stored(r: Reading, value: Value) -> View:
    """A weight whose values are known."""
    view = r.tensors.view(value.name) if value.constant else None
    if view is None or view.array.shape != value.sizes or view.array.dtype.kind not in "fV":
        raise Unread
    return view


@reads("Conv", "ConvTranspose")
def conv(r: Reading, op: Op) -> Sequence[Content | None]:
    """X (N, C_in, ...), w (C_out, C_in/g, ...), or (C_in, C_out/g, ...) for a transposed one, whose taps overlap."""
    w = stored(r, op.need(1))
    groups = int(op.attr("group", 1))
    if op.node.op == "Conv":
        out, terms = w.array.shape[0] // groups, w.array.shape[1]
        weight = w.reshaped(w.array.reshape(groups, out, terms, -1))
    else:
        terms, out = w.array.shape[0] // groups, w.array.shape[1]
        weight = w.reshaped(w.array.reshape(groups, terms, out, -1).transpose(0, 2, 1, 3))
    uniform = op.node.op == "Conv" and not padded(op)
    return [plus_bias(r, op, weighted(r, op, 1, weight, 1, uniform=uniform), 2, 1)]


@reads("Gemm")
def gemm(r: Reading, op: Op) -> Sequence[Content | None]:
    """Alpha * A' B' + beta * C."""
    if op.need(0).constant:
        raise Unread
    w = stored(r, op.need(1))
    rows = w.array if op.attr("transB", 0) else w.array.T
    product = weighted(
        r, op, 0 if op.attr("transA", 0) else 1, w.reshaped(rows[None, :, :, None]), 1, factor=float(op.attr("alpha", 1.0))
    )
    return [plus_bias(r, op, product, 2, 1, float(op.attr("beta", 1.0)))]


@reads("MatMul")
def matmul(r: Reading, op: Op) -> Sequence[Content | None]:
    """With a matrix of weights, or of two activations."""
    a, b, out = op.need(0), op.need(1), op.outs[0]
    if b.constant and b.rank == 2 and a.rank > 1 and not a.constant:
        w = stored(r, b)
        return [weighted(r, op, a.rank - 1, w.reshaped(w.array.T[None, :, :, None]), out.rank - 1)]
    if a.rank < 2 or b.rank < 2:
        raise Unread
    left, right, names = matmul_names(a, b, out.rank)
    hold_sum(r, op, [(a, left), (b, right)], names)
    contents, sizes = [], []
    for value, own in ((a, left), (b, right)):
        content = r.book.collapse(r.content(value), [own.index("k")], r.eps(value))
        content = content.transpose([*(own.index(n) for n in names if n in own), own.index("k")])
        lengths = iter(content.shape)
        contents.append(content.reshape(*(next(lengths) if n in own else 1 for n in names)))
        known = dict(zip(own, value.sizes, strict=True))
        sizes.append([known.get(n, 1) for n in names])
    x, y = together(r, contents, sizes)
    return [times(r, x, y, r.eps(out), summed=True)]


def hold_sum(r: Reading, op: Op, operands: Sequence[tuple[Value, list[Index]]], names: Sequence[Index]) -> None:
    """A sum of products of activations over `k`: a term can go where one of its factors is 0, or the sum goes too."""
    live = []
    for value, own in operands:
        f = value.field_on(own.index("k"))
        found: dict[int, list[int]] = {}
        if f is not None and r.useful[r.classes(f.labels)].any():
            of_sum = np.full(f.labels.shape, -1, np.int32)
            for p, axis in enumerate(f.axes):
                rows = r.classes_on(op.outs[0], names.index(own[axis])) if own[axis] in names else None
                if rows is not None and rows.size == f.labels.shape[p]:
                    of_sum = np.broadcast_to(rows.reshape([-1 if q == p else 1 for q in range(f.labels.ndim)]), of_sum.shape)
            for cell in np.argwhere(~r.zero_cells(value, f)):
                found.setdefault(int(r.classes(f.labels[tuple(cell)])), []).append(int(of_sum[tuple(cell)]))
        live.append((found, set() if f is None else set(r.classes(f.labels).ravel().tolist())))
        r.dead.update(live[-1][1] - found.keys())
    for (found, _), (other, seen) in (live, live[::-1]):
        for c in found:
            if c in other or c not in seen:
                sums = np.array(found[c] + other.get(c, []), np.int32)
                r.hold_classes(np.full(sums.size, c, np.int32), sums)


@reads("LSTM", "GRU", "RNN")
def recurrent(r: Reading, op: Op) -> Sequence[Content | None]:
    """Hidden units are equal where all their weights are, and 0 where those of the candidate are; states start at 0."""
    x, w, rec, b = op.need(0), op.need(1), op.need(2), op.given(3)
    count = _GATES[op.node.op]
    into, back, bias = stored(r, w), stored(r, rec), None if b is None else stored(r, b)
    hidden, read = _units(op, rec, 2), r.classes_on(x, 2)
    started = any((v := op.given(i)) is not None and not r.content(v).zero.all() for i in (5, 6))
    custom = "activations" in op.node.attrs or "clip" in op.node.attrs or op.given(7) is not None
    if started or custom or hidden is None or read is None:
        raise Unread
    states = _states(r, op, [v.array for v in (into, back, bias) if v is not None], count)
    classes = r.classes(hidden)
    channels = r.only(x, [2]).reshape(1, -1)
    for d in range(rec.sizes[0]):
        rows = np.tile(classes[d], count)[None]
        own = states.take([d], 0)
        for view, content, terms, half in ((into, channels, read, 0), (back, own, classes[d], 1)):
            part = None if bias is None else bias.reshaped(np.split(bias.array[d], 2)[half][None])
            usable = np.where((terms >= 0) & r.useful[terms], terms, -1)[None]
            added = Bias(part) if part is not None and part.stored else None
            r.sinks.append(Sink(op.what, view.reshaped(view.array[d][None, :, :, None]), content, usable, rows, True, added))
    results: list[Content | None] = []
    for k, out in enumerate(op.outs):
        shape = [1] * out.rank if out.name else []
        if shape:
            direction = (2 if k == 0 else 1) if op.attr("layout", 0) else (1 if k == 0 else 0)
            shape[direction], shape[-1] = states.shape
        results.append(r.book.renew(states.reshape(*shape)) if shape else None)
    return results


def _states(r: Reading, op: Op, weights: Sequence[Array], count: int) -> Content:
    """Content of the hidden units `(directions, size)`."""
    directions, size = weights[1].shape[0], weights[1].shape[2]
    candidate = {"LSTM": 3, "GRU": 2, "RNN": 0}[op.node.op]
    keys, dead = [], []
    for d in range(directions):
        gates = [w[d].reshape(-1, count, size, w[d].size // w[d].shape[0]) for w in weights]  # biases have two parts
        keys.append([p.transpose(2, 0, 1, 3).reshape(size, -1).astype(np.float64) for p in gates])
        dead.append(np.all([~p[:, candidate].any(axis=(0, 2)) for p in gates], axis=0))
    rows = [np.concatenate([np.full((size, 1), d, np.int64), *map(bits, parts)], axis=1) for d, parts in enumerate(keys)]
    zero = np.stack(dead)
    result = r.book.slices(np.concatenate(rows), np.ones((directions * size, 1)), np.zeros(zero.shape))
    return Content(np.where(zero, 0, result.ids), np.where(zero, 0.0, result.scale), result.offset)
