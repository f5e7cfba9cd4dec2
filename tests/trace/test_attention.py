"""Attention in every spelling: heads are rows of a grid, head dims its columns, and 1 / sqrt(d) stays what it was."""

import numpy as np
import pytest

from tests.models_text import Case, attribute, check, ints, table

QKV = dict(wq=(10, 24), bq=(24,), wk=(10, 24), bk=(24,), wv=(10, 24), bv=(24,), wo=(24, 6))
HALF = dict(wq=(10, 12), bq=(12,), wk=(10, 12), bk=(12,), wv=(10, 12), bv=(12,), wo=(12, 6))


def projected(inner: str, *, tail: str = "y = MatMul (o, wo)") -> str:
    """Q, K, V of width 24 from x (2, 7, 10), then `inner` makes o (2, 7, 24)."""
    return f"""(float[2, 7, 10] x) => (float[2, 7, 6] y) {{
      q0 = MatMul (x, wq)
      q = Add (q0, bq)
      k0 = MatMul (x, wk)
      k = Add (k0, bk)
      v0 = MatMul (x, wv)
      v = Add (v0, bv)
      {inner}
      {tail}
    }}"""


DECOMPOSED = """
      qs = Reshape (q, split)
      qh = Transpose <perm = [0, 2, 1, 3]> (qs)
      ks = Reshape (k, split)
      kh = Transpose <perm = [0, 2, 3, 1]> (ks)
      vs = Reshape (v, split)
      vh = Transpose <perm = [0, 2, 1, 3]> (vs)
      s0 = MatMul (qh, kh)
      s = Mul (s0, scale)
      p = Softmax <axis = -1> (s)
      c = MatMul (p, vh)
      ct = Transpose <perm = [0, 2, 1, 3]> (c)
      o = Reshape (ct, merge)
"""
SPLIT = dict(split=ints(2, 7, 4, 6), merge=ints(2, 7, 24), scale=np.array(6**-0.5, np.float32))
OPEN = dict(split=ints(0, 0, 4, 6), merge=ints(0, 0, 24), scale=np.array(6**-0.5, np.float32))
ONNX23 = "o = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)"
MHA = "o = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)"

SPELLINGS = {
    "decomposed": (projected(DECOMPOSED), SPLIT, dict(opset=17)),
    "decomposed, zeros in the targets": (projected(DECOMPOSED), OPEN, dict(opset=17)),
    "onnx": (projected(ONNX23), {}, dict(opset=23)),
    "MultiHeadAttention": (projected(MHA), {}, dict(ms=True)),
}
WAYS = [
    ("heads", ["heads 4", "head-dim 6", "head-dim 6"], HALF),
    ("head-dim", ["heads 4", "head-dim 6", "head-dim 6"], HALF),
    ("both", ["heads 4", "head-dim 6", "head-dim 6"], {n: tuple(6 if d == 12 else d for d in s) for n, s in HALF.items()}),
]


@pytest.mark.parametrize("way", WAYS, ids=[w[0] for w in WAYS])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_self_attention(spelling, way):
    """Heads are rows shared by the grids of QK and V; QK dims and V dims are independent columns."""
    body, more, options = SPELLINGS[spelling]
    attention, groups, kept = way
    case = Case(spelling, body, QKV | more, groups, kept, options=dict(attention=attention), **options)
    result = check(case)
    if spelling == "MultiHeadAttention":
        heads = 4 if attention == "head-dim" else 2
        assert attribute(result.model, "MultiHeadAttention", "num_heads") == heads
        scale = attribute(result.model, "MultiHeadAttention", "scale")
        assert scale is None if attention == "heads" else scale == pytest.approx(6**-0.5)
    if spelling == "onnx":
        heads = 4 if attention == "head-dim" else 2
        assert attribute(result.model, "Attention", "q_num_heads") == heads
        assert attribute(result.model, "Attention", "kv_num_heads") == heads
        scale = attribute(result.model, "Attention", "scale")
        assert scale is None if attention == "heads" else scale == pytest.approx(6**-0.5)


