"""Where what went can be made up for exactly, it is; whatever the order and the batches of the samples."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.proof.session import run
from onnxprune.report.fidelity import fidelity
from tests.models_text import ints, make, positive, shapes_of

RNG = np.random.default_rng(0)


def samples(shape, n=48, batch=16, seed=3, order=None):
    data = np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)
    data = data if order is None else data[order]
    return Samples([Batch({"x": data[k : k + batch]}, batch) for k in range(0, n, batch)], n, "test", False, None)


def twice(array, axis):
    """Every channel of an array two times: half of them are redundant."""
    return np.repeat(array, 2, axis=axis).astype(np.float32)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def lost(model, result, shape):
    x = np.random.default_rng(9).standard_normal((8, *shape)).astype(np.float32)
    (a,), (b,) = (run(m, {"x": x}, ["y"]) for m in (model, result.model))
    return float(((a - b) ** 2).mean() / a.var())


CASES = {
    "conv": (
        """(float[N, 3, 8, 8] x) => (float[N, 5, 6, 6] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
          b = Relu (a)
          y = Conv (b, w2)
        }""",
        dict(w1=twice(normal(6, 3, 3, 3), 0), b1=twice(normal(6), 0), w2=normal(5, 12, 3, 3)),
        (3, 8, 8),
    ),
    "batch norm behind": (
        """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
          a = Conv (x, w1)
          b = Sigmoid (a)
          c = Conv (b, w2)
          d = BatchNormalization (c, s, t, m, v)
          y = Conv (d, w3)
        }""",
        dict(
            w1=twice(normal(6, 3, 1, 1), 0), w2=normal(5, 12, 1, 1), s=positive(5), t=(5,), m=(5,), v=positive(5),
            w3=(4, 5, 1, 1),
        ),
        (3, 8, 8),
    ),
    "matrix product without a bias": (
        """(float[N, 7, 5] x) => (float[N, 7, 4] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          y = MatMul (b, w2)
        }""",
        dict(w1=twice(normal(5, 6), 1), w2=normal(12, 4)),
        (7, 5),
    ),
    "gemm": (
        """(float[N, 5] x) => (float[N, 4] y) {
          a = Gemm <transB = 1> (x, w1, b1)
          b = Tanh (a)
          y = Gemm (b, w2, b2)
        }""",
        dict(w1=twice(normal(6, 5), 0), b1=twice(normal(6), 0), w2=normal(12, 4), b2=normal(4)),
        (5,),
    ),
    "grouped": (
        """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
          a = Conv (x, w1)
          b = Relu (a)
          c = Conv <group = 2, pads = [1, 1, 1, 1]> (b, w2)
          y = Conv (c, w3)
        }""",
        dict(w1=twice(normal(6, 3, 1, 1), 0), w2=normal(6, 6, 3, 3), w3=(4, 6, 1, 1)),
        (3, 8, 8),
    ),
    "transposed": (
        """(float[N, 3, 5, 5] x) => (float[N, 4, 11, 11] y) {
          a = Conv (x, w1)
          b = Relu (a)
          y = ConvTranspose <strides = [2, 2]> (b, w2)
        }""",
        dict(w1=twice(normal(6, 3, 1, 1), 0), w2=normal(12, 4, 3, 3)),
        (3, 5, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_redundant_channels_cost_nothing(name):
    """Half of the channels are copies; the criterion takes any: least squares gets back what they did."""
    text, weights, shape = CASES[name]
    model = make(text, weights)
    data = samples(shape, 96)
    only = ["w1"]
    bare = onnxprune.prune(model, ratio=0.5, only=only, data=data, criterion="obs", reconstruct="none")
    result = onnxprune.prune(model, ratio=0.5, only=only, data=data, criterion="obs")
    assert shapes_of(bare.model).items() <= shapes_of(result.model).items(), "the fit may add biases"
    assert bare.report.params_after <= result.report.params_after < result.report.params_before
    assert lost(model, result, shape) < 2e-3 < 0.02 < lost(model, bare, shape)
    assert result.report.verification.passed
    assert all(f.lost_after < f.lost_before and f.kind == "lsq" for f in result.report.fits)


def test_the_plan_stays_true_with_new_biases():
    """A convolution without a bias gets one; the proof and a replayed plan cope."""
    text, weights, shape = CASES["conv"]
    weights = {**weights, "b1": weights["b1"] + 3, "w2": weights["w2"] + 1}
    model = make(text, weights)
    result = onnxprune.prune(model, ratio=0.75, data=samples(shape))
    conv = [n for n in result.model.graph.node if n.op_type == "Conv"]
    assert len(conv[1].input) == 3 and len([n for n in model.graph.node if n.op_type == "Conv"][1].input) == 2
    assert onnxprune.verify(model, result.model, result.plan).passed
    broken = onnx.ModelProto()
    broken.CopyFrom(result.model)
    broken.graph.node[0].input[2] = conv[1].input[2]
    assert not onnxprune.verify(model, broken, result.plan).passed


def test_a_residual_is_made_up_for():
    """The second branch is fitted to the sum, so that it takes over what the first one lost."""
    text = """(float[N, 6, 8, 8] x) => (float[N, 6, 8, 8] y) {
      a = Conv (x, w1)
      b = Relu (a)
      c = Conv (b, w2)
      d = Add (c, x)
      e = Conv (d, w3)
      f = Relu (e)
      g = Conv (f, w4)
      h = Add (g, d)
      y = Conv (h, w5)
    }"""
    weights = dict(
        w1=normal(24, 6, 1, 1), w2=normal(6, 24, 1, 1), w3=normal(24, 6, 1, 1), w4=normal(6, 24, 1, 1), w5=(6, 6, 1, 1)
    )
    model = make(text, weights)
    data = samples((6, 8, 8), 96)
    lsq = onnxprune.prune(model, ratio=0.5, data=data)
    bias = onnxprune.prune(model, ratio=0.5, data=data, reconstruct="bias")
    assert lost(model, lsq, (6, 8, 8)) < 0.5 * lost(model, bias, (6, 8, 8))


def weights_of(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("change", ["order", "batches"])
def test_order_and_batches_do_not_matter(change):
    text, weights, shape = CASES["conv"]
    model = make(text, weights)
    order = np.random.default_rng(5).permutation(96)
    one = onnxprune.prune(model, ratio=0.5, data=samples(shape, 96))
    other = samples(shape, 96, order=order) if change == "order" else samples(shape, 96, batch=32)
    two = onnxprune.prune(model, ratio=0.5, data=other)
    a, b = weights_of(one.model), weights_of(two.model)
    assert a.keys() == b.keys()
    for name in a:
        assert np.abs(a[name] - b[name]).max() <= 1e-6 * np.abs(a[name]).max(), name


def test_padding_does_not_count():
    """With a mask, samples that differ in their padding only give the same weights."""
    text = """(float[N, 7, 5] x, int64[N, 7] mask) => (float[N, 7, 4] y) {
      a = MatMul (x, w1)
      b = Relu (a)
      y = MatMul (b, w2)
    }"""
    model = make(text, dict(w1=normal(5, 12), w2=normal(12, 4)))
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", 7, ["N", 7]))
    model.graph.node.add(op_type="Identity", input=["mask"], output=["m"])
    x = np.random.default_rng(0).standard_normal((64, 7, 5)).astype(np.float32)
    mask = np.ones((64, 7), np.int64)
    mask[:, 4:] = 0
    found = []
    for padding in (0.0, 50.0):
        data = np.where(mask[..., None] > 0, x, np.float32(padding))
        batches = [Batch({"x": data, "mask": mask}, 64)]
        held = Samples(batches, 64, "test", False, "mask")
        found.append(held)
    # the held-out split follows the content, so both take the split of the first
    results = [onnxprune.prune(model, ratio=0.5, data=h, criterion="l2", reconstruct="bias") for h in found]
    plain = Samples(found[1].batches, 64, "test", False, None)
    other = onnxprune.prune(model, ratio=0.5, data=plain, criterion="l2", reconstruct="lsq")
    masked = onnxprune.prune(model, ratio=0.5, data=found[1], criterion="l2", reconstruct="lsq")
    assert weights_of(results[0].model).keys() == weights_of(results[1].model).keys()
    assert not np.allclose(weights_of(other.model)["w2"], weights_of(masked.model)["w2"])
    real = np.random.default_rng(8).standard_normal((16, 7, 5)).astype(np.float32)
    feeds = {"x": real, "mask": np.ones((16, 7), np.int64)}
    (a,), (b,), (c,) = (run(m, feeds, ["y"]) for m in (model, masked.model, other.model))
    assert ((a - b) ** 2).mean() < ((a - c) ** 2).mean()


def test_half_precision():
    text, weights, shape = CASES["matrix product without a bias"]
    half = {n: a.astype(np.float16) for n, a in weights.items()}
    model = make(text.replace("float[", "float16["), half)
    data = samples(shape, 96)
    data = Samples([Batch({"x": b.feeds["x"].astype(np.float16)}, b.count) for b in data.batches], 96, "test", False, None)
    result = onnxprune.prune(model, ratio=0.5, only=["w1"], data=data)
    w = weights_of(result.model)["w2"]
    assert w.dtype == np.float16 and np.isfinite(w).all() and result.report.verification.passed
    assert all(f.lost_after < 1e-2 for f in result.report.fits)


def test_weights_in_constant_nodes():
    text, weights, shape = CASES["gemm"]
    model = make(text, weights)
    for tensor in list(model.graph.initializer):
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    result = onnxprune.prune(model, ratio=0.5, data=samples(shape, 96), only=["w1"])
    assert lost(model, result, shape) < 2e-3


def attention(heads=4, d=4, c=8):
    """Attention whose second half of heads repeats the first."""
    rng = np.random.default_rng(2)
    half = rng.standard_normal((3, c, heads // 2, d)) * 0.7
    w = np.concatenate([half, half], axis=2).transpose(1, 0, 2, 3).reshape(c, 3 * heads * d).astype(np.float32)
    text = f"""(float[N, 6, {c}] x) => (float[N, 6, {c}] y) {{
      z = Identity (x)
      qkv = MatMul (z, w)
      split = Reshape (qkv, s)
      t = Transpose <perm = [2, 0, 3, 1, 4]> (split)
      q = Gather <axis = 0> (t, i0)
      k = Gather <axis = 0> (t, i1)
      v = Gather <axis = 0> (t, i2)
      kt = Transpose <perm = [0, 1, 3, 2]> (k)
      a = MatMul (q, kt)
      p = Softmax <axis = -1> (a)
      o = MatMul (p, v)
      back = Transpose <perm = [0, 2, 1, 3]> (o)
      merged = Reshape (back, m)
      proj = MatMul (merged, wo)
      y = Add (proj, bo)
    }}"""
    weights = dict(
        w=w, wo=rng.standard_normal((heads * d, c)).astype(np.float32), bo=rng.standard_normal(c).astype(np.float32),
        s=ints(0, 6, 3, heads, d), m=ints(0, 6, heads * d),
        i0=np.array(0, np.int64), i1=np.array(1, np.int64), i2=np.array(2, np.int64),
    )  # fmt: skip
    return make(text, weights)


def test_redundant_heads_cost_nothing():
    model = attention()
    data = samples((6, 8), 192)
    result = onnxprune.prune(model, ratio=0.5, data=data, attention="heads")
    bare = onnxprune.prune(model, ratio=0.5, data=data, attention="heads", criterion="obs", reconstruct="none")
    assert lost(model, result, (6, 8)) < 2e-3 < 0.05 < lost(model, bare, (6, 8))
    assert result.report.verification.passed


def test_dimensions_of_values_are_mixed():
    """The values that stay are those that matter together, not a subset of the old ones."""
    rng = np.random.default_rng(4)
    model = attention()
    w = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w")).copy().reshape(8, 3, 4, 4)
    for h in range(4):  # two dimensions that matter, turned into four
        w[:, :2, h, 2:] = 0
        w[:, 2, h] = w[:, 2, h, :2] @ rng.standard_normal((2, 4)).astype(np.float32)
    next(t for t in model.graph.initializer if t.name == "w").CopyFrom(numpy_helper.from_array(w.reshape(8, 48), "w"))
    result = onnxprune.prune(model, ratio=0.5, data=samples((6, 8), 192), attention="head-dim")
    assert lost(model, result, (6, 8)) < 2e-3


def test_a_new_bias_takes_no_name_that_is_there():
    text, weights, shape = CASES["conv"]
    text = text.replace("y = Conv (b, w2)", "z = Conv (b, w2)  y = Add (z, z_bias)")
    weights = {**weights, "w2": weights["w2"] + 1, "z_bias": normal(5, 6, 6)}
    model = make(text, weights)
    result = onnxprune.prune(model, ratio=0.75, data=samples(shape))
    names = [t.name for t in result.model.graph.initializer]
    assert len(names) == len(set(names)) and "z_bias_bias" in names
    assert result.report.verification.passed
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("model", ["mobilenet", "vit_legacy", "gru"])
def test_the_likeness_seen_on_the_way_is_that_of_the_result(model):
    source = onnx.load(f"models/{model}.onnx")
    held = read_samples("models/fashion_mnist.npz", source, samples=48)
    result = onnxprune.prune(source, ratio=0.4, data=[b.feeds for b in held.batches], reconstruct="lsq")
    [seen], [found] = result.report.fidelity, fidelity(source, result.model, held)
    assert seen.relative_error == pytest.approx(found.relative_error, rel=1e-3) and 0 < found.relative_error < 1
    assert (seen.samples, seen.agreement) == (found.samples, found.agreement)
    assert [w.sample for w in seen.worst] == [w.sample for w in found.worst]
