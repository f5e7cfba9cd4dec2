"""Intervals cover what they claim, on noise as machines make it."""

import math

import numpy as np
import pytest

from onnxprune.bench.statistics import NO_DIFFERENCE, interval, speedup
from onnxprune.bench.timing import Times

NOISE = {
    "normal": lambda rng, n: rng.normal(0, 0.01, n),
    "heavy tails": lambda rng, n: rng.standard_t(2, n) * 0.007,
    "two states": lambda rng, n: rng.choice([0, 0.03], n) - rng.choice([0, 0.03], n) + rng.normal(0, 0.003, n),
    "disturbed": lambda rng, n: rng.normal(0, 0.005, n) + (rng.random(n) < 0.1) * rng.normal(0, 0.2, n),
}
TRIES = 150


@pytest.mark.parametrize("kind", NOISE)
def test_equal_models_are_rarely_told_apart(kind):
    """At 99 %, 1.5 of 150 are expected to be; more than 6 would be so once in 400 tests of a perfect interval."""
    rng = np.random.default_rng(1)
    told = [interval(NOISE[kind](rng, 10), "process").verdict != NO_DIFFERENCE for _ in range(TRIES)]
    assert sum(told) <= 6


def until_known(draw, rng, most=25):
    """As the benchmark does it: ten processes, and more while the interval is wide."""
    logs = draw(rng, most)
    count = 10
    while (found := interval(logs[:count], "process")).half_width > 0.01 and count < most:
        count += 1
    return found


@pytest.mark.parametrize("kind", NOISE)
def test_five_percent_are_found(kind):
    rng = np.random.default_rng(2)
    found = [until_known(lambda r, n: NOISE[kind](r, n) - math.log(1.05), rng).verdict for _ in range(30)]
    assert found.count("slower") >= 27 and "faster" not in found


def times(*medians):
    return Times(tuple(np.full(5, m) for m in medians))


def test_processes_count_not_runs():
    """A process that fell on a slow core is one observation, however many rounds it had."""
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 0.05, (2, 8))
    first = [times(*np.exp(luck[0, k] + rng.normal(0, 1e-4, 200))) for k in range(8)]
    other = [times(*np.exp(luck[1, k] + rng.normal(0, 1e-4, 200))) for k in range(8)]
    assert speedup(first, other).half_width > 0.03
    alone = speedup(first[:1], other[:1])
    assert alone.unit == "round" and alone.half_width < 0.001


def test_what_is_slow_for_both_cancels():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, other = [], []
        for _ in range(10):
            slow = np.exp(rng.normal(0, 0.5, 20))
            first.append(times(*(slow * np.exp(rng.normal(0, 0.01, 20)))))
            other.append(times(*(slow * 0.8 * np.exp(rng.normal(0, 0.01, 20)))))
        found = speedup(first, other)
        assert found.half_width < 0.02
        covered += found.low < 1.25 < found.high
    assert covered >= 18


def test_the_inverse_is_the_inverse():
    logs = np.random.default_rng(5).normal(0.1, 0.02, 9)
    one, two = interval(logs, "process"), interval(-logs, "process")
    assert one.value == pytest.approx(1 / two.value)
    assert one.half_width == pytest.approx(two.half_width, rel=0.1)
    assert (one.verdict, two.verdict) == ("faster", "slower")


def test_too_few_tell_nothing_and_equal_ones_everything():
    few = interval(np.array([0.5, 0.5, 0.5]), "process")
    assert few.verdict == NO_DIFFERENCE and few.half_width == math.inf and not few.clears(0.5)
    same = interval(np.zeros(6), "process")
    assert (same.low, same.high) == (1.0, 1.0) and same.verdict == NO_DIFFERENCE
