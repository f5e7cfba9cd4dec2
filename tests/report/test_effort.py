"""Shares of progress follow what is to be done."""

from itertools import pairwise

import numpy as np
import pytest

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.prepare.prepare import prepare
from onnxprune.report.effort import effort
from onnxprune.statistics.effort import matrix_size
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import find_linear
from tests.models_text import make

TEXT = """(float[N, 3, 16, 16] x) => (float[N, 8, 16, 16] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Conv <group = 4, pads = [1, 1, 1, 1]> (a, w2)
  c = ConvTranspose (b, w3)
  d = Transpose <perm = [0, 2, 3, 1]> (c)
  e = MatMul (d, w4)
  f = Transpose <perm = [0, 3, 1, 2]> (e)
  y = Einsum <equation = "nchw,cd->ndhw"> (f, w5)
}"""
WEIGHTS = dict(w1=(16, 3, 3, 3), w2=(16, 4, 3, 3), w3=(16, 6, 1, 1), w4=(6, 8), w5=(8, 8))

ALL = dict.fromkeys(("statistics", "gradients", "passes", "reconstruction"), True)


@pytest.fixture
def prepared():
    return prepare(make(TEXT, WEIGHTS))


def samples(count):
    x = np.zeros((count, 3, 16, 16), np.float32)
    return Samples([Batch({"x": x}, count)], count, "test", False, None)


def test_sizes_are_those_of_the_matrices():
    flow = Flow(lift(make(TEXT, WEIGHTS)))
    for linear in find_linear(flow):
        stored = flow.constant(linear.weight)
        assert matrix_size(linear) == linear.matrix(stored).shape


def test_more_samples_take_longer(prepared):
    groups = onnxprune.analyze(make(TEXT, WEIGHTS))
    one, two = (effort(prepared, groups, samples(n), **ALL) for n in (4, 400))
    assert two.reconstruction > one.reconstruction and two.statistics > one.statistics and two.select == one.select
    none = effort(prepared, groups, samples(4), **dict.fromkeys(ALL, 0))
    assert none.statistics == none.gradients == none.sensitivity == none.reconstruction == 0 < none.report


def test_stages_follow_each_other(prepared):
    groups = onnxprune.analyze(make(TEXT, WEIGHTS))
    found = list(effort(prepared, groups, samples(64), **ALL).bounds(1.5).values())
    assert all(one[1] == two[0] for one, two in pairwise(found))
    assert found[0][0] > 0 and found[-1][1] == pytest.approx(1)


@pytest.mark.parametrize("data", [True, False])
def test_shares_that_are_told_grow(data):
    model = make(TEXT, WEIGHTS)
    told = []
    given = read_samples(None, model, samples=8) if data else None
    onnxprune.prune(model, ratio=0.25, data=given, progress=lambda what, share: told.append(share))
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1 and len(set(told)) > 4
