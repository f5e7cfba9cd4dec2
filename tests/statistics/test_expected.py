"""What weights let one expect is what normal inputs show."""

import numpy as np
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.io.load import load_model
from onnxprune.pipeline.stages import analysed
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.expected import expected_statistics
from onnxprune.statistics.gaussian import NODES, Channels
from tests.models_text import make, positive

N = 60000


def relu_kernel(rho):
    """E[relu(a) relu(b)] of standard normal variables (Cho & Saul 2009, eq. 6)."""
    angle = np.arccos(rho)
    return (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)


def test_covariance_of_relus_is_the_arc_cosine_kernel():
    rho = np.array([-0.9, -0.3, 0.0, 0.4, 0.95])
    for r in rho:
        x = Channels.normal(1, np.zeros(2), np.array([[1, r], [r, 1]]))
        found = x.mapped(np.maximum(x.values, 0)).covariance[0, 1]
        assert found == pytest.approx(relu_kernel(r) - 1 / (2 * np.pi), abs=3e-3)


def test_moments_of_polynomials_are_exact():
    x = Channels.normal(1, np.array([1.0, -2.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))
    assert np.allclose(x.mean, [1, -2]) and np.allclose(x.covariance, [[4, 1], [1, 1]])
    square = x.mapped(np.square(x.values))
    # Cov(a^2, b^2) = 2 c^2 + 4 m n c
    assert square.covariance[0, 1] == pytest.approx(2 + 4 * -2)
    assert square.mean == pytest.approx([5, 5]) and x.zeros[1] > 0.9
    assert NODES.size == x.values.shape[1]


BODIES = {
    "activations": """(float[N, 6] x) => (float[N, 4] y) {
        a = Gemm (x, w1, b1)
        s = Sigmoid (a)
        g = Mul (a, s)
        y = MatMul (g, w2)
    }""",
    "scaled and clipped": """(float[N, 6] x) => (float[N, 4] y) {
        a = Gemm (x, w1, b1)
        c = Mul (a, k)
        g = HardSwish (c)
        y = MatMul (g, w2)
    }""",
    "anchored": """(float[N, 6, 1, 1] x) => (float[N, 4, 1, 1] y) {
        a = Conv (x, v1)
        n = BatchNormalization (a, s, t, m, v)
        g = Relu (n)
        y = Conv (g, v2)
    }""",
    "concatenated": """(float[N, 6, 1, 1] x) => (float[N, 4, 1, 1] y) {
        a = Conv (x, v1)
        b = Relu (a)
        c = Neg (a)
        g = Concat <axis = 1> (b, c)
        y = Conv (g, v3)
    }""",
}


@pytest.mark.parametrize("case", BODIES)
def test_statistics_are_those_of_normal_inputs(case):
    rng = np.random.default_rng(1)
    w = rng.standard_normal((6, 10)).astype(np.float32) / 3
    weights = dict(w1=w, b1=(0.1 * rng.standard_normal(10)).astype(np.float32), w2=(10, 4), k=positive(10))
    if "Conv" in BODIES[case]:
        variance = np.square(w).sum(axis=0)
        weights = dict(
            v1=np.ascontiguousarray(w.T)[:, :, None, None], s=positive(10), t=(10,), m=np.zeros(10, np.float32), v=variance,
            v2=(4, 10, 1, 1), v3=(4, 20, 1, 1),
        )  # fmt: skip
    used = {n: a for n, a in weights.items() if f" {n})" in BODIES[case] or f" {n}," in BODIES[case]}
    model = make(BODIES[case], used)
    prepared, groups = analysed(model, width=False, shapes=None)
    x = rng.standard_normal((N, 6)).astype(np.float32).reshape(N, 6, *([1, 1] if "Conv" in BODIES[case] else []))
    seen = channel_statistics(prepared.model, groups, Samples([Batch({"x": x}, N)], N, "test", False, None))
    found = expected_statistics(prepared.model, groups)
    assert [s.tensor for s in found.statistics] == [s.tensor for s in seen] and not found.unknown
    for one, other in zip(found.statistics, seen, strict=True):
        scale = np.diagonal(other.covariance).mean()
        assert np.array_equal(one.labels, other.labels)
        assert np.abs(one.mean - other.mean).max() < 0.03 * np.sqrt(scale)
        assert np.abs(one.covariance - other.covariance).max() < 0.05 * scale


def test_gates_and_sums_of_other_variables():
    """SwiGLU and a residual: independent parts, in two halves of one node."""
    body = """(float[N, 6] x, float[N, 7] z) => (float[N, 4] y) {
        a = Gemm (x, w1)
        b = MatMul (z, w2)
        s = Sigmoid (a)
        g = Mul (a, s)
        m = Mul (g, b)
        c = MatMul (z, w3)
        d = MatMul (x, w4)
        r = Sub (c, d)
        both = Concat <axis = 1> (m, r)
        y = MatMul (both, w5)
    }"""
    model = make(body, dict(w1=(6, 8), w2=(7, 8), w3=(7, 5), w4=(6, 5), w5=(13, 4)))
    prepared, groups = analysed(model, width=False, shapes=None)
    (found,) = [s for s in expected_statistics(prepared.model, groups).statistics if s.tensor == "both"]
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((N, k)).astype(np.float32) for n, k in (("x", 6), ("z", 7))}
    (seen,) = channel_statistics(prepared.model, groups, Samples([Batch(feeds, N)], N, "test", False, None))
    for part in (slice(0, 8), slice(8, 13)):
        scale = np.diagonal(seen.covariance)[part].mean()
        assert np.abs(found.mean - seen.mean)[part].max() < 0.05 * np.sqrt(scale)
        assert np.abs(found.covariance - seen.covariance)[part, part].max() < 0.1 * scale


def test_correlations_of_a_trained_network_are_found_without_data():
    model = load_model("models/resnet.onnx")
    prepared, groups = analysed(model, width=False, shapes=None)
    found = {s.tensor: s for s in expected_statistics(prepared.model, groups).statistics}
    seen = channel_statistics(prepared.model, groups, read_samples("models/fashion_mnist.npz", model, samples=32))
    inner = [s for s in seen if s.tensor.endswith("Relu_output_0") and s.tensor.startswith("/blocks")]
    assert len(inner) == 6
    for s in inner:
        upper = np.triu_indices(s.labels.size, 1)
        pair = np.corrcoef(_correlation(found[s.tensor].covariance)[upper], _correlation(s.covariance)[upper])
        assert pair[0, 1] > 0.5, s.tensor


def _correlation(covariance):
    deviation = np.sqrt(np.diagonal(covariance)) + 1e-6
    return covariance / np.outer(deviation, deviation)


def test_what_is_not_known_is_said():
    body = """(float[N, 5, 6] x) => (float[N, 5, 4] y) {
        a = MatMul (x, w1)
        h = Softmax <axis = 1> (a)
        y = MatMul (h, w2)
    }"""
    model = make(body, dict(w1=(6, 8), w2=(8, 4)))
    prepared, groups = analysed(model, width=False, shapes=None)
    found = expected_statistics(prepared.model, groups)
    assert not found.statistics and "Softmax" in found.unknown["h"]
