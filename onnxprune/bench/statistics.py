"""What the difference of two latencies is worth.

Two runs of one process have more in common than two of different processes: where memory came to lie, which core, which
clock. So a process counts as one observation, however many runs it made (the clusters of Davison and Hinkley, Bootstrap
Methods and their Application, 1997, section 3.8: whole clusters are drawn, what lies in them is not drawn again).

Within a process pair, rounds are compared with the rounds at the same time, so what is slow for a while cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.bench.timing import Floats, Times

CONFIDENCE = 0.99
NO_DIFFERENCE = "no measurable difference"
_RESAMPLES = 9999
_TRIMMED = 0.2
_FEWEST = 4  # observations, below which no interval is given


@dataclass(frozen=True)
class Speedup:
    """How many times faster one model is than another.

    Attributes:
        value: ratio of medians, time of the first by time of the other; above 1 the other is faster.
        low: lower end of its confidence interval; 0 where there are too few observations to tell.
        high: upper end; infinite where there are too few.
        confidence: of the interval, 0..1.
        observations: what it rests on.
        unit: what an observation is, `process` or `round`.
    """

    value: float
    low: float
    high: float
    confidence: float
    observations: int
    unit: str

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or that nothing can be told apart."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else NO_DIFFERENCE

    @property
    def half_width(self) -> float:
        """Half of the interval as a share of the value: of the logarithm, so that it is the same for the inverse."""
        return math.log(self.high / self.low) / 2 if self.low > 0 and self.high < math.inf else math.inf

    def clears(self, bound: float) -> bool:
        """The whole interval is at or above a bound."""
        return self.low >= bound


def speedup(first: Sequence[Times], other: Sequence[Times], *, confidence: float = CONFIDENCE, seed: int = 0) -> Speedup:
    """The ratio of medians of two models, with a bootstrap confidence interval.

    Args:
        first: times of the model that is compared with, one for each process.
        other: times of the other model, taken in turn with those of `first`, pair by pair. For one pair alone, rounds are
            the observations; then the interval knows nothing of what differs between processes.
        confidence: of the interval.
        seed: of the draws.
    """
    if len(first) == 1:
        return interval(np.log(first[0].medians) - np.log(other[0].medians), "round", confidence, seed)
    logs = np.array([np.median(np.log(a.medians) - np.log(b.medians)) for a, b in zip(first, other, strict=True)])
    return interval(logs, "process", confidence, seed)


def interval(logs: Floats, unit: str, confidence: float = CONFIDENCE, seed: int = 0) -> Speedup:
    """Of the trimmed mean of logarithms of ratios, by drawing observations with replacement.

    Percentiles of few observations lie too close together; they are taken further out, as Student's t is from the normal
    distribution (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: expanded
    percentiles). From eight observations on, simulated intervals miss the truth as rarely as they claim, within a factor of
    two, for normal and for heavy-tailed noise.

    Args:
        logs: of the ratio in each observation `(N,)`.
        unit: what an observation is.
        confidence: of the interval.
        seed: of the draws.
    """
    from scipy.stats import bootstrap, norm, t

    count = len(logs)
    value = math.exp(_middle(logs))
    if count < _FEWEST:
        return Speedup(value, 0.0, math.inf, confidence, count, unit)
    if np.ptp(logs) == 0:
        return Speedup(value, value, value, confidence, count, unit)
    tail = norm.cdf(-math.sqrt(count / (count - 1)) * t.ppf((1 + confidence) / 2, count - 1))
    ends: Any = bootstrap(
        (logs,),
        _middle,
        n_resamples=_RESAMPLES,
        confidence_level=1 - 2 * tail,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Speedup(value, math.exp(ends.low), math.exp(ends.high), confidence, count, unit)


def _middle(logs: Floats, axis: int = -1) -> Any:
    """The mean without the fifth at either end: some process always has a neighbour."""
    from scipy.stats import trim_mean

    return trim_mean(logs, _TRIMMED, axis=axis)
