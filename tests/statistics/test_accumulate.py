"""Rows that come in pieces give the moments of all of them, whatever the pieces; float32 costs digits, not the result."""

import numpy as np
import pytest

from onnxprune.errors import ModelError
from onnxprune.statistics import accumulate
from onnxprune.statistics.accumulate import Accumulator, pieces
from onnxprune.statistics.linear import Convolution, Dense
from onnxprune.statistics.moments import Moments

NAMES = ("x", "y", "xx", "xy", "yy")


def rows(count, groups, k, m, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, groups, k)) @ rng.standard_normal((k, k)) + 30
    return x.astype(np.float32), (x @ rng.standard_normal((k, m)) + rng.standard_normal((count, groups, m))).astype(
        np.float32
    )


def accumulated(x, y, step, expected):
    found = Accumulator(x.shape[1], x.shape[2], y.shape[2], expected)
    for start in range(0, len(x), step):
        found.add(x[start : start + step], y[start : start + step])
    return found.result(), found


@pytest.mark.parametrize("expected", [0, 10**12])
def test_batches_do_not_matter(monkeypatch, expected):
    monkeypatch.setattr(accumulate, "PIECE", 8000)
    x, y = rows(500, 2, 6, 3)
    whole, _ = accumulated(x, y, 500, expected)
    for step in (1, 7, 64):
        parts, _ = accumulated(x, y, step, expected)
        assert parts.rows == 500
        for name in NAMES:
            assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


@pytest.mark.parametrize("groups", [1, 3])
def test_single_precision_loses_little(groups):
    """Against float64: 30 standard deviations away from 0, in many pieces, and in another order."""
    x, y = rows(20_000, groups, 80, 8)
    exact = Moments.of(x, y)
    order = np.random.default_rng(1).permutation(len(x))
    for a, b in ((x, y), (x[order], y[order])):
        found, used = accumulated(a, b, 333, 10**12)
        assert used.dtype is np.float32
        scale_x, scale_y = np.sqrt(np.einsum("gkk->gk", exact.xx)), np.sqrt(exact.yy)
        assert (np.abs(found.xx - exact.xx) <= 1e-6 * scale_x[:, :, None] * scale_x[:, None]).all()
        assert (np.abs(found.xy - exact.xy) <= 1e-6 * scale_x[:, :, None] * scale_y[:, None]).all()
        assert np.allclose(found.x, exact.x, rtol=1e-12) and np.allclose(found.y, exact.y, rtol=1e-12)


@pytest.mark.parametrize("form", [Dense(1, False), Convolution((3, 3), (1, 1), (1, 1), (1,) * 4, "NOTSET", 2, False)])
def test_pieces_are_bounded(monkeypatch, form):
    x = np.random.default_rng(0).standard_normal((7, 4, 9, 9)).astype(np.float32)
    chosen = np.arange(0, 81, 2)
    whole = form.rows(x, chosen)
    monkeypatch.setattr(accumulate, "PIECE", whole.nbytes // 3)
    found = list(pieces(form, x, chosen))
    assert len(found) > 2 and max(piece.nbytes for _, piece in found) <= whole.nbytes // 3
    assert np.array_equal(np.concatenate([piece for _, piece in found]), whole)


def test_any_order_gives_the_same_in_double_precision():
    x, y = rows(20_000, 1, 80, 8)
    (whole, used), (other, _) = (accumulated(x[o], y[o], 333, len(x)) for o in (slice(None), slice(None, None, -1)))
    assert used.dtype is np.float64
    for name in NAMES:
        one = getattr(whole, name)
        assert np.abs(getattr(other, name) - one).max() <= 1e-13 * np.abs(one).max(), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("expected", [0, 10**12])
def test_what_is_not_finite_is_named(value, expected):
    x, y = rows(50, 1, 4, 2)
    x[7, 0, 2] = value
    found = Accumulator(1, 4, 2, expected, "hidden")
    found.add(x, y)
    with pytest.raises(ModelError, match="'hidden'"):
        found.result()
