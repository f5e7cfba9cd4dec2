"""Moments of parts add up to those of the whole."""

from itertools import pairwise

import numpy as np
import pytest

from onnxprune.statistics.moments import Moments


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 2, 5)) * 3 + 1e4
    return x, x @ rng.standard_normal((5, 3)) + rng.standard_normal((100, 2, 3))


def accumulated(x, y, bounds):
    total = Moments.empty(2, 5, 3)
    for a, b in pairwise(bounds):
        total.add(Moments.of(x[a:b], y[a:b]))
    return total


def test_parts_are_the_whole(rows):
    whole = Moments.of(*rows)
    for bounds in ([0, 100], [0, 1, 2, 99, 100], list(range(101))):
        parts = accumulated(*rows, bounds)
        assert parts.rows == whole.rows
        for name in ("x", "y", "xx", "xy", "yy"):
            assert np.allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-7), name


def test_they_are_covariances(rows):
    x, y = rows
    m = Moments.of(x, y)
    both = np.cov(np.concatenate([x[:, 1], y[:, 1]], axis=1).T, bias=True)
    assert np.allclose(m.xx[1] / m.rows, both[:5, :5])
    assert np.allclose(m.xy[1] / m.rows, both[:5, 5:])
    assert np.allclose(m.yy[1] / m.rows, np.diag(both)[5:])


def test_columns_and_merged(rows):
    x, y = rows
    one, two = Moments.of(x[:60], y[:60]), Moments.of(x[60:], y[60:])
    cut = one.merged(two).columns(1, 3)
    whole = Moments.of(x, y[:, :, 1:3])
    assert np.allclose(cut.xy, whole.xy) and np.allclose(cut.yy, whole.yy) and one.rows == 60
