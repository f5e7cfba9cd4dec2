"""Zeros lie where patterns say, reconstruction beats magnitude, and figures are those of models that really have zeros."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.calibrate.read import read_samples
from onnxprune.errors import UsageError
from onnxprune.io.load import load_model
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.session import run
from onnxprune.sparsity.measure import measure_sparsity
from onnxprune.sparsity.patterns import parse_pattern
from onnxprune.sparsity.select import by_magnitude, by_reconstruction, lost
from tests.models_text import make

PATTERNS = ("2:4", "1:4", "3:8", "50%", "80%")


def case(seed, inputs=96, outputs=24):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, inputs)) @ rng.standard_normal((inputs, inputs)) * np.geomspace(1, 0.05, inputs)
    return rng.standard_normal((inputs, outputs)), x.T @ x / len(x)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from(PATTERNS), st.sampled_from([7, 64, 130, 300]))
def test_zeros_are_as_many_as_asked_for(seed, text, inputs):
    weight, moments = case(seed, inputs)
    pattern = parse_pattern(text)
    for sparse in (by_magnitude(weight, pattern), by_reconstruction(weight, moments, pattern)):
        if pattern.of:
            whole = inputs // pattern.of * pattern.of
            runs = (sparse[:whole] == 0).reshape(-1, pattern.of, sparse.shape[1]).sum(axis=1)
            assert (runs == pattern.count(pattern.of)).all()
        else:
            assert (sparse == 0).sum() == pytest.approx(pattern.zeros * sparse.size, abs=inputs // 128 + 1)


@pytest.mark.parametrize("text", PATTERNS)
def test_what_stays_makes_up_for_zeros(text):
    weight, moments = case(3)
    pattern = parse_pattern(text)
    plain, repaired = (lost(weight, s, moments) for s in (
        by_magnitude(weight, pattern), by_reconstruction(weight, moments, pattern)))  # fmt: skip
    assert repaired < 0.7 * plain


def test_one_zero_is_the_best_one_and_made_up_for_exactly():
    """With one element gone the closed form of optimal brain surgery is the optimum over all choices."""
    rng = np.random.default_rng(0)
    weight, moments = rng.standard_normal((4, 1)), np.cov(rng.standard_normal((4, 100)) * [[1], [2], [3], [4]])
    sparse = by_reconstruction(weight, moments, parse_pattern("3:4"))
    (gone,) = np.flatnonzero(sparse == 0)
    kept = [k for k in range(4) if k > gone]  # those that come later make up for it
    best = weight[kept] + np.linalg.solve(moments[np.ix_(kept, kept)], moments[np.ix_(kept, [gone])] @ weight[[gone]])
    assert np.allclose(sparse[kept], best, rtol=0.05, atol=0.02)
    assert np.array_equal(sparse[:gone], weight[:gone])


def test_inputs_that_never_come_cost_nothing():
    weight, moments = case(5)
    moments[:48] = moments[:, :48] = 0
    assert lost(weight, by_reconstruction(weight, moments, parse_pattern("50%")), moments) < 1e-3


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2:128", "0%", "100%", "half", "2:4:8", ""])
def test_texts_that_are_no_pattern(text):
    with pytest.raises(UsageError, match="none of the form"):
        parse_pattern(text)


def measured(model, samples, *texts):
    prepared, groups = analysed(model, width=False, shapes=None)
    return prepared, measure_sparsity(prepared.model, groups, samples, [parse_pattern(t) for t in texts])


def test_figures_of_one_node_are_those_of_the_model():
    """The output of the node is the output of the model, so both errors agree, on the same samples."""
    model = make("(float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }", {"w": (64, 32)})
    x = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32) * np.linspace(0.1, 2, 64, dtype=np.float32)
    _, found = measured(model, read_samples([{"x": x}], model, samples=32), "2:4", "75%")
    (node,) = found.nodes
    assert found.reconstructed == pytest.approx(node.reconstructed, rel=1e-4)
    assert found.magnitude == pytest.approx(node.magnitude, rel=1e-4)
    w = numpy_helper.to_array(model.graph.initializer[0])
    y = x @ w
    plain = x @ by_magnitude(w, parse_pattern("2:4")).astype(np.float32)
    assert node.magnitude[0] == pytest.approx(np.linalg.norm(y - plain) / np.linalg.norm(y), rel=1e-4)


def test_convolutions_and_shared_weights():
    model = make(
        "(float[N,16,6,6] x) => (float[N,16,6,6] z) "
        "{ y = Conv<pads=[1,1,1,1]>(x, w) a = Relu(y) z = Conv<pads=[1,1,1,1]>(a, w) }",
        {"w": (16, 16, 3, 3)},
    )
    before = model.SerializeToString()
    x = np.random.default_rng(0).standard_normal((24, 16, 6, 6)).astype(np.float32)
    prepared, found = measured(model, read_samples([{"x": x}], model, samples=24), "50%")
    assert model.SerializeToString() == before
    first, second = found.nodes
    assert 0 < first.reconstructed[0] < first.magnitude[0] < 1 and not first.reason
    assert second.reason == "it shares its weight with a node above" and not second.magnitude
    sparse = onnx.ModelProto.FromString(before)
    matrix = numpy_helper.to_array(sparse.graph.initializer[0]).reshape(16, -1).T.astype(np.float64)
    values = by_magnitude(matrix, parse_pattern("50%")).T.reshape(16, 16, 3, 3).astype(np.float32)
    sparse.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    a, b = (run(m, {"x": x}, ["z"])[0] for m in (model, sparse))
    assert found.magnitude[0] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-3)


def test_every_node_of_a_trained_model_is_told():
    """The whole model loses about what measuring it with such weights says, and less where weights make up for zeros."""
    model = load_model("models/mobilenet.onnx")
    _, found = measured(model, read_samples("models/fashion_mnist.npz", model, samples=16), "2:4")
    told = [n for n in found.nodes if not n.reason]
    assert len(told) == len(found.nodes) == sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in model.graph.node)
    assert found.reconstructed[0] < found.magnitude[0]
    assert sum(n.elements for n in told) > 0.9 * sum(np.prod(t.dims) for t in model.graph.initializer if len(t.dims) > 1)
