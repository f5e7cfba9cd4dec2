"""Scales and shifts behind a statistic over a pruned width: fitted with data, matched with zeros without."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from onnxprune.surgery.inflate import inflate
from tests.models_text import make, positive

MODELS = "models"
C = 12


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def samples(shape, n=96):
    data = np.random.default_rng(3).standard_normal((n, *shape)).astype(np.float32)
    return Samples([Batch({"x": data[k : k + 32]}, 32) for k in range(0, n, 32)], n, "test", False, None)


RMS = """
      s = Mul (h, h)
      m = ReduceMean <axes = [-1]> (s)
      e = Add (m, eps)
      r = Sqrt (e)
      u = Div (h, r)
      n = Mul (gamma, u)"""
LAYER = """
      mean = ReduceMean <axes = [-1]> (h)
      d = Sub (h, mean)
      s = Pow (d, two)
      m = ReduceMean <axes = [-1]> (s)
      e = Add (m, eps)
      r = Sqrt (e)
      u = Div (d, r)
      g = Mul (u, gamma)
      n = Add (g, beta)"""
NORMS = {
    "SimplifiedLayerNormalization": ("n = SimplifiedLayerNormalization <axis = -1> (h, gamma)", ["gamma"]),
    "RMSNorm in parts": (RMS, ["gamma", "eps"]),
    "divided": (RMS.replace("n = Mul (gamma, u)", "n = Div (u, gamma)"), ["gamma", "eps"]),
    "LayerNormalization": ("n = LayerNormalization <axis = -1> (h, gamma, beta)", ["gamma", "beta"]),
    "LayerNorm in parts": (LAYER, ["gamma", "beta", "eps", "two"]),
}
RMSES = list(NORMS)[:3]


def model(name):
    """A stream of width 12 whose norm is read by a Relu, which no fit of a linear node can make up for."""
    text, used = NORMS[name]
    body = f"""(float[N, 5, 4] x) => (float[N, 5, 3] y) {{
      h = MatMul (x, w1)
      {text}
      a = Relu (n)
      y = MatMul (a, w2)
    }}"""
    vectors = dict(gamma=positive(C), beta=normal(C, seed=1), eps=np.array(1e-5, np.float32), two=np.array(2, np.float32))
    weights = dict(w1=normal(4, C), w2=normal(C, 3)) | {n: vectors[n] for n in used}
    return make(body, weights)


def output(proto, name, x):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return run(copy, {"x": x}, [name])[0]


def vectors(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.name in ("gamma", "beta")}


def kept(plan_model, source):
    """Channels of the stream that stay, by the columns of the first weight."""
    small, whole = (
        next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "w1") for m in (plan_model, source)
    )
    return [int(np.abs(whole - small[:, [k]]).sum(axis=0).argmin()) for k in range(small.shape[1])]


@pytest.mark.parametrize("name", NORMS)
def test_channels_of_a_norm_are_fitted(name):
    """Each channel of the norm is as near to the dense one as a factor (and a shift, where there is one) can bring it."""
    source, data = model(name), samples((5, 4))
    bare = onnxprune.prune(source, ratio=0.5, width=True, criterion="l2", data=data, reconstruct="none", only=["w1"])
    result = onnxprune.prune(source, ratio=0.5, width=True, criterion="l2", data=data, reconstruct="affine", only=["w1"])
    x = np.concatenate([b.feeds["x"] for b in data.batches])
    before = output(source, "n", x)[..., kept(bare.model, source)].reshape(-1, C // 2).astype(np.float64)
    raw = output(bare.model, "n", x).reshape(-1, C // 2).astype(np.float64)
    made = output(result.model, "n", x).reshape(-1, C // 2)
    for c in range(C // 2):
        basis = np.stack([raw[:, c], np.ones(len(raw))], axis=1) if "beta" in NORMS[name][1] else raw[:, [c]]
        best = basis @ np.linalg.lstsq(basis, before[:, c], rcond=None)[0]
        assert np.abs(made[:, c] - best).max() < 1e-3 * np.abs(best).max()
    assert ((made - before) ** 2).sum() < 0.98 * ((raw - before) ** 2).sum()
    line = next(f for f in result.report.fits if f.weight == "gamma")
    assert line.kind == "affine" and line.lost_after < line.lost_before


@pytest.mark.parametrize("name", RMSES)
def test_rms_norm_becomes_the_source_with_zeros(name):
    """Without data the factor is sqrt(all / kept), which makes the pruned model the source with zeros in it."""
    source = model(name)
    result = onnxprune.prune(source, ratio=0.25, width=True, only=["w1"])
    bare = onnxprune.prune(source, ratio=0.25, width=True, only=["w1"], reconstruct="none")
    ratio = vectors(result.model)["gamma"] / vectors(bare.model)["gamma"]
    wanted = np.sqrt(C / (0.75 * C))
    assert np.allclose(ratio, 1 / wanted if name == "divided" else wanted, rtol=1e-3)
    groups = onnxprune.analyze(source, width=True)
    alive = onnxprune.plan.plan.alive_of(result.plan, groups)
    zeros = inflate(source, bare.model, groups, alive)
    x = normal(8, 5, 4, seed=5)
    (a,), (b,), (c,) = (run(m, {"x": x}, ["y"]) for m in (zeros, result.model, bare.model))
    assert np.abs(a - b).max() < 1e-3 * np.abs(a).max() < 0.05 * np.abs(a - c).max()


def test_shared_scales_get_their_own():
    """Two norms whose gammas are the same ones, as in a model that was never trained."""
    body = """(float[N, 5, 4] x) => (float[N, 5, 3] y) {
      h = MatMul (x, w1)
      a = SimplifiedLayerNormalization <axis = -1> (h, gamma)
      b = Relu (a)
      c = MatMul (b, w2)
      d = Add (h, c)
      e = SimplifiedLayerNormalization <axis = -1> (d, gamma)
      f = Relu (e)
      y = MatMul (f, w3)
    }"""
    weights = dict(w1=normal(4, C), w2=3 * normal(C, C), w3=normal(C, 3), gamma=np.ones(C, np.float32))
    source = make(body, weights)
    result = onnxprune.prune(source, ratio=0.5, width=True, data=samples((5, 4)), reconstruct="affine")
    gammas = [n.input[1] for n in result.model.graph.node if n.op_type == "SimplifiedLayerNormalization"]
    arrays = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert len(set(gammas)) == 2 and not np.allclose(*[arrays[g] for g in gammas], rtol=1e-2)
    assert sum(f.kind == "affine" and "gamma" in f.weight for f in result.report.fits) == 2


@pytest.mark.parametrize("name", ["vit_legacy", "vit_dynamo"])
def test_a_narrower_transformer_without_data(name):
    """Factors alone bring back part of what a narrower stream loses, on images that nobody looked at."""
    source = onnx.load(f"{MODELS}/{name}.onnx")
    held = np.load(f"{MODELS}/fashion_mnist.npz")
    images = ((held["images"][:400, None].astype(np.float32) / 255) - held["mean"]) / held["std"]
    hits = []
    output_name = source.graph.output[0].name
    for reconstruct in ("none", None):
        result = onnxprune.prune(source, ratio=0.5, width=True, only=["pos"], reconstruct=reconstruct, check=False)
        (logits,) = run(result.model, {"image": images.astype(np.float32)}, [output_name])
        hits.append(float((logits.argmax(1) == held["labels"][:400]).mean()))
    assert hits[1] > hits[0] + 0.05
