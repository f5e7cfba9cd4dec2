"""The one way in which this project times models: subjects take turns in short bursts, in random order.

A busy moment, a throttled clock or a warm cache then hits all of them alike. A burst is long enough that its first runs,
which find the caches as another subject left them, can be left out.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STABLE = 1.05  # the last burst of a warm-up may take this much longer than the one before it, or shorter
_LEAD_MS = 2.5  # runs at the start of a burst that don't count
_LONG_MS = 50.0  # a run that takes as long warms itself up
_MOST_RUNS = 256  # of a burst
_NORMAL_95 = 1.96
_MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median, in those of a mean, for normal errors
_MAD = 1.4826  # standard deviation, in median absolute deviations, of a normal distribution


class Subject(Protocol):
    """Something that can be run many times: a session of this process, or one of another."""

    def burst(self, runs: int) -> Floats:
        """Runs it so many times in a row; the duration of each run in ms `(runs,)`."""


@dataclass(frozen=True)
class Effort:
    """How long to go on.

    Attributes:
        seconds: for the timed rounds of all subjects together; a warm-up takes up to half of it more.
        min_rounds: rounds, however long they take.
        max_rounds: the most rounds.
        precision: stop earlier, once the median of every subject is known as well as this: half of the 95 % interval as a
            share of the median. None: use the time.
        burst_ms: length of a burst; one run, where that takes longer.
    """

    seconds: float = 1.0
    min_rounds: int = 5
    max_rounds: int = 500
    precision: float | None = None
    burst_ms: float = 20.0


@dataclass(frozen=True)
class Times:
    """Durations of one subject's runs.

    Attributes:
        rounds: ms of the runs of each round `(runs,)`, warm-up and first runs of a burst left out. The k-th round of all
            subjects of one call of `interleave` lies at the same time.
    """

    rounds: tuple[Floats, ...] = field(repr=False)

    @property
    def ms(self) -> Floats:
        """Of all runs, in order `(N,)`."""
        return np.concatenate(self.rounds)

    @property
    def medians(self) -> Floats:
        """Of each round, in ms `(rounds,)`."""
        return np.array([np.median(r) for r in self.rounds])

    @property
    def p50(self) -> float:
        """The median in ms."""
        return float(np.median(self.ms))

    @property
    def p90(self) -> float:
        """The 90th percentile in ms."""
        return float(np.percentile(self.ms, 90))

    @property
    def p99(self) -> float:
        """The 99th percentile in ms."""
        return float(np.percentile(self.ms, 99))


def interleave(subjects: Mapping[str, Subject], effort: Effort | None = None, seed: int = 0) -> dict[str, Times]:
    """Times subjects in rounds; in each round every subject has one burst, in an order drawn anew.

    Args:
        subjects: by name; at least one.
        effort: how long.
        seed: of the orders.
    """
    effort = effort or Effort()
    rng = np.random.default_rng(seed)
    names = list(subjects)
    rounds: dict[str, list[Floats]] = {name: [] for name in names}
    with _no_collection():
        plans = {n: _Plan.of(ms, effort.burst_ms) for n, ms in _warm_up(subjects, effort).items()}
        end = time.perf_counter() + effort.seconds
        for k in range(effort.max_rounds):
            if k >= effort.min_rounds and (time.perf_counter() > end or _known(rounds, effort.precision)):
                break
            for i in rng.permutation(len(names)):
                rounds[names[i]].append(plans[names[i]].timed(subjects[names[i]]))
    return {name: Times(tuple(found)) for name, found in rounds.items()}


@dataclass(frozen=True)
class _Plan:
    """A burst: runs that count, and those before them."""

    runs: int
    lead: int

    @classmethod
    def of(cls, ms: float, burst_ms: float) -> _Plan:
        runs = min(max(round(burst_ms / ms), 1), _MOST_RUNS)
        return cls(runs, 0 if ms >= _LONG_MS else min(math.ceil(_LEAD_MS / ms), _MOST_RUNS))

    def timed(self, subject: Subject) -> Floats:
        return subject.burst(self.lead + self.runs)[self.lead :]


def _warm_up(subjects: Mapping[str, Subject], effort: Effort) -> dict[str, float]:
    """Bursts in turn until the last two of each subject take equally long, or the time is spent; ms of a run."""
    end = time.perf_counter() + effort.seconds / 2
    found: dict[str, list[float]] = {name: [] for name in subjects}
    runs = dict.fromkeys(subjects, 1)
    while True:
        for name, subject in subjects.items():
            ms = float(np.median(subject.burst(runs[name])))
            found[name].append(ms)
            full = min(max(round(effort.burst_ms / max(ms, 1e-6)), 1), _MOST_RUNS)
            runs[name] = min(max(2 * runs[name], full // 4), full)
        if all(_stable(ms) for ms in found.values()) or time.perf_counter() > end:
            return {name: max(ms[-1], 1e-6) for name, ms in found.items()}


def _stable(ms: Sequence[float]) -> bool:
    return len(ms) >= 4 and ms[-2] / _STABLE <= ms[-1] <= ms[-2] * _STABLE


def _known(rounds: Mapping[str, Sequence[Floats]], precision: float | None) -> bool:
    return precision is not None and all(half_width(Times(tuple(r))) <= precision for r in rounds.values())


def half_width(times: Times) -> float:
    """Half of a 95 % interval of the median, as a share of it, by the spread of the rounds' medians; inf for one round.

    A quick figure to stop by: what differs between processes is not in it.
    """
    medians = times.medians
    if len(medians) < 2:
        return math.inf
    middle = float(np.median(medians))
    spread = _MAD * float(np.median(np.abs(medians - middle)))
    return _NORMAL_95 * _MEDIAN * spread / math.sqrt(len(medians)) / middle


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector of cycles does not run in between."""
    was: Any = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
