"""A score on evaluation data, before and after, as files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.report.tables import percent as share_of

_TITLES = {"accuracy": "top-1 accuracy", "top5": "top-5 accuracy", "mse": "mean squared error"}


@dataclass(frozen=True)
class Evaluated:
    """What a metric says of two models on the same samples.

    Attributes:
        title: of the metric.
        data: in words.
        percent: figures are in percent, changes in points.
        higher_is_better: a larger figure is a better model.
        before: of the source; None where it was infinite.
        after: of the other model; None where it could not be had.
        failed: why not.
        interval: 95 % interval of the change; None where the figure is no mean over samples.
        method: of the interval.
        p_value: of McNemar's test; None where samples are not right or wrong.
        seen: evaluation samples that were calibrated on; None where that is not known.
    """

    title: str
    data: str
    percent: bool
    higher_is_better: bool
    before: float | None
    after: float | None
    failed: str
    interval: tuple[float, float] | None
    method: str
    p_value: float | None
    seen: int | None

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Evaluated | None:
        """From the `evaluation` of a file; None where there is none."""
        if data is None:
            return None
        change = data["change"] or {}
        ends = change.get("interval") or {}
        low, high = ends.get("low"), ends.get("high")
        return cls(
            title=data.get("title") or _TITLES.get(data["metric"], data["metric"]),
            data=data["data"],
            percent=data["unit"] == "percent",
            higher_is_better=data["higher_is_better"],
            before=data["before"],
            after=data["after"],
            failed=data["failed"],
            interval=None if low is None or high is None else (low, high),
            method=ends.get("method", ""),
            p_value=change.get("p_value"),
            seen=data.get("samples_used_for_calibration"),
        )

    @property
    def verdict(self) -> str:
        """`worse`, `better`, `within noise`; empty without an interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        return "better" if (low > 0) == self.higher_is_better else "worse"

    @property
    def figures(self) -> str:
        """Such as `93.30 % before, 91.70 % after`."""
        told = [
            f"{score_text(v, self.percent)} {when}"
            for v, when in ((self.before, "before"), (self.after, "after"))
            if v is not None
        ]
        return ", ".join(told)

    @property
    def change(self) -> str:
        """Such as `-1.60 points`."""
        if self.before is None or self.after is None:
            return "not measured"
        return self._difference(self.after - self.before) + (" points" if self.percent else "")

    @property
    def ends(self) -> str:
        """The interval of the change, such as `95 % interval -2.40 to -0.79`."""
        if self.interval is None:
            return "no interval"
        low, high = (self._difference(end) for end in self.interval)
        return f"95 % interval {low} to {high}"

    def _difference(self, value: float) -> str:
        if self.percent:
            return f"{value:+.2f}"
        if self.before and self.before > 0 and not self.higher_is_better:
            return share_of(self.before, self.before + value)
        return f"{value:+.3g}"


def share_text(share: float, digits: int = 1) -> str:
    """A share 0..1 in percent."""
    return f"{share * 100:.{digits}f} %"


def confidence_text(confidence: float) -> str:
    """Of an interval, such as `99 %`."""
    return f"{confidence * 100:.4g} %"


def score_text(value: float, percent: bool) -> str:
    """A figure in its unit."""
    return f"{value:.2f} %" if percent else f"{value:.4g}"