CASES = [
    Case(
        "onnx, rank 4 with a mask of the graph",
        """(float[2, 7, 10] x, float[7, 7] mask) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, split)
          k = Transpose <perm = [0, 2, 1, 3]> (k1)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, split)
          v = Transpose <perm = [0, 2, 1, 3]> (v1)
          o = Attention (q, k, v, mask)
          t = Transpose <perm = [0, 2, 1, 3]> (o)
          r = Reshape (t, merge)
          y = MatMul (r, wo)
        }""",
        dict(wq=(10, 24), wk=(10, 24), wv=(10, 24), wo=(24, 6), split=ints(2, 7, 4, 6), merge=ints(2, 7, -1)),
        ["heads 4", "head-dim 6", "head-dim 6"],
        dict(wq=(10, 6), wk=(10, 6), wv=(10, 6), wo=(6, 6)),
        options=dict(attention="both"),
        opset=23,
    ),
    Case(
        "onnx, mask with a head axis that is a weight",
        projected("o = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v, bias)"),
        QKV | dict(bias=(1, 4, 7, 7)),
        ["heads 4", "head-dim 6", "head-dim 6"],
        HALF | dict(bias=(1, 2, 7, 7)),
        opset=23,
    ),
    Case(
        "onnx, grouped queries: a KV head takes its query heads along",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q = MatMul (x, wq)
          k = MatMul (x, wk)
          v = MatMul (x, wv)
          o = Attention <q_num_heads = 6, kv_num_heads = 2> (q, k, v)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 24), wk=(10, 8), wv=(10, 8), wo=(24, 6)),
        ["heads 2", "head-dim 4", "head-dim 4"],
        dict(wq=(10, 12), wk=(10, 4), wv=(10, 4), wo=(12, 6)),
        attributes={"Attention.q_num_heads": 3, "Attention.kv_num_heads": 1},
        opset=23,
    ),
    Case(
        "onnx, a cache from outside keeps keys and values",
        """(float[2, 3, 10] x, float[2, 4, 5, 6] pk, float[2, 4, 5, 6] pv)
            => (float[2, 3, 6] y, float[2, 4, 8, 6] nk, float[2, 4, 8, 6] nv) {
          q = MatMul (x, wq)
          k = MatMul (x, wk)
          v = MatMul (x, wv)
          o, nk, nv = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v, , pk, pv)
          h = MatMul (o, wo)
          r = Relu (h)
          y = MatMul (r, w2)
        }""",
        dict(wq=(10, 24), wk=(10, 24), wv=(10, 24), wo=(24, 8), w2=(8, 6)),
        ["channel 8"],
        dict(wo=(24, 4), w2=(4, 6)),
        frozen={"wk:1": "cache", "wv:1": "cache", "wq:1": "", "wo:0": ""},
        opset=23,
    ),
    Case(
        "MultiHeadAttention with one bias for all three",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q = MatMul (x, wq)
          k = MatMul (x, wk)
          v = MatMul (x, wv)
          o = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v, b)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 24), wk=(10, 24), wv=(10, 24), b=(72,), wo=(24, 6)),
        ["heads 4", "head-dim 6", "head-dim 6"],
        dict(wq=(10, 6), wk=(10, 6), wv=(10, 6), b=(18,), wo=(6, 6)),
        attributes={"MultiHeadAttention.num_heads": 2},
        options=dict(attention="both"),
        ms=True,
    ),
    Case(
        "packed Attention: query, key and value in one weight",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          o = com.microsoft.Attention <num_heads = 4> (x, w, b)
          y = MatMul (o, wo)
        }""",
        dict(w=(10, 72), b=(72,), wo=(24, 6)),
        ["heads 4", "head-dim 6"],
        dict(w=(10, 18), b=(18,), wo=(6, 6)),
        attributes={"Attention.num_heads": 2},
        options=dict(attention="both"),
        ms=True,
    ),
    Case(
        "GroupQueryAttention with an empty cache",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y, float[2, 2, 7, 8] nk, float[2, 2, 7, 8] nv) {
          q = MatMul (x, wq)
          k = MatMul (x, wk)
          v = MatMul (x, wv)
          o, nk, nv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, k, v, , , lengths, total)
          h = MatMul (o, wo)
          r = Relu (h)
          y = MatMul (r, w2)
        }""",
        dict(
            wq=(10, 32),
            wk=(10, 16),
            wv=(10, 16),
            wo=(32, 8),
            w2=(8, 6),
            lengths=np.array([6, 6], np.int32),
            total=np.array(7, np.int32),
        ),
        ["channel 8"],
        dict(wo=(32, 4), w2=(4, 6)),
        frozen={"wk:1": "cache"},
        ms=True,
    ),
    Case(
        "rotary embedding, then attention: heads go, rotated dims stay",
        """(float[2, 7, 10] x, int64[2, 7] pos) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q = com.microsoft.RotaryEmbedding <num_heads = 4> (q0, pos, cos, sin)
          k0 = MatMul (x, wk)
          k = com.microsoft.RotaryEmbedding <num_heads = 4> (k0, pos, cos, sin)
          v = MatMul (x, wv)
          o = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 32), wk=(10, 32), wv=(10, 32), wo=(32, 6), cos=(16, 4), sin=(16, 4)),
        ["heads 4", "head-dim 8"],
        dict(wq=(10, 16), wk=(10, 16), wv=(10, 16), wo=(16, 6)),
        attributes={"RotaryEmbedding#0.num_heads": 2, "RotaryEmbedding#1.num_heads": 2, "MultiHeadAttention.num_heads": 2},
        ms=True,
    ),
    Case(
        "onnx rotary embedding",
        """(float[2, 7, 10] x, int64[2, 7] pos) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q = RotaryEmbedding <num_heads = 4> (q0, cos, sin, pos)
          k0 = MatMul (x, wk)
          k = RotaryEmbedding <num_heads = 4> (k0, cos, sin, pos)
          v = MatMul (x, wv)
          o = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 32), wk=(10, 32), wv=(10, 32), wo=(32, 6), cos=(16, 4), sin=(16, 4)),
        ["heads 4", "head-dim 8"],
        dict(wq=(10, 16), wk=(10, 16), wv=(10, 16), wo=(16, 6)),
        attributes={"RotaryEmbedding#0.num_heads": 2, "Attention.q_num_heads": 2},
        opset=23,
    ),
    Case(
        "fused QKV as (3, heads, dim)",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          a = MatMul (x, w)
          b = Add (a, bias)
          s = Reshape (b, split)
          t = Transpose <perm = [2, 0, 3, 1, 4]> (s)
          q = Gather <axis = 0> (t, zero)
          k = Gather <axis = 0> (t, one)
          v = Gather <axis = 0> (t, two)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s0 = MatMul (q, kt)
          p = Softmax <axis = -1> (s0)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(
            w=(10, 72),
            bias=(72,),
            wo=(24, 6),
            split=ints(2, 7, 3, 4, 6),
            merge=ints(2, 7, 24),
            zero=np.array(0),
            one=np.array(1),
            two=np.array(2),
        ),
        ["heads 4", "head-dim 6"],
        dict(w=(10, 36), bias=(36,), wo=(12, 6)),
    ),
    Case(
        "fused QKV, split in three and squeezed",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          a = MatMul (x, w)
          s = Reshape (a, split)
          t = Transpose <perm = [2, 0, 3, 1, 4]> (s)
          q1, k1, v1 = Split <axis = 0> (t)
          q = Squeeze (q1, zero)
          k = Squeeze (k1, zero)
          v = Squeeze (v1, zero)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s0 = MatMul (q, kt)
          p = Softmax <axis = -1> (s0)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(w=(10, 72), wo=(24, 6), split=ints(2, 7, 3, 4, 6), merge=ints(2, 7, 24), zero=ints(0)),
        ["heads 4", "head-dim 6"],
        dict(w=(10, 36), wo=(12, 6)),
    ),
    Case(
        "fused QKV, interleaved as (heads, 3, dim)",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          a = MatMul (x, w)
          s = Reshape (a, split)
          t = Transpose <perm = [0, 2, 1, 3, 4]> (s)
          q1, k1, v1 = Split <axis = 3> (t)
          q = Squeeze (q1, three)
          k = Squeeze (k1, three)
          v = Squeeze (v1, three)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s0 = MatMul (q, kt)
          p = Softmax <axis = -1> (s0)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(w=(10, 72), wo=(24, 6), split=ints(2, 7, 4, 3, 6), merge=ints(2, 7, 24), three=ints(3)),
        ["heads 4", "head-dim 6"],
        dict(w=(10, 36), wo=(12, 6)),
    ),
    Case(
        "fused QKV, interleaved as (heads, 3 * dim) and split along the last axis",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          a = MatMul (x, w)
          s = Reshape (a, split)
          t = Transpose <perm = [0, 2, 1, 3]> (s)
          q, k, v = Split <axis = 3> (t)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s0 = MatMul (q, kt)
          p = Softmax <axis = -1> (s0)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(w=(10, 72), wo=(24, 6), split=ints(2, 7, 4, 18), merge=ints(2, 7, 24)),
        ["heads 4", "head-dim 6"],
        dict(w=(10, 36), wo=(12, 6)),
    ),
    Case(
        "grouped queries by unsqueeze, expand, reshape",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, splitkv)
          k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
          k3 = Unsqueeze (k2, two)
          k4 = Expand (k3, repeat)
          k = Reshape (k4, heads)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, splitkv)
          v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
          v3 = Unsqueeze (v2, two)
          v4 = Expand (v3, repeat)
          v = Reshape (v4, heads)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s = MatMul (q, kt)
          p = Softmax <axis = -1> (s)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(
            wq=(10, 32),
            wk=(10, 16),
            wv=(10, 16),
            wo=(32, 6),
            split=ints(2, 7, 4, 8),
            splitkv=ints(2, 7, 2, 8),
            two=ints(2),
            repeat=ints(2, 2, 2, 7, 8),
            heads=ints(2, 4, 7, 8),
            merge=ints(2, 7, 32),
        ),
        ["heads 2", "head-dim 8", "head-dim 8"],
        dict(wq=(10, 16), wk=(10, 8), wv=(10, 8), wo=(16, 6)),
    ),
    Case(
        "multi-query attention: all heads share one key and value",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, wk)
          k1 = Unsqueeze (k0, one)
          kt = Transpose <perm = [0, 1, 3, 2]> (k1)
          v0 = MatMul (x, wv)
          v = Unsqueeze (v0, one)
          s = MatMul (q, kt)
          p = Softmax <axis = -1> (s)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 32), wk=(10, 8), wv=(10, 8), wo=(32, 6), split=ints(2, 7, 4, 8), one=ints(1), merge=ints(2, 7, 32)),
        ["heads 4", "head-dim 8", "head-dim 8"],
        dict(wq=(10, 8), wk=(10, 4), wv=(10, 4), wo=(8, 6)),
        options=dict(attention="both"),
    ),
    Case(
        "rotate-half RoPE ties d with d + D/2",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
          qa = Slice (q2, zero, half, axis)
          qb = Slice (q2, half, end, axis)
          qn = Neg (qb)
          qr = Concat <axis = -1> (qn, qa)
          qc = Mul (q2, cos)
          qs = Mul (qr, sin)
          q = Add (qc, qs)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, split)
          k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
          ka = Slice (k2, zero, half, axis)
          kb = Slice (k2, half, end, axis)
          kn = Neg (kb)
          kr = Concat <axis = -1> (kn, ka)
          kc = Mul (k2, cos)
          ks = Mul (kr, sin)
          k = Add (kc, ks)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, split)
          v = Transpose <perm = [0, 2, 1, 3]> (v1)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          s = MatMul (q, kt)
          p = Softmax <axis = -1> (s)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(
            wq=(10, 32),
            wk=(10, 32),
            wv=(10, 32),
            wo=(32, 6),
            cos=(7, 8),
            sin=(7, 8),
            split=ints(2, 7, 4, 8),
            merge=ints(2, 7, 32),
            zero=ints(0),
            half=ints(4),
            end=ints(2**63 - 1),
            axis=ints(3),
        ),
        ["heads 4", "head-dim 4", "head-dim 8"],
        dict(wq=(10, 8), wk=(10, 8), wv=(10, 8), wo=(8, 6), cos=(7, 4), sin=(7, 4)),
        options=dict(attention="both"),
    ),
    Case(
        "interleaved RoPE ties 2i with 2i + 1",
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, pairs)
          qa1 = Gather <axis = 4> (q1, zero)
          qb1 = Gather <axis = 4> (q1, one)
          qc = Mul (qa1, cos)
          qd = Mul (qb1, sin)
          qe = Sub (qc, qd)
          qf = Mul (qa1, sin)
          qg = Mul (qb1, cos)
          qh = Add (qf, qg)
          qi = Unsqueeze (qe, four)
          qj = Unsqueeze (qh, four)
          qk = Concat <axis = 4> (qi, qj)
          ql = Reshape (qk, split)
          q = Transpose <perm = [0, 2, 1, 3]> (ql)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, split)
          kt = Transpose <perm = [0, 2, 3, 1]> (k1)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, split)
          v = Transpose <perm = [0, 2, 1, 3]> (v1)
          s = MatMul (q, kt)
          p = Softmax <axis = -1> (s)
          c = MatMul (p, v)
          ct = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (ct, merge)
          y = MatMul (o, wo)
        }""",
        dict(
            wq=(10, 32),
            wk=(10, 32),
            wv=(10, 32),
            wo=(32, 6),
            cos=(7, 1, 4),
            sin=(7, 1, 4),
            pairs=ints(2, 7, 4, 4, 2),
            split=ints(2, 7, 4, 8),
            merge=ints(2, 7, 32),
            zero=np.array(0),
            one=np.array(1),
            four=ints(4),
        ),
        ["heads 4", "head-dim 4", "head-dim 8"],
        dict(wq=(10, 8), wk=(10, 8), wv=(10, 8), wo=(8, 6), cos=(7, 1, 2), sin=(7, 1, 2)),
        options=dict(attention="both"),
    ),
    Case(
        "per-dim scale shared by all heads makes columns one",
        projected(DECOMPOSED.replace("s0 = MatMul (qh, kh)", "qg = Mul (qh, gain)\n s0 = MatMul (qg, kh)")),
        QKV | SPLIT | dict(gain=(6,)),
        ["heads 4", "head-dim 6", "head-dim 6"],
        {n: tuple(6 if d == 12 else d for d in s) for n, s in HALF.items()} | dict(gain=(3,)),
        options=dict(attention="both"),
    ),
    Case(
        "cross attention with other widths of keys and values",
        """(float[2, 7, 10] x, float[2, 9, 11] z) => (float[2, 7, 6] y) {
          q = MatMul (x, wq)
          k = MatMul (z, wk)
          v = MatMul (z, wv)
          o = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 24), wk=(11, 24), wv=(11, 32), wo=(32, 6)),
        ["heads 4", "head-dim 6", "head-dim 8"],
        dict(wq=(10, 6), wk=(11, 6), wv=(11, 8), wo=(8, 6)),
        options=dict(attention="both"),
        ms=True,
    ),
    Case(
        "attention off leaves it alone",
        projected(ONNX23, tail="h = MatMul (o, wo)\n r = Relu (h)\n y = MatMul (r, w2)"),
        QKV | dict(w2=(6, 6)),
        ["heads 4", "head-dim 6", "head-dim 6", "channel 6"],
        dict(wo=(24, 3), w2=(3, 6)),
        options=dict(attention="off"),
        opset=23,
    ),
]


