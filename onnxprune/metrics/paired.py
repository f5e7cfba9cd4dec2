"""What a change of a figure is worth: both models saw the same samples, so everything here is paired."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 1999
_EXACT = 5000  # samples up to which the jackknife of BCa, which is quadratic, costs little
_DRAWN = 1 << 20  # indices drawn at once


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval.

    Attributes:
        low: lower end, in the unit of the figure.
        high: upper end.
        method: how it was found.
    """

    low: float
    high: float
    method: str


def difference_of_shares(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Of the change of a share (0..1) of samples, adjusted Wald interval for paired proportions.

    Source: Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data
    (Journal of Educational and Behavioral Statistics 37, 2012).
    """
    from scipy.stats import norm

    n = len(before) + 2
    gained, lost = (int((after & ~before).sum()) + 1) / n, (int((before & ~after).sum()) + 1) / n
    middle = gained - lost
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * float(np.sqrt((gained + lost - middle**2) / n))
    return Interval(max(middle - half, -1.0), min(middle + half, 1.0), "Bonett-Price 2012, paired shares")


def mcnemar(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided p value of McNemar's test (1947) that as many samples were gained as were lost."""
    from scipy.stats import binomtest

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def share(same: NDArray[np.bool_]) -> Interval:
    """Of a share (0..1) of samples. Source: Wilson, Probable Inference (JASA 22, 1927)."""
    from scipy.stats import binomtest

    found = binomtest(int(same.sum()), len(same)).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high), "Wilson 1927")


def difference_of_ratios(
    before: tuple[Floats, Floats], after: tuple[Floats, Floats], figure: Callable[[Any, Any], Any], seed: int = 0
) -> Interval | None:
    """Of the change of `figure(sum of totals, sum of weights)`, by drawing samples with replacement, for both models alike.

    Source: Efron, Better Bootstrap Confidence Intervals (JASA 82, 1987); percentiles for more than 5,000 samples.

    Args:
        before: totals and weights of each sample `(N,)`.
        after: the same of the other model.
        figure: from sums to the figure.
        seed: of the draws.

    Returns:
        None for fewer than two samples.
    """
    from scipy.stats import bootstrap

    count = len(before[0])
    if count < 2:
        return None
    columns = (*before, *after)

    def change(drawn: NDArray[np.int64], axis: int = -1) -> Any:
        one, of_one, two, of_two = (c[drawn].sum(axis) for c in columns)
        return figure(two, of_two) - figure(one, of_one)

    batch = max(_DRAWN // count, 1)

    def found(method: str) -> Interval:
        rng = np.random.default_rng(seed)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BCa has no interval where all samples are alike: percentiles do
            ends = bootstrap(
                (np.arange(count),), change, n_resamples=_RESAMPLES, method=method, batch=batch, random_state=rng
            ).confidence_interval
        return Interval(float(ends.low), float(ends.high), f"paired bootstrap, {method}")

    if np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1]):
        return Interval(0.0, 0.0, "all samples are equal")
    best = found("BCa") if count <= _EXACT else found("percentile")
    return best if np.isfinite([best.low, best.high]).all() else found("percentile")
