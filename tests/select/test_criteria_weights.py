"""Criteria that look at weights alone, on cases small enough to compute by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.api import analyze
from onnxprune.errors import UsageError
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.select.weight_criteria import _distances, _lamp, half_sample_mode
from tests.models_text import make as make_text
from tests.select.conftest import CHAIN, make

DENSE = "(float[3, 2] x) => (float[3, 1] y) { a = MatMul (x, w)  b = Add (a, bias)  y = MatMul (b, v) }"


def dense(w, v, bias=None) -> ScoreContext:
    """Channel c is written by column c of w and read by element c of v."""
    w, v = np.array(w, np.float32), np.array(v, np.float32)[:, None]
    bias = np.full(w.shape[1], 100) if bias is None else np.array(bias)
    return ScoreContext(analyze(make_text(DENSE, {"w": w, "v": v, "bias": bias.astype(np.float32)})))


def only(context: ScoreContext, name: str) -> list[float]:
    ((values,),) = score(context, name)
    return values.tolist()


def test_lamp_divides_by_what_is_not_smaller_in_the_layer():
    assert _lamp(np.array([[1.0], [3.0], [2.0]])).tolist() == [1 / 14, 1, 4 / 13]
    assert _lamp(np.array([[2.0], [2.0], [0.0]])).tolist() == [0.5, 0.5, 0]
    assert _lamp(np.zeros((2, 3))).tolist() == [0, 0]
    context = dense([[1, 3, 2], [0, 0, 0]], [2, 2, 4])
    np.testing.assert_allclose(only(context, "lamp"), [1 / 14 + 4 / 24, 1 + 4 / 24, 4 / 13 + 1])


def test_fpgm_is_the_sum_of_distances_to_all_filters():
    context = dense([[0, 3, 0], [0, 4, 4]], [1, 50, 100])
    np.testing.assert_allclose(only(context, "fpgm"), [5 + 4, 5 + 3, 4 + 3])
    assert _distances(np.ones((600, 3))).max() < 1e-6


def test_fpgm_of_many_filters():
    rows = np.random.default_rng(0).standard_normal((700, 4))
    expected = np.linalg.norm(rows[:, None] - rows, axis=2).sum(1)
    np.testing.assert_allclose(_distances(rows), expected)


def test_distances_from_the_mean_median_and_mode_channel():
    context = dense([[0, 1, 1, 2, 11], [0, 0, 0, 0, 0]], [0, 0, 0, 0, 5])
    np.testing.assert_allclose(only(context, "mean-distance"), [9 + 1, 4 + 1, 4 + 1, 1 + 1, 64 + 16])
    np.testing.assert_allclose(only(context, "median-distance"), [1, 0, 0, 1, 100 + 25])
    np.testing.assert_allclose(only(context, "mode-distance"), [1, 0, 0, 1, 100 + 25])


def test_parameters_count_only_for_what_touches_nothing_else():
    body = "(float[3, 2] x) => (float[3, 2] y) { s = Mul (x, w)  y = Identity (s) }"
    assert analyze(make_text(body, {"w": (2,)})).groups == []
    loud = dense([[0, 1], [0, 0]], [0, 0], bias=[0, 1000])
    quiet = dense([[0, 1], [0, 0]], [0, 0], bias=[0, 0])
    for name in ("lamp", "fpgm", "mean-distance", "median-distance", "mode-distance"):
        assert only(loud, name) == only(quiet, name)
    assert only(loud, "l1") != only(quiet, "l1")


@pytest.mark.parametrize(
    ("column", "mode"),
    [
        ([5.0], 5),
        ([1.0, 2.0], 1.5),
        ([0.0, 1.0, 1.5], 1.25),
        ([0.0, 0.5, 4.0], 0.25),
        ([0.0, 10.0, 10.1, 10.2, 30.0, 60.0, 90.0], 10.05),
        ([3.0, -7.0, 3.0, 100.0, 3.0, 9.0], 3),
    ],
)
def test_half_sample_mode(column, mode):
    both = np.stack([column, column[::-1]], axis=1)
    np.testing.assert_allclose(half_sample_mode(both), [mode, mode])


BN = """(float[2, 3, 4, 4] x) => (float[2, 1] y) {
  a = Conv (x, w1)
  b = BatchNormalization (a, gamma, beta, mean, var)
  c = Relu (b)
  d = Conv (c, w2)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = MatMul (f, w3)
}"""


def test_bn_scale_is_the_magnitude_of_gamma_and_l2_for_groups_without():
    ones = np.ones(4, np.float32)
    gamma = np.array([-3, 0.5, 2, 0], np.float32)
    shapes = {
        "w1": (4, 3, 1, 1),
        "gamma": gamma,
        "beta": 9 * ones,
        "mean": ones,
        "var": ones,
        "w2": (5, 4, 1, 1),
        "w3": (5, 1),
    }
    groups = analyze(make_text(BN, shapes))
    found, fallback = score(ScoreContext(groups), "bn-scale"), score(ScoreContext(groups), "l2")
    first = next(k for k, g in enumerate(groups.groups) if ("gamma", 0) in g.members)
    np.testing.assert_allclose(found[first][0], np.abs(gamma))
    np.testing.assert_allclose(found[1 - first][0], fallback[1 - first][0])


def test_bn_scale_takes_factors_of_mul():
    body = "(float[3, 2] x) => (float[3, 1] y) { a = MatMul (x, w)  b = Mul (a, s)  y = MatMul (b, v) }"
    model = make_text(body, {"w": (2, 3), "s": np.array([1, -2, 3], np.float32), "v": (3, 1)})
    assert only(ScoreContext(analyze(model)), "bn-scale") == [1, 2, 3]


def test_bn_scale_of_a_model_without_scales_says_so():
    with pytest.raises(UsageError, match=r"'bn-scale' reads the scales of normalizations.*use l2"):
        score(dense([[1, 2], [3, 4]], [1, 2]), "bn-scale")


def test_random_is_the_same_for_the_same_seed():
    groups = analyze(make(CHAIN))
    one, same, other = (score(ScoreContext(groups, seed=seed), "random") for seed in (3, 3, 4))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        assert len(np.unique(a)) == a[0].size


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)))
@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm", "mean-distance", "median-distance", "mode-distance"])
def test_a_permutation_of_channels_permutes_the_scores(name, order):
    rng = np.random.default_rng(0)
    w1, b1, w2 = rng.standard_normal((12, 3, 3, 3)), rng.standard_normal(12), rng.standard_normal((10, 12, 1, 1))
    w1[3] = w1[4]
    plain = score(ScoreContext(analyze(make(CHAIN, w1=w1, b1=b1, w2=w2))), name)
    moved = score(ScoreContext(analyze(make(CHAIN, w1=w1[order], b1=b1[order], w2=w2[:, order]))), name)
    np.testing.assert_allclose(moved[0][0], plain[0][0][order])
    np.testing.assert_allclose(moved[1][0], plain[1][0])
