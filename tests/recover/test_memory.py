"""The memory budget bounds what pruning with data holds, however many samples there are."""

import tracemalloc

import numpy as np

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from tests.models_text import make

TEXT = """(float[N, 3, 48, 48] x) => (float[N, 8, 48, 48] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1], group = 24> (b, w2)
  d = Relu (c)
  y = Conv <pads = [1, 1, 1, 1]> (d, w3)
}"""
WEIGHTS = dict(w1=(24, 3, 3, 3), w2=(24, 1, 3, 3), w3=(8, 24, 3, 3))
TENSOR = 4 * 24 * 48 * 48  # bytes, for one sample


def peak(count, memory):
    x = np.random.default_rng(0).standard_normal((count, 3, 48, 48)).astype(np.float32)
    samples = Samples([Batch({"x": x}, count)], count, "test", False, None)
    tracemalloc.start()
    try:
        onnxprune.prune(make(TEXT, WEIGHTS), ratio=0.5, data=samples, memory=memory, check=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_samples_do_not_add_up():
    """One tensor of all samples is twice the budget, and its rows nine times that."""
    memory, pieces = 4 << 20, 36 << 20  # rows of a piece, centred, gathered and stacked
    assert 1.5 * memory < 32 * TENSOR
    small, large = peak(8, memory), peak(32, memory)
    assert large < memory + pieces and large < 1.5 * small
