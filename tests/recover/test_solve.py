"""The closed form finds what is there to be found, and never makes things worse on held-out rows."""

import numpy as np
import pytest

from onnxprune.recover.solve import lowest, solve, squared_error
from onnxprune.statistics.moments import Moments


def problem(rows=400, k=6, m=3, groups=1, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, groups, k)) @ rng.standard_normal((k, k)) + 2
    w = rng.standard_normal((groups, k, m))
    y = np.einsum("rgk,gkm->rgm", x, w) + 5 + noise * rng.standard_normal((rows, groups, m))
    return x, y, w


def split(x, y, at=300):
    return Moments.of(x[:at], y[:at]), Moments.of(x[at:], y[at:]) if at < len(x) else Moments.empty(
        x.shape[1], x.shape[2], y.shape[2]
    )


def ones(y):
    return np.ones(y.shape[1:])


@pytest.mark.parametrize("groups", [1, 3])
def test_an_exact_relation_is_found(groups):
    x, y, w = problem(groups=groups)
    found = solve(*split(x, y), 0.5 * w + 1, np.zeros((groups, 3)), "lsq", ones(y))
    assert found.kind == "lsq" and found.after < 1e-4 < found.before
    assert np.allclose(found.matrix, w, atol=0.05) and np.allclose(found.bias, 5, atol=0.2)


def test_without_a_bias():
    x, y, w = problem()
    found = solve(*split(x, y - 5), 0.5 * w + 1, None, "lsq", ones(y))
    assert found.bias is None and found.after < 1e-4 and np.allclose(found.matrix, w, atol=0.05)


def test_each_mode_includes_the_ones_before():
    x, y, w = problem(noise=0.5)
    rng = np.random.default_rng(1)
    old = 0.6 * w + 0.3 * rng.standard_normal(w.shape)
    losses = [solve(*split(x, y), old, np.zeros((1, 3)), mode, ones(y)).after for mode in ("none", "bias", "affine", "lsq")]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4


def test_it_refuses_what_held_out_rows_contradict():
    """Two rows for six taps, of pure noise: the old weights stay."""
    x, y, w = problem(rows=400)
    rng = np.random.default_rng(0)
    train = Moments.of(x[:2], y[:2] + 100 * rng.standard_normal((2, 1, 3)))
    found = solve(train, Moments.of(x[2:], y[2:]), w, np.full((1, 3), 5.0), "lsq", ones(y))
    assert found.kind == "none" and np.array_equal(found.matrix, w) and found.after < 1e-12


@pytest.mark.parametrize("case", ["dead channels", "constant", "all constant", "few rows", "one row", "huge", "tiny"])
def test_numbers_stay_finite(case):
    x, y, w = problem()
    if case == "dead channels":
        x[:, :, :3] = 0
    elif case == "constant":
        x[:, :, 1] = 7
    elif case == "all constant":
        x[:] = 3
        y[:] = 1
    elif case == "huge":
        x, y = x * 1e15, y * 1e15
    elif case == "tiny":
        x, y = x * 1e-15, y * 1e-15
    moments = split(x[: {"few rows": 4, "one row": 1}.get(case, 400)], y[: {"few rows": 4, "one row": 1}.get(case, 400)])
    for bias in (np.zeros((1, 3)), None):
        found = solve(*moments, w, bias, "lsq", ones(y))
        assert np.isfinite(found.matrix).all() and np.isfinite([found.before, found.after, found.fitted]).all()
        assert found.bias is None or np.isfinite(found.bias).all()
        assert found.after <= found.before


def test_dead_channels_keep_their_weights():
    x, y, w = problem()
    x[:, :, 2] = 0
    y = np.einsum("rgk,gkm->rgm", x, w) + 5
    found = solve(*split(x, y), w + 1, np.zeros((1, 3)), "lsq", ones(y))
    assert np.allclose(found.matrix[0, 2], w[0, 2] + 1)


def test_squared_error_is_that_of_the_rows():
    x, y, w = problem(noise=1.0)
    bias = np.full((1, 3), 4.0)
    direct = ((np.einsum("rgk,gkm->rgm", x, w) + bias - y) ** 2).mean(axis=0)
    assert np.allclose(squared_error(Moments.of(x, y), w, bias), direct)


def test_the_lowest_strength_is_found_with_few_losses_where_there_is_one_valley():
    strengths = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    for bottom in range(5):
        asked = []

        def loss(s, bottom=bottom, asked=asked):
            asked.append(s)
            return abs(strengths.index(s) - bottom)

        assert lowest(loss, strengths, one_valley=True) == (0, strengths[bottom])
        assert len(asked) == len(set(asked)) <= bottom + 2 + (bottom == 1)
    two_valleys = dict(zip(strengths, (3, 4, 5, 2, 1), strict=True))
    assert lowest(two_valleys.get, strengths, one_valley=False) == (1, 1.0)
    assert lowest(lambda s: np.inf, strengths, one_valley=True)[0] == np.inf
