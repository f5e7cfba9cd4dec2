"""Graphs made to be got wrong: whatever the engine removes, the result has to be right and nothing be put back."""

import numpy as np
import onnx
import pytest

import onnxprune
from tests.models_text import feeds_of, found_groups, ints, make, run, without

GRAPHS = {
    "two branches capture one weight that the main graph never reads, one needs all of it": (
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          y = If (c) <
            then_branch = g1 () => (float[3, 2] t) { h = MatMul (x, w1)  r = Relu (h)  t = MatMul (r, w2) },
            else_branch = g2 () => (float[3, 2] e) { i = MatMul (x, w1)  s = Softmax <axis = 1> (i)  e = MatMul (s, w3) }
          >
        }""",
        dict(w1=(5, 8), w2=(8, 2), w3=(8, 2)),
        {},
        [],
    ),
    "both branches hold a weight of the same name": (
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          y = If (c) <
            then_branch = g1 () => (float[3, 2] t) <float[4, 2] w = {1,2,3,-4,5,6,-7,8}> { t = MatMul (a, w) },
            else_branch = g2 () => (float[3, 2] e) <float[4, 2] w = {9,8,7,6,5,-4,3,2}> { r = Relu (a)  e = MatMul (r, w) }
          >
        }""",
        dict(w1=(5, 4)),
        {},
        [],
    ),
    "reshape that straddles channels and positions": (
        """(float[2, 3, 4, 4] x) => (float[2, 2] y) {
          a = Conv (x, w1)
          b = Reshape (a, s)
          c = Relu (b)
          d = ReduceSum <keepdims = 0> (c, one)
          y = MatMul (d, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(32, 2), s=ints(2, 4, 32), one=ints(1)),
        {},
        ["group-channels 2"],
    ),
    "a shuffle by 3 of 8 channels padded to 9": (
        """(float[2, 3, 4, 4] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          p = Pad (a, pads)
          b = Reshape (p, s)
          c = Transpose <perm = [0, 2, 1, 3, 4]> (b)
          d = Reshape (c, t)
          y = Conv (d, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 9, 1, 1), pads=ints(0, 0, 0, 0, 0, 1, 0, 0), s=ints(2, 3, 3, 4, 4), t=ints(2, 9, 4, 4)),
        {},
        ["conv-groups 3"],
    ),
    "slices that overlap": (
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          p = Slice (a, zero, six, one)
          q = Slice (a, two, eight, one)
          r = Mul (p, q)
          y = MatMul (r, w2)
        }""",
        dict(w1=(5, 8), w2=(6, 2), zero=ints(0), two=ints(2), six=ints(6), eight=ints(8), one=ints(1)),
        {},
        ["channel 2"],
    ),
    "two slices of 6 and of 4 from one axis of 8, each into its own weight": (
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          p = Slice (a, zero, six, one)
          q = Slice (a, four, eight, one)
          u = MatMul (p, w2)
          v = MatMul (q, w3)
          y = Add (u, v)
        }""",
        dict(w1=(5, 8), w2=(6, 2), w3=(4, 2), zero=ints(0), four=ints(4), six=ints(6), eight=ints(8), one=ints(1)),
        {},
        ["channel 4", "channel 2", "channel 2"],
    ),
    "a weight that is data of a Gather, a MatMul operand and a bias": (
        """(int64[3] i) => (float[3, 2] y) {
          e = Gather (t, i)
          a = MatMul (e, w1)
          b = Gather (t, zero)
          c = Add (a, b)
          d = MatMul (c, w1)
          y = MatMul (d, w2)
        }""",
        dict(t=(11, 8), w1=(8, 8), w2=(8, 2), zero=np.array(0)),
        {},
        ["channel 8"],
    ),
    "grouped convolutions with 2 and 4 groups over the same channels": (
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          b = Conv <group = 2> (a, w2)
          c = Conv <group = 4> (b, w3)
          d = Add (a, c)
          y = Conv (d, w4)
        }""",
        dict(w1=(16, 3, 1, 1), w2=(16, 8, 1, 1), w3=(16, 4, 1, 1), w4=(2, 16, 1, 1)),
        {},
        ["group-channels 4", "group-channels 4"],
    ),
    "grouped convolution behind a concat that cuts through its groups": (
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          b = Conv (x, w2)
          c = Concat <axis = 1> (a, b)
          d = Conv <group = 3> (c, w3)
          y = Conv (d, w4)
        }""",
        dict(w1=(5, 3, 1, 1), w2=(7, 3, 1, 1), w3=(6, 4, 3, 3), w4=(2, 6, 1, 1)),
        {},
        ["group-channels 2", "group-channels 4"],
    ),
    "flatten, then split through the middle of a channel": (
        """(float[2, 3, 3, 3] x) => (float[2, 2] y) {
          a = Conv (x, w1)
          f = Flatten (a)
          p, q = Split <axis = 1> (f, s)
          u = MatMul (p, w2)
          v = MatMul (q, w3)
          y = Add (u, v)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(31, 2), w3=(41, 2), s=ints(31, 41)),
        {},
        ["channel 3", "channel 1", "channel 4"],
    ),
    "a sum over channels that are not zero, hidden behind an Einsum": (
        """(float[3, 5] x) => (float[3] y) {
          a = MatMul (x, w1)
          s = Sigmoid (a)
          y = Einsum <equation = "ij->i"> (s)
        }""",
        dict(w1=(5, 8)),
        {},
        [],
    ),
    "max over channels": (
        """(float[3, 5] x) => (float[3, 1] y) {
          a = MatMul (x, w1)
          y = ReduceMax <axes = [1]> (a)
        }""",
        dict(w1=(5, 8)),
        {},
        [],
    ),
    "1 / sqrt(width) and width / 2 computed from the shape of a pruned tensor": (
        """(float[N, 5] x) => (float[N, 2] y) {
          a = MatMul (x, w1)
          s = Shape (a)
          c = Gather (s, one)
          f = Cast <to = 1> (c)
          r = Sqrt (f)
          d = Div (a, r)
          h = Div (c, two)
          hu = Unsqueeze (h, zero)
          cu = Unsqueeze (c, zero)
          p = Slice (d, zero, hu, oneu)
          q = Slice (d, hu, cu, oneu)
          m = Mul (p, q)
          y = MatMul (m, w2)
        }""",
        dict(w1=(5, 8), w2=(4, 2), one=np.array(1), two=np.array(2), zero=ints(0), oneu=ints(1)),
        {},
        ["channel 4"],
    ),
    "position indices over a pruned length": (
        """(float[N, 5] x) => (float[N, 2] y) {
          a = MatMul (x, w1)
          s = Shape (a)
          c = Gather (s, one)
          r = Range (zero, c, one)
          f = Cast <to = 1> (r)
          b = Add (a, f)
          y = MatMul (b, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2), one=np.array(1), zero=np.array(0)),
        {},
        [],
    ),
    "mask made by comparing a position with a constant": (
        """(float[N, 5] x) => (float[N, 2] y) {
          a = MatMul (x, w1)
          s = Shape (a)
          c = Gather (s, one)
          r = Range (zero, c, one)
          l = Less (r, five)
          b = Where (l, a, nil)
          y = MatMul (b, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2), one=np.array(1), zero=np.array(0), five=np.array(5), nil=np.array(0, np.float32)),
        {},
        [],
    ),
    "a gate over (channels, 1) and (1, channels) at once": (
        """(float[3, 5] x) => (float[8, 2] y) {
          a = MatMul (x, w1)
          m = ReduceMean <axes = [0]> (a)
          t = Transpose (m)
          o = Mul (t, m)
          y = MatMul (o, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2)),
        {},
        [],
    ),
    "outer product of a vector with itself, summed over one side": (
        """(float[3, 5] x) => (float[2] y) {
          a = MatMul (x, w1)
          m = ReduceMean <axes = [0]> (a)
          t = Transpose (m)
          o = Mul (t, m)
          p = MatMul (o, w2)
          q = Transpose (p)
          r = MatMul (q, w3)
          y = ReduceSum <keepdims = 0> (r, one)
        }""",
        dict(w1=(5, 8), w2=(8, 2), w3=(8, 4), one=ints(1)),
        {},
        ["channel 8", "channel 4"],
    ),
    "gram matrix of channels": (
        """(float[2, 3, 4, 4] x) => (float[2, 2, 2] y) {
          a = Conv (x, w1)
          f = Reshape (a, s)
          t = Transpose <perm = [0, 2, 1]> (f)
          g = MatMul (f, t)
          l = MatMul (w2, g)
          y = MatMul (l, w3)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8), w3=(8, 2), s=ints(2, 8, 16)),
        {},
        ["channel 8"],
    ),
    "attention over channels: softmax of a gram matrix": (
        """(float[2, 3, 4, 4] x) => (float[2, 2, 16] y) {
          a = Conv (x, w1)
          f = Reshape (a, s)
          t = Transpose <perm = [0, 2, 1]> (f)
          g = MatMul (f, t)
          p = Softmax <axis = -1> (g)
          o = MatMul (p, f)
          y = MatMul (w2, o)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8), s=ints(2, 8, 16)),
        {},
        [],
    ),
    "softmax over heads (talking heads) next to plain heads": (
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, split)
          k = Transpose <perm = [0, 2, 3, 1]> (k1)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, split)
          v = Transpose <perm = [0, 2, 1, 3]> (v1)
          s = MatMul (q, k)
          m = Einsum <equation = "bhij,hg->bgij"> (s, mix)
          p = Softmax <axis = -1> (m)
          c = MatMul (p, v)
          t = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (t, merge)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 24), wk=(10, 24), wv=(10, 24), wo=(24, 6), mix=(4, 4), split=ints(2, 7, 4, 6), merge=ints(2, 7, 24)),
        dict(attention="both"),
        ["heads 4", "head-dim 6", "heads 4", "head-dim 6"],
    ),
    "per-head RMS norm over head dims, then RoPE tables per dim": (
        """(float[2, 7, 10] x) => (float[2, 7, 6] y) {
          q0 = MatMul (x, wq)
          q1 = Reshape (q0, split)
          q2 = LpNormalization <axis = -1, p = 2> (q1)
          q3 = Mul (q2, gain)
          q = Transpose <perm = [0, 2, 1, 3]> (q3)
          k0 = MatMul (x, wk)
          k1 = Reshape (k0, split)
          k = Transpose <perm = [0, 2, 3, 1]> (k1)
          v0 = MatMul (x, wv)
          v1 = Reshape (v0, split)
          v = Transpose <perm = [0, 2, 1, 3]> (v1)
          s = MatMul (q, k)
          p = Softmax <axis = -1> (s)
          c = MatMul (p, v)
          t = Transpose <perm = [0, 2, 1, 3]> (c)
          o = Reshape (t, merge)
          y = MatMul (o, wo)
        }""",
        dict(wq=(10, 24), wk=(10, 24), wv=(10, 24), wo=(24, 6), gain=(6,), split=ints(2, 7, 4, 6), merge=ints(2, 7, 24)),
        dict(attention="both"),
        ["heads 4", "head-dim 6", "head-dim 6"],
    ),
    "bidirectional LSTM whose directions are used by different weights": (
        """(float[7, 2, 5] x) => (float[7, 1, 2, 2] y) {
          s = LSTM <direction = "bidirectional", hidden_size = 6> (x, w, r)
          f, b = Split <axis = 1> (s)
          u = MatMul (f, w1)
          v = MatMul (b, w2)
          y = Add (u, v)
        }""",
        dict(w=(2, 24, 5), r=(2, 24, 6), w1=(6, 2), w2=(6, 2)),
        {},
        ["group-channels 6"],
    ),
    "bidirectional LSTM whose directions are added": (
        """(float[7, 2, 5] x) => (float[7, 2, 2] y) {
          s = GRU <direction = "bidirectional", hidden_size = 6> (x, w, r, b)
          t = ReduceSum <keepdims = 0> (s, one)
          y = MatMul (t, w1)
        }""",
        dict(w=(2, 18, 5), r=(2, 18, 6), b=(2, 36), w1=(6, 2), one=ints(1)),
        {},
        ["group-channels 6"],
    ),
    "loop whose state is rolled by one channel": (
        """(float[3, 5] x, int64 n, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = Loop (n, c, a) <
            body = g (int64 i, bool ci, float[3, 8] h) => (bool co, float[3, 8] ho) {
              co = Identity (ci)
              p = Slice (h, one, eight, one)
              q = Slice (h, zero, one, one)
              ho = Concat <axis = 1> (p, q)
            }
          >
          y = MatMul (b, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2), zero=ints(0), one=ints(1), eight=ints(8)),
        {},
        [],
    ),
    "loop that swaps two states": (
        """(float[3, 5] x, int64 n, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          d = MatMul (x, w3)
          p, q = Loop (n, c, a, d) <
            body = g (int64 i, bool ci, float[3, 8] g1, float[3, 8] g2) => (bool co, float[3, 8] h1, float[3, 8] h2) {
              co = Identity (ci)
              h1 = Relu (g2)
              h2 = Identity (g1)
            }
          >
          m = Mul (p, q)
          y = MatMul (m, w2)
        }""",
        dict(w1=(5, 8), w3=(5, 8), w2=(8, 2)),
        {},
        ["channel 8"],
    ),
    "pad with a number, then a sum over channels": (
        """(float[3, 5] x) => (float[3, 1] y) {
          a = MatMul (x, w1)
          p = Pad (a, pads, c)
          y = ReduceSum (p, one)
        }""",
        dict(w1=(5, 8), pads=ints(0, 1, 0, 2), c=np.array(3, np.float32), one=ints(1)),
        {},
        [],
    ),
    "clip away from zero, then a sum over channels": (
        """(float[3, 5] x) => (float[3, 1] y) {
          a = MatMul (x, w1)
          p = Clip (a, low)
          y = ReduceSum (p, one)
        }""",
        dict(w1=(5, 8), low=np.array(0.5, np.float32), one=ints(1)),
        {},
        [],
    ),
    "tile, then a grouped convolution with another order": (
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          b = Tile (a, r)
          c = Conv <group = 4> (b, w2)
          d = Mul (b, c)
          y = Conv (d, w3)
        }""",
        dict(w1=(6, 3, 1, 1), w2=(12, 3, 1, 1), w3=(2, 12, 1, 1), r=ints(1, 2, 1, 1)),
        {},
        ["conv-groups 2"],
    ),
    "one constant is a reshape target, a pad and a slice bound": (
        """(float[8, 5] x) => (float[8, 2] y) {
          a = MatMul (x, w1)
          z = Concat <axis = 0> (eight, eight)
          b = Reshape (a, z)
          c = Slice (b, zero, eight, zero)
          d = Expand (s, z)
          e = Mul (c, d)
          y = MatMul (e, w2)
        }""",
        dict(w1=(5, 8), s=(8,), w2=(8, 2), eight=ints(8), zero=ints(0)),
        {},
        ["channel 8"],
    ),
}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_result_is_right(name, ratio):
    body, weights, options, expected_groups = GRAPHS[name]
    model = make(body, weights)
    onnx.checker.check_model(model, full_check=True)
    try:
        result = onnxprune.prune(model, ratio=ratio, **options)
    except onnxprune.NothingToPruneError as error:
        assert "put back" not in str(error) and "no group passed" not in str(error)
        groups = onnxprune.analyze(model)
        assert groups.trace.failures == []
        assert [f"{g.kind} {g.units}" for g in groups.groups] == expected_groups
        assert ratio == 0.25 or not groups.groups
        return
    assert sorted(found_groups(result)) == sorted(expected_groups)
    assert result.report.put_back == []
    assert result.report.failures == []
    assert result.report.verification.passed
    if any(not g.exact and g.removed for g in result.report.groups):
        return
    for flag in (True, False):
        for seed in (1, 2):
            feeds = feeds_of(model, result.report.shapes, seed)
            if "c" in feeds:
                feeds["c"] = np.array(flag)
            for expected, actual in zip(run(without(model, result.plan), feeds), run(result.model, feeds), strict=True):
                np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
