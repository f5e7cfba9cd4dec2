"""Figures of models on evaluation data, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.metrics.paired import Interval, difference_of_ratios, difference_of_shares, mcnemar, share
from onnxprune.metrics.registry import Unit


@dataclass(frozen=True)
class Score:
    """What a model reaches on evaluation data.

    Attributes:
        metric: name of the metric.
        value: the figure; percent where `unit` says so.
        samples: how many samples it is of.
        predictions: class of each sample `(N,)`; empty where samples have none.
        title: of the metric, for tables.
        unit: `percent` or `plain`.
        higher_is_better: a larger figure is a better model.
        totals: what each sample adds to the figure `(N,)`; empty for a figure that is no mean over samples.
        weights: what each sample counts for `(N,)`: 1, or its tokens or elements.
        compared: the output that was compared and what with, such as `('logits', 'labels')`; empty for functions of users.
        figure: from sums over samples of totals and weights to the figure.
    """

    metric: str
    value: float
    samples: int
    predictions: NDArray[np.int64] = field(repr=False)
    title: str = ""
    unit: Unit = "plain"
    higher_is_better: bool = True
    totals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    compared: tuple[str, str] = ("", "")
    figure: Callable[[Any, Any], Any] = field(default=lambda total, weight: total / weight, repr=False)

    def agreement(self, other: Score) -> float | None:
        """Percent of samples for which both models predict the same class; None without classes."""
        same = self._same(other)
        return None if same is None else float(same.mean() * 100)

    def change(self, after: Score) -> Change:
        """What lies between this score and one of another model on the same samples."""
        same = self._same(after)
        return Change(
            after.value - self.value,
            self._interval(after),
            mcnemar(self.totals > 0, after.totals > 0) if self._is_share and after._is_share else None,
            None if same is None else float(same.mean() * 100),
            None if same is None else _percent(share(same)),
        )

    @property
    def _is_share(self) -> bool:
        """Each sample is right or wrong."""
        right = self.unit == "percent" and self.totals.size and np.isin(self.totals, (0, 1)).all()
        return bool(right and (self.weights == 1).all())

    def _interval(self, after: Score) -> Interval | None:
        if not self.totals.size or self.totals.shape != after.totals.shape:
            return None
        if self._is_share and after._is_share:
            return _percent(difference_of_shares(self.totals > 0, after.totals > 0))
        return difference_of_ratios((self.totals, self.weights), (after.totals, after.weights), self.figure)

    def _same(self, other: Score) -> NDArray[np.bool_] | None:
        if not len(self.predictions) or len(self.predictions) != len(other.predictions):
            return None
        return np.equal(self.predictions, other.predictions)


def _percent(found: Interval) -> Interval:
    return Interval(found.low * 100, found.high * 100, found.method)


@dataclass(frozen=True)
class Change:
    """Of a figure, from one model to another on the same samples; in points where the figure is in percent.

    Attributes:
        value: after minus before.
        interval: 95 % confidence interval of the change, from the differences of single samples; None where the figure is no
            mean over samples.
        p_value: of McNemar's exact test, where each sample is right or wrong.
        agreement: percent of samples with the same predicted class; None without classes.
        agreement_interval: 95 % interval of the agreement.
    """

    value: float
    interval: Interval | None = None
    p_value: float | None = None
    agreement: float | None = None
    agreement_interval: Interval | None = None

    @property
    def within_noise(self) -> bool | None:
        """No change at all is within the interval; None without interval."""
        return None if self.interval is None else self.interval.low <= 0 <= self.interval.high
