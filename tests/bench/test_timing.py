"""Subjects take turns; what comes back are the times of their runs."""

import math

import numpy as np
import pytest

from onnxprune.bench import timing
from onnxprune.bench.timing import Effort, Times, half_width, interleave


class Clock:
    """Time that passes only where a subject says so."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)


class Subject:
    """Takes `ms` for a run, more for the first ones of a burst, and whatever a drift adds."""

    def __init__(self, clock, name, ms, cold=1.0, drift=0.0):
        self.clock, self.name, self.ms, self.cold, self.drift = clock, name, ms, cold, drift

    def burst(self, runs):
        self.clock.order.append((self.name, runs))
        times = np.full(runs, self.ms * (1 + self.drift * self.clock.now))
        times[: max(int(2 / self.ms), 1)] *= self.cold
        self.clock.now += times.sum() / 1e3
        return times


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_every_round_has_a_burst_of_each_in_an_order_drawn_anew(clock):
    found = interleave({n: Subject(clock, n, 1.0) for n in "abc"}, Effort(3600, 40, 40))
    names = [n for n, _ in clock.order][-120:]
    rounds = [tuple(names[k : k + 3]) for k in range(0, 120, 3)]
    assert all(set(r) == set("abc") for r in rounds)
    assert len(set(rounds)) == 6
    assert all(len(times.rounds) == 40 for times in found.values())


@pytest.mark.parametrize("ms", [0.05, 1.0])
def test_the_first_runs_of_a_burst_do_not_count(clock, ms):
    found = interleave({"a": Subject(clock, "a", ms, cold=3.0)}, Effort(1.0))["a"]
    assert np.allclose(found.ms, ms)


def test_long_runs_pay_for_no_others(clock):
    found = interleave({"a": Subject(clock, "a", 2 * timing._LONG_MS)}, Effort(1.0))["a"]
    assert clock.order[-1][1] == found.rounds[-1].size


def test_a_drift_of_the_clock_cancels(clock):
    """The machine becomes three times slower, ratios within rounds do not move by a percent."""
    found = interleave({n: Subject(clock, n, ms, drift=0.2) for n, ms in (("a", 1.0), ("b", 1.1))}, Effort(10.0, 5, 10_000))
    assert found["a"].medians[-1] > 2.5 * found["a"].medians[0]
    assert np.median(found["b"].medians / found["a"].medians) == pytest.approx(1.1, rel=0.01)


def test_the_time_is_kept_but_for_the_fewest_rounds(clock):
    interleave({"a": Subject(clock, "a", 1.0)}, Effort(2.0))
    assert 2.0 < clock.now < 3.2
    found = interleave({"a": Subject(clock, "a", 400.0)}, Effort(0.5, min_rounds=7))["a"]
    assert len(found.rounds) == 7


def test_precise_enough_is_enough(clock):
    found = interleave({"a": Subject(clock, "a", 1.0)}, Effort(100.0, 6, precision=0.01))["a"]
    assert len(found.rounds) == 6


def test_percentiles_and_widths():
    times = Times((np.array([5.0, 1.0, 2.0]), np.array([3.0, 4.0])))
    assert times.p50 == 3.0 and times.p90 == pytest.approx(4.6) and times.p99 == pytest.approx(4.96)
    assert times.medians.tolist() == [2.0, 3.5]
    assert half_width(Times((np.ones(3),))) == math.inf
    rng = np.random.default_rng(0)
    few, many = (Times(tuple(rng.normal(10, 1, (n, 1)))) for n in (25, 2500))
    assert half_width(few) == pytest.approx(0.049, rel=0.5) and half_width(many) == pytest.approx(0.0049, rel=0.2)
