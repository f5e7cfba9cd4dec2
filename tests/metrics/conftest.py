from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.metrics.data import load_data
from onnxprune.report.evaluate import evaluate
from tests.models_text import make

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def linear():
    """Scores of six classes, and of six features their weights."""
    weights = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    return make("(float[N, 8] x) => (float[N, 6] y) { y = MatMul (x, w) }", {"w": weights}), weights


@pytest.fixture
def score():
    """Score of a model on data."""

    def call(model: onnx.ModelProto, source, **options):
        return evaluate(model, load_data(source, model, **options))

    return call
