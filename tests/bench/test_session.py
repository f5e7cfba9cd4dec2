"""Bound sessions compute what others do, and tell transfers from computation."""

from pathlib import Path

import numpy as np
import pytest

from onnxprune.bench.inputs import made_up
from onnxprune.bench.session import ReadySession, open_optimized
from onnxprune.io.load import load_model

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.parametrize("name", ["resnet", "gru"])
def test_bound_to_a_device(name):
    """The CPU is a device like any other, here."""
    path = MODELS / f"{name}.onnx"
    feeds = {**made_up(load_model(path), 4), "stranger": np.zeros(1)}
    plain = ReadySession(open_optimized(path, name), name, feeds)
    bound = ReadySession(open_optimized(path, name), name, feeds, ("cpu", 0))
    assert plain.first() > 0 and bound.first() > 0
    bound.keep_outputs()
    kept = bound.binding.get_outputs()[0].data_ptr()
    assert bound.burst(3).shape == (3,) and (bound.burst(3) > 0).all()
    assert bound.binding.get_outputs()[0].data_ptr() == kept
    for a, b in zip(plain.run(), bound.binding.copy_outputs_to_cpu(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain.transfers() is None
    upload, download = bound.transfers(5)
    assert upload > 0 and download > 0


def test_threads_are_those_asked_for(files):
    options = open_optimized(files[0], "m", threads=3).get_session_options()
    assert options.intra_op_num_threads == 3
