"""Values of attention with grouped queries, and gated feed-forward layers, as language models have them."""

import numpy as np
import pytest

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from onnxprune.recover.attention import Factors, fit_values
from onnxprune.statistics.moments import Moments
from tests.models_text import ints, make

S, C, D, HEADS, GROUPS = 6, 8, 4, 4, 2


def samples(n=192, batch=32):
    data = np.random.default_rng(3).standard_normal((n, S, C)).astype(np.float32)
    return Samples([Batch({"x": data[k : k + batch]}, batch) for k in range(0, n, batch)], n, "test", False, None)


def lost(model, result):
    x = np.random.default_rng(9).standard_normal((16, S, C)).astype(np.float32)
    (a,), (b,) = (run(m, {"x": x}, ["y"]) for m in (model, result.model))
    return float(((a - b) ** 2).mean() / a.var())


def grouped(*, fused=False, bias_v=False, bias_o=False):
    """Each head of values has two dimensions that matter; the two largest of its four are the same one."""
    rng = np.random.default_rng(2)
    wq, wk = rng.standard_normal((C, HEADS * D)) * 0.5, rng.standard_normal((C, GROUPS * D)) * 0.5
    wv = rng.standard_normal((C, GROUPS, 2))
    bv = 0.4 * rng.standard_normal((GROUPS, 2)) if bias_v else np.zeros((GROUPS, 2))
    spread = np.array([[3, 3, 0, 0.1], [0, 0, 1, 1]])
    wv, bv = (wv @ spread).reshape(C, -1), (bv @ spread).ravel()
    wo = rng.standard_normal((GROUPS, HEADS // GROUPS, D, C))
    weights = dict(
        wo=wo.reshape(-1, C), by=rng.standard_normal(C), bv=bv,
        sq=ints(0, S, HEADS, D), sk=ints(0, S, GROUPS, D), two=ints(2),
        e=ints(1, GROUPS, HEADS // GROUPS, S, D), sr=ints(0, HEADS, S, D), m=ints(0, S, HEADS * D),
    )  # fmt: skip
    if fused:
        weights |= dict(w=np.concatenate([wq, wk, wv], axis=1), cut=ints(HEADS * D, GROUPS * D, GROUPS * D))
        first = "qkv = MatMul (x, w)  q, k, v0 = Split <axis = 2> (qkv, cut)"
    else:
        weights |= dict(wq=wq, wk=wk, wv=wv)
        first = "q = MatMul (x, wq)  k = MatMul (x, wk)  v0 = MatMul (x, wv)"
    weights = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in weights.items()}
    text = f"""(float[N, {S}, {C}] x) => (float[N, {S}, {C}] y) {{
      {first}
      v = {"Add (v0, bv)" if bias_v else "Identity (v0)"}
      q1 = Reshape (q, sq)
      k1 = Reshape (k, sk)
      v1 = Reshape (v, sk)
      q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
      k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
      v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
      k3 = Unsqueeze (k2, two)
      k4 = Expand (k3, e)
      k5 = Reshape (k4, sr)
      v3 = Unsqueeze (v2, two)
      v4 = Expand (v3, e)
      v5 = Reshape (v4, sr)
      kt = Transpose <perm = [0, 1, 3, 2]> (k5)
      a = MatMul (q2, kt)
      p = Softmax <axis = -1> (a)
      o = MatMul (p, v5)
      back = Transpose <perm = [0, 2, 1, 3]> (o)
      merged = Reshape (back, m)
      z = MatMul (merged, wo)
      y = {"Add (z, by)" if bias_o else "Identity (z)"}
    }}"""
    return make(text, weights)


@pytest.mark.parametrize(
    "options",
    [{}, dict(fused=True), dict(bias_v=True), dict(bias_v=True, bias_o=True)],
    ids=["plain", "fused", "v", "v and o"],
)
def test_grouped_queries_share_what_stays(options):
    """The largest dimensions stay, which are the same one: only values that are mixed anew carry both that matter."""
    model = grouped(**options)
    groups = onnxprune.analyze(model)
    kept = dict(ratio=0.5, data=samples(), criterion="l2", attention="head-dim")
    of_values = [g for g in groups.groups if ("wo", 0) in g.members and g.kind == "head-dim"]
    kept["only"] = [of_values[0].id]
    bare = onnxprune.prune(model, reconstruct="none", **kept)
    bias = onnxprune.prune(model, reconstruct="bias", **kept)
    result = onnxprune.prune(model, **kept)
    assert lost(model, result) < 1e-4 < 1e-1 < min(lost(model, bare), lost(model, bias))
    assert result.report.verification.passed


def test_a_gated_layer_reads_the_product():
    """Gate and up lose columns together; down makes up for them."""
    rng = np.random.default_rng(0)
    wide = {n: np.repeat(rng.standard_normal((C, 6)), 2, axis=1).astype(np.float32) for n in ("gate", "up")}
    text = f"""(float[N, {S}, {C}] x) => (float[N, {S}, {C}] y) {{
      g = MatMul (x, gate)
      s = Sigmoid (g)
      h = Mul (g, s)
      u = MatMul (x, up)
      p = Mul (h, u)
      d = MatMul (p, down)
      y = Add (d, x)
    }}"""
    model = make(text, wide | dict(down=rng.standard_normal((12, C)).astype(np.float32)))
    bare = onnxprune.prune(model, ratio=0.5, data=samples(), criterion="obs", reconstruct="none")
    result = onnxprune.prune(model, ratio=0.5, data=samples(), criterion="obs")
    assert [(f.weight, f.kind) for f in result.report.fits] == [("down", "lsq")]
    assert lost(model, result) < 1e-4 < 1e-1 < lost(model, bare)


def test_shared_values_are_found_from_any_start():
    """Two values of rank 2, each read by three heads: what is fitted reaches what is there."""
    rng = np.random.default_rng(5)
    owner, c, d, out = (0, 0, 0, 1, 1, 1), 7, 2, 9
    value = [rng.standard_normal((c, d)) for _ in range(2)]
    truth = Factors(value, [rng.standard_normal((d, out)) for _ in owner], owner)
    rows = rng.standard_normal((900, 1, len(owner) * c))
    y = rows @ truth.product
    train, held = Moments.of(rows[:700], y[:700]), Moments.of(rows[700:], y[700:])
    start = Factors([rng.standard_normal((c, d)) for _ in range(2)], [rng.standard_normal((d, out)) for _ in owner], owner)
    found, before, after = fit_values(train, held, start, True, 1e-9)
    assert after < 1e-8 < 0.1 < before
    assert [v.shape for v in found.value] == [(c, d)] * 2 and found.owner == owner
