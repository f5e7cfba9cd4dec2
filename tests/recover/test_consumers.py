"""Each kind of linear consumer gets back exactly what redundant channels did."""

import numpy as np
import pytest

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from tests.models_text import ints, make, shapes_of


def normal(*shape, scale=0.6):
    return (scale * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def twice(array, axis):
    """Every channel two times."""
    return np.repeat(array, 2, axis=axis)


def samples(shape, n=96, batch=16, axis=0):
    """Batches with the samples on an axis of `x`."""
    data = np.random.default_rng(3).standard_normal((n, *shape)).astype(np.float32)
    parts = [np.ascontiguousarray(np.moveaxis(data[k : k + batch], 0, axis)) for k in range(0, n, batch)]
    return Samples([Batch({"x": part}, batch) for part in parts], n, "test", False, None)


def lost(model, result, data):
    x = data.batches[-1].feeds["x"][::-1].copy()
    (a,), (b,) = (run(m, {"x": x}, ["y"]) for m in (model, result.model))
    return float(((a - b) ** 2).mean() / a.var())


CASES = {
    "a weight on the left": (
        """(float[N, 4, 7] x) => (float[N, 3, 7] y) {
          a = MatMul (w1, x)
          b = Relu (a)
          y = MatMul (w2, b)
        }""",
        dict(w1=twice(normal(6, 4), 0), w2=normal(3, 12)),
        (4, 7),
    ),
    "a matrix for each head": (
        """(float[N, 3, 7, 4] x) => (float[N, 3, 7, 5] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          c = MatMul (b, w2)
          y = Add (c, bias)
        }""",
        dict(w1=twice(normal(3, 4, 6), 2), w2=normal(3, 12, 5), bias=normal(3, 1, 5)),
        (3, 7, 4),
    ),
    "experts that read the same": (
        """(float[N, 1, 7, 4] x) => (float[N, 3, 7, 5] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          y = MatMul (b, w2)
        }""",
        dict(w1=twice(normal(3, 4, 6), 2), w2=normal(3, 12, 5)),
        (1, 7, 4),
    ),
    "einsum": (
        """(float[N, 7, 4] x) => (float[N, 7, 5] y) {
          a = Einsum <equation = "bsc,cd->bsd"> (x, w1)
          b = Relu (a)
          y = Einsum <equation = "...d,de->...e"> (b, w2)
        }""",
        dict(w1=twice(normal(4, 6), 1), w2=normal(12, 5)),
        (7, 4),
    ),
    "einsum that writes three heads at once": (
        """(float[N, 7, 4] x) => (float[N, 7, 5] y) {
          a = Einsum <equation = "bsc,cd->bsd"> (x, w1)
          b = Relu (a)
          c = Einsum <equation = "bsd,dthk->btshk"> (b, w2)
          d = Add (c, bias)
          y = Einsum <equation = "btshk,thkm->bsm"> (d, w3)
        }""",
        dict(w1=twice(normal(4, 6), 1), w2=normal(12, 3, 2, 4), bias=normal(3, 1, 2, 4), w3=normal(3, 2, 4, 5)),
        (7, 4),
    ),
    "einsum that reads heads": (
        """(float[N, 7, 4] x) => (float[N, 7, 5] y) {
          a = Einsum <equation = "bsc,chd->bshd"> (x, w1)
          b = Relu (a)
          y = Einsum <equation = "bshd,hdm->bsm"> (b, w2)
        }""",
        dict(w1=twice(twice(normal(4, 2, 4), 2), 1), w2=normal(4, 8, 5)),
        (7, 4),
    ),
    "gemm with factors": (
        """(float[N, 5] x) => (float[N, 4] y) {
          a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w1, b1)
          b = Tanh (a)
          y = Gemm <alpha = 0.5, beta = 2.0> (b, w2, b2)
        }""",
        dict(w1=twice(normal(6, 5), 0), b1=twice(normal(6), 0), w2=normal(12, 4), b2=normal(4)),
        (5,),
    ),
    "gemm that turns its input": (
        """(float[N, 5] x) => (float[N, 4] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          c = Transpose <perm = [1, 0]> (b)
          y = Gemm <transA = 1> (c, w2, b2)
        }""",
        dict(w1=twice(normal(5, 6), 1), w2=normal(12, 4), b2=normal(4)),
        (5,),
    ),
    "weights that are moved about": (
        """(float[N, 7, 5] x) => (float[N, 7, 4] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          u = Unsqueeze (w2, zero)
          v = Reshape (u, s)
          w = Transpose <perm = [1, 0]> (v)
          y = MatMul (b, w)
        }""",
        dict(w1=twice(normal(5, 6), 1), w2=normal(4, 12), zero=ints(0), s=ints(4, -1)),
        (7, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_redundant_channels_cost_nothing(name):
    text, weights, shape = CASES[name]
    model, data = make(text, weights), samples(shape)
    bare = onnxprune.prune(model, ratio=0.5, only=["w1"], data=data, criterion="obs", reconstruct="none")
    result = onnxprune.prune(model, ratio=0.5, only=["w1"], data=data, criterion="obs")
    assert shapes_of(bare.model).items() <= shapes_of(result.model).items(), "the fit may add biases"
    assert bare.report.params_after <= result.report.params_after < result.report.params_before
    assert lost(model, result, data) < 1e-4 < 1e-1 < lost(model, bare, data)
    assert result.report.verification.passed
