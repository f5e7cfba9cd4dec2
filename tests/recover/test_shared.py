"""One weight that several nodes read is fitted to all of them."""

import numpy as np
import pytest

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from tests.models_text import make

RNG = np.random.default_rng(1)


def normal(*shape, scale=0.5):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def twice(array, axis):
    return np.repeat(array, 2, axis=axis)


def samples(shapes, n=128, batch=32):
    rng = np.random.default_rng(3)
    data = {name: rng.standard_normal((n, *shape)).astype(np.float32) + k for k, (name, shape) in enumerate(shapes.items())}
    batches = [Batch({name: a[k : k + batch] for name, a in data.items()}, batch) for k in range(0, n, batch)]
    return Samples(batches, n, "test", False, None)


def lost(model, result, data):
    feeds = {name: a[::-1].copy() for name, a in data.batches[-1].feeds.items()}
    (a,), (b,) = (run(m, feeds, ["y"]) for m in (model, result.model))
    return float(((a - b) ** 2).mean() / a.var())


CASES = {
    "two branches": (
        """(float[N, 5] x, float[N, 5] z) => (float[N, 3] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          c = MatMul (b, w2)
          d = MatMul (z, w1)
          e = Relu (d)
          f = MatMul (e, w2)
          g = Concat <axis = 1> (c, f)
          y = MatMul (g, o)
        }""",
        dict(w1=twice(normal(5, 6), 1), w2=normal(12, 4), o=normal(8, 3)),
        dict(x=(5,), z=(5,)),
    ),
    "a layer that is applied three times": (
        """(float[N, 6, 5] x) => (float[N, 6, 5] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          c = MatMul (b, w2)
          d = Add (c, bias)
          e = MatMul (d, w1)
          f = Relu (e)
          g = MatMul (f, w2)
          h = Add (g, bias)
          i = MatMul (h, w1)
          j = Relu (i)
          k = MatMul (j, w2)
          y = Add (k, bias)
        }""",
        dict(w1=twice(normal(5, 6), 1), w2=normal(12, 5), bias=normal(5)),
        dict(x=(6, 5)),
    ),
    "convolutions with a bias in common": (
        """(float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
          a = Conv (x, w1)
          b = Relu (a)
          c = Conv <kernel_shape = [3, 3]> (b, w2, b2)
          p = AveragePool <kernel_shape = [2, 2], strides = [1, 1]> (b)
          d = Conv <kernel_shape = [3, 3], pads = [1, 1, 0, 0]> (p, w2, b2)
          e = Add (c, d)
          y = MaxPool <kernel_shape = [3, 3]> (e)
        }""",
        dict(w1=twice(normal(6, 3, 1, 1), 0), w2=normal(4, 12, 3, 3), b2=normal(4)),
        dict(x=(3, 8, 8)),
    ),
    "through one Transpose": (
        """(float[N, 9] x) => (float[N, 4] y) {
          t = Transpose <perm = [1, 0]> (w2)
          a = MatMul (x, w1)
          b = Relu (a)
          c = MatMul (b, t)
          d = Tanh (a)
          e = MatMul (d, t)
          y = Mul (c, e)
        }""",
        dict(w1=twice(normal(9, 6), 1), w2=normal(4, 12)),
        dict(x=(9,)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_redundant_channels_cost_nothing(name):
    text, weights, shapes = CASES[name]
    model, data = make(text, weights), samples(shapes)
    options = dict(ratio=0.5, only=["w1"], data=data, criterion="obs")
    bare = onnxprune.prune(model, reconstruct="none", **options)
    result = onnxprune.prune(model, **options)
    fits = [f for f in result.report.fits if f.weight == "w2"]
    assert len(fits) > 1 and all(f.kind == "lsq" for f in fits)
    assert lost(model, result, data) < 1e-4 < 0.1 < lost(model, bare, data)
    assert result.report.verification.passed


def test_other_readers_are_a_reason():
    """Read as it is and transposed; and a table of embeddings that is the last projection too."""
    text = """(float[N, 5] x) => (float[N, 4] y) {
      a = MatMul (x, w1)
      b = Relu (a)
      c = MatMul (b, w2)
      u = Transpose <perm = [1, 0]> (w2)
      e = MatMul (c, u)
      f = Relu (e)
      y = MatMul (f, w2)
    }"""
    model = make(text, dict(w1=(5, 12), w2=(12, 4)))
    result = onnxprune.prune(model, ratio=0.5, data=samples(dict(x=(5,))), criterion="l2")
    assert {f.reason for f in result.report.fits} == {"its weight is read by several nodes in different ways"}
    text = """(int64[N, 6] x) => (float[N, 6, 9] y) {
      e = Gather <axis = 0> (table, x)
      a = Relu (e)
      t = Transpose <perm = [1, 0]> (table)
      y = MatMul (a, t)
    }"""
    ids = np.random.default_rng(0).integers(0, 9, (64, 6))
    data = Samples([Batch({"x": ids}, 64)], 64, "test", False, None)
    result = onnxprune.prune(make(text, dict(table=(9, 12))), ratio=0.5, data=data)
    assert [f.reason for f in result.report.fits] == ["its weight is read by Gather too"]