@table(CASES)
def test_attention(case):
    check(case)


SCALES = {
    "a constant": ("s = Mul (s0, scale)", {"scale": np.array(6**-0.5, np.float32)}),
    "computed from Shape": (
        """sh = Shape (qh)
      d = Gather (sh, three)
      f = Cast <to = 1> (d)
      r = Sqrt (f)
      s = Div (s0, r)""",
        {"three": np.array(3)},
    ),
    "computed from Shape, on both factors": (
        """sh = Shape (qh)
      d = Slice (sh, minus, big)
      f = Cast <to = 1> (d)
      r = Sqrt (f)
      i = Div (unit, r)
      j = Sqrt (i)
      qz = Mul (qh, j)
      kz = Mul (kh, j)
      s = MatMul (qz, kz)""",
        {"minus": ints(-1), "big": ints(2**63 - 1), "unit": np.array([1], np.float32)},
    ),
}


@pytest.mark.parametrize("spelling", SCALES)
def test_scale_stays_what_it_was(spelling):
    nodes, constants = SCALES[spelling]
    more = {k: v for k, v in SPLIT.items() if k != "scale"} | constants
    body = projected(DECOMPOSED.replace("s = Mul (s0, scale)", nodes))
    check(Case(spelling, body, QKV | more, WAYS[1][1], HALF, options=dict(attention="head-dim")))
