"""Figures about outputs, against those computed by hand."""

import numpy as np
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError
from onnxprune.report.fidelity import fidelity
from tests.models_text import make

TEXT = "(float[N, 4] x) => (float[N, 3] y, int64[N] z) { y = MatMul (x, w)  z = ArgMax <axis = 1, keepdims = 0> (y) }"


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3)).astype(np.float32)
    return w, (w + 0.3 * rng.standard_normal((4, 3))).astype(np.float32)


@pytest.fixture
def data():
    return np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)


def samples(data, batch=16):
    """Batches of which the last one is filled up."""
    batches = []
    for k in range(0, len(data), batch):
        rows = np.minimum(np.arange(k, k + batch), len(data) - 1)
        batches.append(Batch({"x": data[rows]}, min(batch, len(data) - k)))
    return Samples(batches, len(data), "test", False, None)


def test_figures(weights, data):
    old, new = weights
    (found,) = fidelity(make(TEXT, {"w": old}), make(TEXT, {"w": new}), samples(data))
    a, b = data @ old, data @ new
    own = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    assert found.output == "y" and found.samples == 50
    assert found.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    assert found.agreement == (a.argmax(1) == b.argmax(1)).mean() < 1
    low, high = found.interval
    assert low < found.agreement < high and high - low < 0.4
    assert [w.sample for w in found.worst] == np.argsort(-own)[:5].tolist()
    assert [w.error for w in found.worst] == pytest.approx(np.sort(own)[::-1][:5].tolist(), rel=1e-4)


def test_large_outputs_are_compared_in_blocks(weights, data, monkeypatch):
    models = [make(TEXT, {"w": w}) for w in weights]
    whole = fidelity(*models, samples(data))
    monkeypatch.setattr("onnxprune.report.fidelity._BLOCK", 10)
    (small,) = fidelity(*models, samples(data))
    assert small.cosine == pytest.approx(whole[0].cosine) and small.worst == whole[0].worst


def test_worst_samples_are_those_of_the_data_with_their_files(tmp_path):
    """Samples of one shape are stacked, so batches are in another order than files."""
    model = make("(float[N, S] x) => (float[N, S] y) { y = Identity (x) }", {})
    other = make("(float[N, S] x) => (float[N, S] y) { y = Clip (x, low) }", {"low": np.array(0, np.float32)})
    for k, row in enumerate([[1, 1], [1, 1, 1], [1, -1], [-1, 1, 1], [1, 1]]):
        np.save(tmp_path / f"{k}.npy", np.array(row, np.float32))
    found = fidelity(model, other, read_samples(tmp_path, model))[0]
    assert [(w.sample, w.file) for w in found.worst[:2]] == [(2, "2.npy"), (3, "3.npy")]
    assert found.worst[0].error == pytest.approx(np.sqrt(1 / 2)) and found.worst[1].error == pytest.approx(np.sqrt(1 / 3))


def test_nan_is_the_worst(weights, data):
    bad = weights[0].copy()
    model = make(TEXT.replace("y = MatMul (x, w)", "h = MatMul (x, w)  y = Log (h)"), {"w": bad})
    clean = make(TEXT, {"w": bad})
    (found,) = fidelity(clean, model, samples(data))
    assert np.isnan(found.relative_error) and np.isnan(found.worst[0].error)


def test_the_same_model(weights, data):
    model = make(TEXT, {"w": weights[0]})
    (found,) = fidelity(model, model, samples(data))
    assert found.relative_error == 0 and found.agreement == 1 and found.cosine == pytest.approx(1)


def test_outputs_without_a_row_for_each_sample(weights, data):
    model = make(
        "(float[N, 4] x) => (float[1, 3] y) { h = MatMul (x, w)  y = ReduceMean <axes = [0]> (h) }", {"w": weights[0]}
    )
    assert fidelity(model, model, samples(data)) == []


def test_samples_that_do_not_fit(weights, data):
    model = make(TEXT, {"w": weights[0]})
    with pytest.raises(ModelError, match="calibration samples"):
        fidelity(model, model, samples(data[:, :3]))
