"""What is removed goes on in what stays, and the result is still the source without the removed slices."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.proof.session import run
from onnxprune.recover.merge import fold, variance
from onnxprune.statistics.channels import ChannelStatistics
from tests.models_text import make, positive, shapes_of
from tests.recover.test_reconstruct import lost, normal, samples, twice


def multiples(array, axis, scale=None):
    """Every channel, and a positive multiple of each behind it."""
    shape = [-1 if a == axis else 1 for a in range(array.ndim)]
    scale = np.linspace(0.5, 1.5, array.shape[axis]).astype(np.float32) if scale is None else scale
    return np.concatenate([array, array * scale.reshape(shape)], axis=axis)


CASES = {
    "conv": (
        """(float[N, 3, 8, 8] x) => (float[N, 5, 6, 6] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
          b = Relu (a)
          y = Conv (b, w2)
        }""",
        dict(w1=multiples(normal(6, 3, 3, 3), 0), b1=multiples(0.1 * normal(6), 0), w2=normal(5, 12, 3, 3)),
        (3, 8, 8),
    ),
    "depthwise between": (
        """(float[N, 8, 8, 8] x) => (float[N, 5, 6, 6] y) {
          a = Conv (x, w1)
          b = BatchNormalization (a, s, t, m, v)
          c = HardSwish (b)
          d = Conv <group = 12> (c, w2)
          y = Conv (d, w3)
        }""",
        dict(
            w1=twice(normal(6, 8, 1, 1), 0),
            s=twice(positive(6), 0),
            t=twice(normal(6), 0),
            m=np.zeros(12, np.float32),
            v=twice(positive(6), 0),
            w2=twice(normal(6, 1, 3, 3), 0),
            w3=normal(5, 12, 1, 1),
        ),
        (8, 8, 8),
    ),
    "residual": (
        """(float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
          a = Conv (x, w1)
          b = Relu (a)
          c = Conv <pads = [1, 1, 1, 1]> (b, w2)
          d = Add (b, c)
          y = Conv (d, w3)
        }""",
        dict(w1=twice(normal(5, 3, 1, 1), 0), w2=0.1 * twice(normal(5, 10, 3, 3), 0), w3=normal(4, 10, 1, 1)),
        (3, 6, 6),
    ),
    "flattened": (
        """(float[N, 3, 4, 4] x) => (float[N, 4] y) {
          a = Conv (x, w1)
          b = Relu (a)
          c = Flatten (b)
          y = Gemm <transB = 1> (c, w2, b2)
        }""",
        dict(w1=twice(normal(5, 3, 1, 1), 0), w2=normal(4, 160), b2=(4,)),
        (3, 4, 4),
    ),
    "no place for a bias": (
        """(float[N, 4, 6] x) => (float[N, 4, 5] y) {
          a = MatMul (x, w1)
          b = Sigmoid (a)
          y = MatMul (b, w2)
        }""",
        dict(w1=twice(normal(6, 7), 1), w2=normal(14, 5)),
        (4, 6),
    ),
    "shape of a weight": (
        """(float[N, 3, 6, 6] x) => (float[N, 5, 6, 6] y, int64[4] n) {
          a = Conv (x, w1)
          b = Relu (a)
          y = Conv (b, w2)
          s = Shape (w1)
          n = Mul (s, zeros)
        }""",
        dict(w1=twice(normal(6, 3, 1, 1), 0), w2=normal(5, 12, 1, 1), zeros=np.zeros(4, np.int64)),
        (3, 6, 6),
    ),
    "groups": (
        """(float[N, 3, 6, 6] x) => (float[N, 8, 6, 6] y) {
          a = Conv (x, w1)
          b = Relu (a)
          y = Conv <group = 2> (b, w2)
        }""",
        dict(w1=twice(normal(6, 3, 1, 1), 0), w2=normal(8, 6, 1, 1)),
        (3, 6, 6),
    ),
}


@pytest.mark.parametrize("data", [False, True], ids=["weights", "samples"])
@pytest.mark.parametrize("case", CASES)
def test_parallel_channels_are_folded_into_each_other(case, data):
    body, weights, shape = CASES[case]
    model = make(body, weights)
    options = dict(data=samples(shape, n=2048, batch=512), reconstruct="none") if data else {}
    plain = onnxprune.prune(model, ratio=0.5)
    result = onnxprune.prune(model, ratio=0.5, merge=True, **options)
    matrices = [{n: s for n, s in shapes_of(r.model).items() if len(s) > 1} for r in (plain, result)]
    assert matrices[0] == matrices[1], "merging adds biases at most"
    assert result.report.verification.passed and not result.report.put_back
    assert result.report.merges and not any(m.reason for m in result.report.merges)
    assert lost(model, plain, shape) > 0.1
    assert lost(model, result, shape) < 0.01
    assert all(m.correlation > 0.95 and m.explained > 0.9 for m in result.report.merges)
    assert onnxprune.verify(model, result.model, result.plan).passed


def test_fewer_samples_than_channels_are_enough_where_channels_lie_along_few_directions():
    body = "(float[N, 3] x) => (float[N, 4] y) { a = MatMul (x, w1)\n b = Relu (a)\n y = Gemm (b, w2, b2) }"
    model = make(body, dict(w1=normal(3, 48), w2=normal(48, 4), b2=(4,)))
    plain, result = (
        onnxprune.prune(model, ratio=0.25, merge=merge, data=samples((3,), n=32, batch=32), reconstruct="none")
        for merge in (False, True)
    )
    assert lost(model, result, (3,)) < 0.1 * lost(model, plain, (3,))


def statistics(covariance, mean):
    labels = np.arange(len(mean), dtype=np.int32)
    return ChannelStatistics("x", labels, 1 << 40, np.asarray(mean, float), np.asarray(covariance, float), 0 * mean, [])


def test_means_and_variances_of_outputs_are_kept():
    rng = np.random.default_rng(0)
    root, mean, weights = rng.standard_normal((8, 8)), rng.standard_normal(8), rng.standard_normal((8, 9, 5))
    s = statistics(root @ root.T, mean)
    stays = np.arange(8) < 5
    found = fold(s, stays, weights)
    inner = s.covariance[:5, :5]
    assert np.allclose(variance(inner, found.weights), variance(s.covariance, weights))
    assert np.allclose(mean[:5] @ found.weights.sum(axis=1) + found.shift, mean @ weights.sum(axis=1))
    assert 0 < found.explained < 1 and found.gain > 1
    plain = fold(s, stays, weights, correct=False)
    assert plain.gain == 1 and (variance(inner, plain.weights) < variance(s.covariance, weights)).all()


def test_unrelated_channels_give_nothing_but_their_mean():
    s = statistics(np.eye(6), np.arange(6.0))
    weights = np.random.default_rng(1).standard_normal((6, 1, 4))
    found = fold(s, np.arange(6) < 4, weights, correct=False)
    assert np.allclose(found.weights, weights[:4]) and found.explained == pytest.approx(0, abs=1e-9)
    assert np.allclose(found.shift, 4 * weights[4, 0] + 5 * weights[5, 0])


def test_what_can_not_be_merged_has_a_reason():
    body = """(float[N, 3, 6] x) => (float[N, 3, 4] y) {
      a = MatMul (x, w1)
      b = Softmax <axis = 1> (a)
      y = MatMul (b, w2)
    }"""
    model = make(body, dict(w1=(6, 8), w2=(8, 4)))
    result = onnxprune.prune(model, ratio=0.5, merge=True)
    assert [m.reason for m in result.report.merges] == ["nothing is known of 'b' without data: Softmax 'b' makes it"]
    plain = onnxprune.prune(model, ratio=0.5)
    assert result.model.SerializeToString() == plain.model.SerializeToString()
    body = """(float[N, 6] x) => (float[N, 6] y) {
      a = MatMul (x, w)
      b = Relu (a)
      c = MatMul (b, v)
      d = Relu (c)
      y = MatMul (d, v)
    }"""
    shared = make(body, dict(w=(6, 6), v=(6, 6)))
    with pytest.raises(onnxprune.NothingToPruneError):  # the rows of v are those of the output
        onnxprune.prune(shared, merge=True)


def test_merging_is_deterministic_and_changes_no_input():
    model = onnx.load("models/unet.onnx")
    before = model.SerializeToString()
    first, second = (onnxprune.prune(model, ratio=0.25, merge=True, check=False).model for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("name", "only", "least"), [("resnet", ["blocks.*.bn1.weight"], 20), ("resnet_folded", [], 30)])
def test_accuracy_without_data(name, only, least):
    """Points of accuracy that merging is worth on labelled images."""
    with np.load("models/fashion_mnist.npz") as held:
        images, labels = held["images"][:400], held["labels"][:400]
        x = ((images[:, None] / 255.0 - held["mean"]) / held["std"]).astype(np.float32)
    right = []
    for merge in (False, True):
        ratio = 0.5 if only else 0.25
        model = onnxprune.prune(f"models/{name}.onnx", ratio=ratio, only=only, merge=merge, check=False).model
        (logits,) = run(model, {"image": x}, ["logits"], optimize=True)
        right.append(100 * (logits.argmax(axis=1) == labels).mean())
    assert right[1] > right[0] + least


def test_lossless_has_nothing_to_merge():
    with pytest.raises(onnxprune.UsageError, match="nothing to merge"):
        onnxprune.prune("models/resnet.onnx", lossless=True, merge=True)


def test_weights_that_were_fitted_start_from_merged_ones():
    body, weights, shape = CASES["conv"]
    model = make(body, weights)
    result = onnxprune.prune(model, ratio=0.5, merge=True, data=samples(shape))
    assert result.report.fits and result.report.fits[0].lost_before < 0.01
    plain = onnxprune.prune(model, ratio=0.5, data=samples(shape))
    assert plain.report.fits[0].lost_before > 0.1
    (y,) = run(result.model, {"x": normal(2, *shape)}, ["y"])
    assert np.isfinite(y).all() and numpy_helper.to_array(result.model.graph.initializer[0]).shape[0] == 6
