"""Queries and keys that lose dimensions: what a smaller inner dimension can say, it says."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from onnxprune.recover.bilinear import mix
from tests.models_text import ints, make

C, S, H, D = 10, 6, 2, 8
SHAPE = (S, C)


def samples(n=96):
    data = np.random.default_rng(3).standard_normal((n, *SHAPE)).astype(np.float32)
    return Samples([Batch({"x": data[k : k + 32]}, 32) for k in range(0, n, 32)], n, "test", False, None)


def of_rank(rank, heads, seed):
    """A projection `(C, heads, D)` whose dimensions of each head are mixtures of `rank`."""
    rng = np.random.default_rng(seed)
    return np.einsum("chr,hrd->chd", rng.standard_normal((C, heads, rank)), rng.standard_normal((heads, rank, D))) / D


def attention(rank, *, key_heads=H, biases=("bq", "bk"), key_rank=None, rotated=False, softmax=True):
    """Separate projections; the logits' bilinear form of each head has a rank. Values have dimensions of their own."""
    rng = np.random.default_rng(1)
    weights = dict(
        wq=of_rank(rank, H, 2), wk=of_rank(key_rank or D, key_heads, 3),
        wv=rng.standard_normal((C, H, 3)), wo=rng.standard_normal((H * 3, C)),
    )  # fmt: skip
    weights = {n: w.reshape(-1, w.shape[-1]) if n == "wo" else w.reshape(C, -1) for n, w in weights.items()}
    if "bq" in biases:
        weights["bq"] = rng.standard_normal(C) @ weights["wq"]  # within the same few directions
    if "bk" in biases:
        weights["bk"] = rng.standard_normal(key_heads * D)
    text = f"""(float[N, {S}, {C}] x) => (float[N, {S}, {C}] y) {{
      q0 = MatMul (x, wq)
      {"q1 = Add (q0, bq)" if "bq" in biases else "q1 = Identity (q0)"}
      k0 = MatMul (x, wk)
      {"k1 = Add (bk, k0)" if "bk" in biases else "k1 = Identity (k0)"}
      v0 = MatMul (x, wv)
      q2 = Reshape (q1, sq)
      k2 = Reshape (k1, sk)
      v2 = Reshape (v0, sv)
      q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
      {"q = Mul (q3, rotation)" if rotated else "q = Mul (q3, half)"}
      {
        "k = Transpose <perm = [0, 2, 3, 1]> (k2)"
        if key_heads == H
        else "k3 = Transpose <perm = [0, 2, 3, 1]> (k2)  k = Expand (k3, wide)"
    }
      v = Transpose <perm = [0, 2, 1, 3]> (v2)
      a = MatMul (q, k)
      {"p = Softmax <axis = -1> (a)" if softmax else "p = Tanh (a)"}
      o = MatMul (p, v)
      t = Transpose <perm = [0, 2, 1, 3]> (o)
      m = Reshape (t, sm)
      y = MatMul (m, wo)
    }}"""
    numbers = dict(
        sq=ints(0, S, H, -1), sk=ints(0, S, key_heads, -1), sv=ints(0, S, H, 3), sm=ints(0, S, H * 3), wide=ints(1, H, 1, 1),
        half=np.array(0.5, np.float32), rotation=rng.standard_normal((1, 1, S, D)).astype(np.float32),
    )  # fmt: skip
    used = {n: a for n, a in numbers.items() if n in text}
    return make(text, {n: w.astype(np.float32) for n, w in weights.items()} | used)


def lost(source, result):
    x = np.random.default_rng(9).standard_normal((16, *SHAPE)).astype(np.float32)
    (a,), (b,) = (run(m, {"x": x}, ["y"]) for m in (source, result.model))
    return float(np.abs(a - b).max() / np.abs(a).max())


def shape(model, name):
    return next(tuple(t.dims) for t in model.graph.initializer if t.name == name)


def halve(source, **options):
    return onnxprune.prune(source, ratio=0.5, attention="head-dim", only=["wq"], data=samples(), **options)


