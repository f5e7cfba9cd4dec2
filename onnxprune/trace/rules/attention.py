"""Fused attention, spelled out as the contractions it stands for; heads and head dims follow from those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxprune.trace import moves
from onnxprune.trace.labels import Field
from onnxprune.trace.op import Op
from onnxprune.trace.registry import rule
from onnxprune.trace.unify import Index, contract
from onnxprune.trace.value import Value

_B, _H, _Q, _K, _D, _V = "b", "h", "q", "k", "d", "v"


def heads_first(op: Op, value: Value, heads: int) -> Value:
    """(B, S, heads * D) seen as (B, heads, S, D); a value of rank 4 stays."""
    if value.rank == 4:
        return value
    batch, length, hidden = value.sizes
    split = (batch, length, heads, hidden // heads)
    fields = moves.reshape(op.space, value.fields, value.sizes, split, op.what)
    for f in fields:
        if f.joint:
            op.space.grid(f.labels)
    return replace(
        value,
        shape=(batch, heads, length, hidden // heads),
        fields=moves.transpose(op.space, fields, [0, 2, 1, 3]),
        why={},
    )


def repeated(value: Value, times: int) -> Value:
    """Each key/value head serves `times` query heads."""
    if times == 1:
        return value
    fields = []
    for f in value.fields:
        labels = np.repeat(f.labels, times, axis=f.axes.index(1)) if 1 in f.axes else f.labels
        fields.append(Field(f.axes, labels, f.zero))
    batch, heads, length, dim = value.sizes
    return replace(value, shape=(batch, heads * times, length, dim), fields=fields)


def attend(op: Op, q: Value, k: Value, v: Value, biases: list[Value]) -> list[Field]:
    """Fields of softmax(q k' + bias) v on (B, H, S, D_v); q (B, H, S, D), k and v (B, H, T, .)."""
    scores = contract(op.space, [(q, [_B, _H, _Q, _D]), (k, [_B, _H, _K, _D])], [_B, _H, _Q, _K], op.what, attention=True)
    batch, heads, length, _ = q.sizes
    score = Value(op.what, q.dtype, (batch, heads, length, k.sizes[2]), fields=scores)
    names: list[Index] = [_B, _H, _Q, _K]
    operands = [(score, names), *[(b, names[4 - b.rank :]) for b in biases]]
    score = replace(score, fields=contract(op.space, operands, names, op.what, zero=all))
    op.freeze_axis(score, 3)
    op.freeze_axis(score, 2)
    score.fields = [Field(f.axes, f.labels, False) for f in score.fields if 3 not in f.axes]
    return contract(op.space, [(score, names), (v, [_B, _H, _K, _V])], [_B, _H, _Q, _V], op.what, attention=True)


def heads_last(op: Op, fields: list[Field], out: Value, heads: int) -> list[Field]:
    """(B, heads, S, D) back to the output's layout."""
    if out.rank == 4:
        return fields
    batch, length, hidden = out.sizes
    moved = moves.transpose(op.space, fields, [0, 2, 1, 3])
    return moves.reshape(op.space, moved, (batch, length, heads, hidden // heads), out.sizes, op.what)


def count_heads(op: Op, slot: str, value: Value) -> None:
    """A head count attribute follows the head axis of (B, H, S, D)."""
    f = value.field_on(1)
    if f is not None:
        op.count(slot, None, f.labels, f.axes.index(1))


def keep_scale(op: Op, q: Value) -> None:
    """1 / sqrt(D) stays what it was when D shrinks."""
    f = q.field_on(3)
    if f is not None and not op.attr("scale", 0):
        from onnxprune.trace.op import Edit

        op.edits.append(Edit(op.node, "scale", None, f.labels, f.axes.index(3), "value", 1 / float(np.sqrt(q.sizes[3]))))


def _append_past(op: Op, past: Value | None, value: Value) -> Value:
    """The cache is given from outside: heads and dims of what joins it can't shrink."""
    if past is None:
        return value
    op.freeze(value, f"{op.what} appends it to a cache that is given from outside: {past.name!r}")
    return replace(value, fields=[])


@rule("Attention", since=23)
def attention(op: Op) -> None:
    """ONNX spec, Attention-23: Q, K, V of rank 3 (with head counts) or 4, mask, past key and value."""
    q_heads = int(op.attr("q_num_heads", op.need(0).sizes[1] if op.need(0).rank == 4 else 0))
    kv_heads = int(op.attr("kv_num_heads", op.need(1).sizes[1] if op.need(1).rank == 4 else 0))
    flat = op.need(0).rank == 3
    q = heads_first(op, op.need(0), q_heads)
    k, v = (heads_first(op, op.need(i), kv_heads) for i in (1, 2))
    if flat:
        count_heads(op, "q_num_heads", q)
        count_heads(op, "kv_num_heads", k)
    keep_scale(op, q)
    k, v = (_append_past(op, op.given(i), x) for i, x in ((4, k), (5, v)))
    for i, x in ((1, k), (2, v)):
        if i < len(op.outs) and op.outs[i].name and op.outs[i].sizes == x.sizes:
            op.outs[i].fields = list(x.fields)
    length = op.outs[1].sizes[2] if len(op.outs) > 1 and op.outs[1].name else k.sizes[2]
    k, v = (replace(x, shape=(*x.sizes[:2], length, x.sizes[3])) for x in (k, v))
    times = q_heads // kv_heads
    mask = op.given(3)
    if mask is not None and mask.sizes[-1] not in (1, length):
        op.freeze(mask)
        mask = None
    fields = attend(op, q, repeated(k, times), repeated(v, times), [mask] if mask else [])
    op.outs[0].fields = heads_last(op, fields, op.outs[0], q_heads)


@rule("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(op: Op) -> None:
    """Query, key, value (B, S, hidden), bias (3 * hidden) of the three, masks, cache."""
    heads = int(op.attr("num_heads"))
    values = [op.given(i) for i in range(3)]
    if any(v is None or v.rank not in (3, 4) for v in values):
        op.freeze_all(f"{op.what}: packed query, key and value are not pruned")
        return
    parts = [v for v in values if v is not None]
    bias = op.given(3)
    if bias is not None:
        parts = _with_bias(op, parts, bias)
    q, k, v = (heads_first(op, x, heads) for x in parts)
    count_heads(op, "num_heads", q)
    keep_scale(op, q)
    k, v = (_append_past(op, op.given(i), x) for i, x in ((6, k), (7, v)))
    for i in range(1, len(op.outs)):
        if op.outs[i].name:
            op.freeze(k)
            op.freeze(v)
    for i in (4, 5):
        op.freeze(op.given(i))
    extra = op.given(5)
    biases = [extra] if extra is not None and extra.sizes[-1] in (1, k.sizes[2]) else []
    op.outs[0].fields = heads_last(op, attend(op, q, k, v, biases), op.outs[0], heads)


def _with_bias(op: Op, parts: list[Value], bias: Value) -> list[Value]:
    """Each of query, key and value plus its part of the bias."""
    result, start = [], 0
    for part in parts:
        if part.rank == 4:
            op.freeze(bias)
            return parts
        stop = start + part.sizes[2]
        own = replace(
            bias,
            shape=(stop - start,),
            fields=moves.select(op.space, bias.fields, 0, lambda labels, p, a=start, b=stop: labels[a:b]),  # type: ignore[misc]
        )
        names: list[Index] = [0, 1, 2]
        result.append(replace(part, fields=contract(op.space, [(part, names), (own, [2])], names, op.what, zero=all)))
        start = stop
    return result


@rule("Attention", domain="com.microsoft")
def packed_attention(op: Op) -> None:
    """Input (B, S, C), weights (C, 3 * hidden), bias (3 * hidden): projection and attention in one."""
    x, w, bias = op.need(0), op.need(1), op.given(2)
    heads = int(op.attr("num_heads"))
    if op.attr("qkv_hidden_sizes") or op.attr("do_rotary") or w.sizes[1] % 3:
        op.freeze_all(f"{op.what}: unequal or rotated projections are not pruned")
        return
    batch, length, _ = x.sizes
    width = w.sizes[1]
    names: list[Index] = ["b", "s", "n"]
    projected = Value(op.what, x.dtype, (batch, length, width))
    projected.fields = contract(op.space, [(x, ["b", "s", "c"]), (w, ["c", "n"])], names, op.what)
    if bias is not None:
        projected.fields = contract(op.space, [(projected, names), (bias, ["n"])], names, op.what, zero=all)
    split = (batch, length, 3, heads, width // 3 // heads)
    fields = moves.reshape(op.space, projected.fields, projected.sizes, split, op.what)
    packed = replace(projected, shape=split, fields=fields)
    for f in fields:
        if f.joint:
            op.space.grid(f.labels)
    op.freeze_axis(packed, 2, f"{op.what} holds query, key and value")
    parts = []
    for k in range(3):
        picked = [_third(op, f, k) for f in fields]
        part = Value(op.what, x.dtype, (batch, length, heads, width // 3 // heads), fields=[f for f in picked if f])
        part.fields = moves.transpose(op.space, part.fields, [0, 2, 1, 3])
        part.shape = (batch, heads, length, width // 3 // heads)
        parts.append(part)
    q, k_, v = parts
    count_heads(op, "num_heads", q)
    keep_scale(op, q)
    if op.given(4) is not None or len(op.outs) > 1:
        for part in parts:
            op.freeze(part, f"{op.what} has a cache")
    for i in range(3, len(op.ins)):
        op.freeze(op.given(i))
    op.outs[0].fields = heads_last(op, attend(op, q, k_, v, []), op.outs[0], heads)


def _third(op: Op, f: Field, k: int) -> Field | None:
    """A field of (B, S, 3, heads, D) on entry `k` of axis 2."""
    axes = [a - (a > 2) for a in f.axes if a != 2]
    labels = np.take(f.labels, k, axis=f.axes.index(2)) if 2 in f.axes else f.labels
    return moves.make_field(op.space, axes, labels, f.zero)


@rule("GroupQueryAttention", domain="com.microsoft")
def group_query_attention(op: Op) -> None:
    """Query, key, value (B, S, heads * D) with a cache that is given from outside."""
    if op.given(1) is None or op.given(2) is None:
        op.freeze_all(f"{op.what}: packed query, key and value are not pruned")
        return
    heads, kv_heads = int(op.attr("num_heads")), int(op.attr("kv_num_heads"))
    q = heads_first(op, op.need(0), heads)
    k, v = (heads_first(op, op.need(i), kv_heads) for i in (1, 2))
    if op.attr("do_rotary", 0):
        for value in (q, k):
            op.freeze_axis(value, 3, f"{op.what} rotates it")
    count_heads(op, "num_heads", q)
    count_heads(op, "kv_num_heads", k)
    keep_scale(op, q)
    k, v = (_append_past(op, op.given(i), x) for i, x in ((3, k), (4, v)))
    for i in range(1, len(op.outs)):
        if op.outs[i].name:
            for value in (k, v):
                op.freeze(value, f"{op.what} hands out its cache")
    for i in range(5, len(op.ins)):
        op.freeze(op.given(i))
    times = heads // kv_heads
    op.outs[0].fields = heads_last(op, attend(op, q, repeated(k, times), repeated(v, times), []), op.outs[0], heads)


@rule("RotaryEmbedding", since=23)
@rule("RotaryEmbedding", domain="com.microsoft")
def rotary(op: Op) -> None:
    """Rotates pairs of head dims, which stay; heads pass."""
    x = op.need(0)
    heads = int(op.attr("num_heads", 0))
    for i in range(1, len(op.ins)):
        op.freeze(op.given(i))
    if x.rank == 3 and not heads:
        op.freeze(x)
        return
    view = heads_first(op, x, heads)
    op.freeze_axis(view, 3, f"{op.what} rotates it")
    if x.rank == 3:
        count_heads(op, "num_heads", view)
    op.same()
