"""Batches shrink to what fits into memory, and hold the same samples in the same order."""

import numpy as np
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.rebatch import rebatch
from onnxprune.trace.value import Value
from tests.models_text import make

TEXT = "(float[N, 3, 8, 8] x) => (float[N, 64, 8, 8] y) { y = Conv (x, w) }"
WEIGHTS = dict(w=(64, 3, 1, 1))
EACH = 4 * 64 * 8 * 8  # bytes that y takes for one sample


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    batches = [Batch({"x": rng.standard_normal((n, 3, 8, 8)).astype(np.float32)}, n) for n in (6, 6, 2)]
    return Samples(batches, 14, "test", False, None)


def values(batch, size=8):
    shapes = {"x": (batch, 3, size, size), "y": (batch, 64, size, size), "w": (1 << 20,)}
    return {n: Value(n, 1, s, constant=n == "w") for n, s in shapes.items()}


@pytest.mark.parametrize(("tensors", "sizes"), [(1, [1] * 14), (8 * 4, [4, 2, 4, 2, 2]), (8 * 6, [6, 6, 2])])
def test_sizes_follow_the_room(samples, tensors, sizes):
    for traced in (1, 5):
        found = rebatch(samples, make(TEXT, WEIGHTS), values(traced), tensors * EACH)
        assert [b.count for b in found.batches] == sizes
        joined = np.concatenate([b.feeds["x"] for b in found.batches])
        assert np.array_equal(joined, np.concatenate([b.feeds["x"] for b in samples.batches]))


def test_larger_images_than_traced_take_more(samples):
    found = rebatch(samples, make(TEXT, WEIGHTS), values(1, size=4), 8 * 4 * EACH)
    assert [b.count for b in found.batches] == [4, 2, 4, 2, 2]


def test_a_fixed_batch_stays(samples):
    model = make(TEXT.replace("N", "6"), WEIGHTS)
    assert rebatch(samples, model, values(6), 1) is samples


def test_filled_batches_stay(samples):
    filled = Samples([Batch(samples.batches[0].feeds, 5)], 5, "test", False, None)
    assert rebatch(filled, make(TEXT, WEIGHTS), values(1), 1) is filled