CASES = {
    "both have biases": {},
    "no biases": dict(biases=()),
    "a bias of queries alone": dict(biases=("bq",)),
    "a bias of keys alone": dict(biases=("bk",)),
    "the keys have the rank": dict(rank=D, key_rank=D // 2, biases=("bq",)),
    "one head of keys": dict(key_heads=1, biases=()),
    "no softmax": dict(softmax=False),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_of_small_rank_cost_nothing(name):
    """A bilinear form of rank r needs r dimensions, whichever D it was written with."""
    options = {"rank": 2 if name == "one head of keys" else D // 2} | CASES[name]
    source = attention(**options)
    result, bare = halve(source), halve(source, reconstruct="none")
    assert shape(result.model, "wq") == (C, H * D // 2)
    assert lost(source, result) < 1e-5 < 0.05 < lost(source, bare)
    assert result.report.verification.passed
    line = next(f for f in result.report.fits if "wk" in f.weight)
    assert line.kind == "lsq" and line.lost_after < 1e-8 < line.lost_before


def test_what_mixes_dimensions_otherwise_is_declined():
    """A factor that differs by position (as rotations have) can't be undone by a projection; the reason says so."""
    source = attention(D // 2, rotated=True)
    result = halve(source)
    line = next(f for f in result.report.fits if "wk" in f.weight)
    assert line.kind == "none" and "rotation" in line.reason


def test_fused_attention():
    """The operator of opset 23: its heads are an attribute, its operands lie flat."""
    rng = np.random.default_rng(1)
    text = f"""(float[N, {S}, {C}] x) => (float[N, {S}, {C}] y) {{
      q = MatMul (x, wq)
      k = MatMul (x, wk)
      v = MatMul (x, wv)
      o = Attention <q_num_heads = {H}, kv_num_heads = {H}> (q, k, v)
      y = MatMul (o, wo)
    }}"""
    weights = dict(
        wq=of_rank(D // 2, H, 2).reshape(C, -1), wk=of_rank(D, H, 3).reshape(C, -1), wv=rng.standard_normal((C, H * D)),
        wo=rng.standard_normal((H * D, C)),
    )  # fmt: skip
    source = make(text, {n: w.astype(np.float32) for n, w in weights.items()}, opset=23)
    result = halve(source)
    assert shape(result.model, "wq") == (C, H * D // 2)
    assert lost(source, result) < 1e-5


def test_the_closed_form_is_the_best_of_all_pairs():
    """No other mixtures of the same rank have a smaller error over all pairs of queries and keys."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((50, 6)) * [5, 3, 1, 1, 1, 0.1], rng.standard_normal((70, 6)) @ rng.standard_normal((6, 6))
    a, b = mix([q.T @ q], k.T @ k, 3)
    reached = float(((q @ k.T - q @ a @ (k @ b).T) ** 2).sum())
    best = float((np.linalg.svd(q @ k.T, compute_uv=False)[3:] ** 2).sum())
    assert abs(reached - best) < 1e-8 * float(((q @ k.T) ** 2).sum())


def test_probabilities_of_a_trained_transformer():
    """A quarter of the dimensions, mixed, says nearly what all said; a quarter of them as they were is far from it."""
    source = onnx.load("models/vit_legacy.onnx")
    dims = [g.members[0][0] for g in onnxprune.analyze(source).groups if g.kind == "head-dim"]
    result = onnxprune.prune(
        source, ratio=0.75, attention="head-dim", only=dims, data="models/fashion_mnist.npz", samples=64, check=False
    )
    stored = {t.name for t in source.graph.initializer} | {n.output[0] for n in source.graph.node if n.op_type == "Constant"}
    products = [n for n in source.graph.node if n.op_type == "MatMul" and not stored & set(n.input)]
    names = {n.name or n.output[0] for n in products}
    lines = [f for f in result.report.fits if f.node in names]
    assert len(lines) == len(dims) == 4
    assert all(f.kind == "lsq" and f.lost_before > 0.2 and f.lost_after < 0.08 for f in lines)
    assert result.report.fidelity[0].relative_error < 0.1
