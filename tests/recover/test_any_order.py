"""Samples in any order and in batches of any size give the same model: sums of many rows are exact enough."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibrate.read import read_samples

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(("name", "only"), [("vit_legacy", ["*blocks.1*"]), ("resnet", ["*blocks.2*"]), ("gru", [])])
def test_the_weights_of_trained_networks_are_the_same(name, only):
    """Behind flat directions of a Gram matrix, its rounding errors come back 10,000 times larger."""
    model = onnx.load(MODELS / f"{name}.onnx")
    batches = read_samples(str(MODELS / "fashion_mnist.npz"), model, samples=128).batches
    images = np.concatenate([b.feeds["image"] for b in batches])

    def weights(order, batch):
        data = [{"image": images[order[k : k + batch]]} for k in range(0, len(order), batch)]
        found = onnxprune.prune(model, data=data, samples=len(order), only=only, check=False)
        assert any(fit.kind == "lsq" for fit in found.report.fits)
        return found.plan, {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}

    plan, one = weights(np.arange(len(images)), 64)
    other_plan, other = weights(np.arange(len(images))[::-1], 7)
    assert other_plan == plan and other.keys() == one.keys()
    for key, a in one.items():
        if a.dtype.kind != "f":
            continue
        assert np.linalg.norm(other[key] - a) <= 1e-6 * np.linalg.norm(a), key
