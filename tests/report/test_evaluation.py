"""Both models on evaluation data, and what the change is worth."""

import json

import numpy as np
import onnx
import pytest

from onnxprune.calibrate.read import read_samples
from onnxprune.cli.screen import to_json
from onnxprune.metrics.data import load_data
from onnxprune.report.evaluation import Evaluator
from tests.models_text import make

RNG = np.random.default_rng(7)
X = RNG.standard_normal((230, 8)).astype(np.float32)
WEIGHTS = RNG.standard_normal((8, 6)).astype(np.float32)
LABELS = (X @ WEIGHTS).argmax(1)
TEXT = "(float[N, 8] x) => (float[N, 6] y) { y = MatMul (x, w) }"


@pytest.fixture
def compare(tmp_path):
    """Evaluation of two models on data."""

    def call(before, after, source, calibration=None, **options):
        for name, model in (("before", before), ("after", after)):
            onnx.save(model, tmp_path / f"{name}.onnx")
        evaluator = Evaluator(tmp_path / "before.onnx", load_data(source, before, **options))
        samples = None if calibration is None else read_samples(calibration, before)
        return evaluator.compare(tmp_path / "after.onnx", samples)

    return call


def test_a_change_of_accuracy(compare):
    worse = WEIGHTS + 0.4 * RNG.standard_normal((8, 6)).astype(np.float32)
    found = compare(make(TEXT, {"w": WEIGHTS}), make(TEXT, {"w": worse}), {"x": X, "labels": LABELS})
    right = (X @ worse).argmax(1) == LABELS
    assert (found.before.value, found.after.value) == (100, pytest.approx(right.mean() * 100))
    change = found.change
    assert change.interval.low < change.value < change.interval.high < 0 and change.within_noise is False
    assert change.p_value < 1e-6
    assert change.agreement == pytest.approx(right.mean() * 100)
    assert change.agreement_interval.low < change.agreement < change.agreement_interval.high
    assert found.fidelity[0].samples == 230 and found.fidelity[0].agreement == pytest.approx(right.mean())


def test_a_change_within_noise(compare):
    other = WEIGHTS + 0.02 * RNG.standard_normal((8, 6)).astype(np.float32)
    labels = RNG.integers(0, 6, 230)
    found = compare(make(TEXT, {"w": WEIGHTS}), make(TEXT, {"w": other}), {"x": X, "labels": labels})
    assert found.change.value != 0 and found.change.within_noise is True


def test_a_change_of_squared_error(compare):
    targets = X @ WEIGHTS
    models = [make(TEXT, {"w": w}) for w in (WEIGHTS * 0.9, WEIGHTS * 0.8)]
    found = compare(*models, {"x": X, "targets": targets})
    assert found.change.value == pytest.approx(0.03 * (targets**2).mean(), rel=1e-4)
    assert 0 < found.change.interval.low < found.change.value < found.change.interval.high
    assert found.change.p_value is None and found.change.agreement is None


def test_calibration_samples_are_recognised(compare):
    model = make(TEXT, {"w": WEIGHTS})
    data = {"x": X, "labels": LABELS}
    assert compare(model, model, data, {"x": X[200:] + 1}).seen == 0
    assert compare(model, model, data, {"x": np.concatenate([X[220:], X[:5] + 1])}).seen == 10
    twice = {"x": np.concatenate([X, X[:3]]), "labels": np.concatenate([LABELS, LABELS[:3]])}
    assert compare(model, model, twice, {"x": X[:2]}).seen == 4
    assert compare(model, model, data).seen is None


def test_a_pruned_model_without_a_figure_is_reported(compare):
    broken = make("(float[N, 8] x) => (float[N, 6] y) { h = MatMul (x, w)  y = Log (h) }", {"w": WEIGHTS})
    found = compare(make(TEXT, {"w": WEIGHTS}), broken, {"x": X, "labels": LABELS})
    assert found.after is None and found.change is None
    assert "after.onnx: output 'y' is NaN for sample 0" in found.failed


def test_everything_is_plain_data(compare):
    model = make(TEXT, {"w": WEIGHTS})
    found = compare(model, make(TEXT, {"w": WEIGHTS * 2}), {"x": X, "labels": LABELS}, {"x": X[:7]})
    data = json.loads(to_json(found.to_dict()))
    assert (data["metric"], data["unit"], data["higher_is_better"], data["samples"]) == ("accuracy", "percent", True, 230)
    assert (data["before"], data["after"], data["agreement"]) == (100, 100, 100)
    assert data["change"]["value"] == 0 and data["change"]["within_noise"] is True
    assert data["change"]["interval"]["low"] < 0 < data["change"]["interval"]["high"]
    assert data["samples_used_for_calibration"] == 7 and data["compared"] == ["y", "labels"]
    assert len(data["fidelity"][0]["worst"]) == 5 and set(data["fidelity"][0]["worst"][0]) == {"sample", "error", "file"}
