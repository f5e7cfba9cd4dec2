"""Intervals hold what they should, as often as they promise."""

import numpy as np
import pytest

from onnxprune.metrics.paired import difference_of_ratios, difference_of_shares, mcnemar, share


@pytest.mark.parametrize(("gain", "loss", "n"), [(0.03, 0.05, 200), (0.01, 0.01, 500), (0.0, 0.2, 40)])
def test_the_interval_of_a_difference_covers_it(gain, loss, n):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        drawn = rng.choice(3, n, p=[1 - gain - loss, gain, loss])
        found = difference_of_shares(drawn == 2, drawn == 1)
        hits += found.low <= gain - loss <= found.high
    assert hits / 400 > 0.92


def test_models_that_agree_on_few_samples_may_still_differ():
    right = np.ones(10, bool)
    found = difference_of_shares(right, right)
    assert found.low < -0.1 and found.high > 0.1
    many = difference_of_shares(np.ones(10_000, bool), np.ones(10_000, bool))
    assert -0.001 < many.low < 0 < many.high < 0.001


def test_pairing_narrows_the_interval():
    """3 of 1,000 lost are seen, though each share alone is known to 3 points only."""
    before = np.arange(1000) < 700
    after = before.copy()
    after[:12] = False
    found = difference_of_shares(before, after)
    assert found.low < -0.012 < found.high < 0
    assert mcnemar(before, after) == pytest.approx(2 * 0.5**12)
    assert mcnemar(before, before) == 1


@pytest.mark.parametrize("count", [60, 6000])
def test_the_bootstrap_of_means_is_that_of_normal_theory(count):
    rng = np.random.default_rng(3)
    before = rng.normal(5, 3, count)
    after = before + rng.normal(0.2, 0.5, count)
    ones = np.ones(count)
    found = difference_of_ratios((before, ones), (after, ones), lambda t, w: t / w)
    gap = after - before
    half = 1.96 * gap.std(ddof=1) / np.sqrt(count)
    assert found.low == pytest.approx(gap.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(gap.mean() + half, abs=0.15 * half)
    assert ("BCa" in found.method) == (count == 60)


def test_the_bootstrap_is_of_sums_over_sums_and_repeatable():
    rng = np.random.default_rng(4)
    weights = rng.integers(1, 50, 300).astype(float)
    totals = weights * rng.normal(2, 0.3, 300)
    one = difference_of_ratios((totals, weights), (totals * 1.1, weights), lambda t, w: np.exp(t / w))
    value = np.exp(1.1 * totals.sum() / weights.sum()) - np.exp(totals.sum() / weights.sum())
    assert one.low < value < one.high and one.high - one.low < value
    assert one == difference_of_ratios((totals, weights), (totals * 1.1, weights), lambda t, w: np.exp(t / w))


def test_equal_and_single_samples():
    ones = np.ones(30)
    same = difference_of_ratios((ones, ones), (ones, ones), lambda t, w: t / w)
    assert (same.low, same.high) == (0, 0)
    shifted = difference_of_ratios((ones, ones), (ones + 1, ones), lambda t, w: t / w)
    assert (shifted.low, shifted.high) == (1, 1)
    assert difference_of_ratios((ones[:1], ones[:1]), (ones[:1], ones[:1]), lambda t, w: t / w) is None


def test_wilson():
    found = share(np.arange(100) < 81)  # 0.722 and 0.875 in tables of Wilson's interval
    assert (found.low, found.high) == pytest.approx((0.7222, 0.8749), abs=2e-4)
