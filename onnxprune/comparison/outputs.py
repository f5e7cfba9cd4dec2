"""How far two models' values of one output are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.metrics.paired import Interval, difference_of_ratios, share
from onnxprune.report.fidelity import Likeness, Worst

Array = NDArray[Any]

DEFAULT_ATOL = 1e-5


@dataclass(frozen=True)
class Tolerance:
    """An element may differ by `atol + rtol * |a|`, where `a` is that of the first model, as in `numpy.isclose`."""

    rtol: float
    atol: float


@dataclass
class OutputDifference:
    """Of one output; samples are rows of its first axis, whole runs where the models have no batch axis.

    Attributes:
        output: its name in the first model.
        other: its name in the second model.
        samples: how many were compared.
        max_abs: largest difference of two elements.
        max_rel: largest difference over the largest magnitude of the sample's output.
        relative_error: Frobenius norm of the difference over that of the first model's output.
        cosine: mean cosine between both outputs of a sample; None for outputs that are no floats.
        equal: share of elements that are the same.
        top_k: of how many largest elements `agreement` speaks.
        agreement: share of samples whose k largest elements `(N, classes)` are the same, of positions where `class_axis`
            was given; None for other outputs.
        interval: 95 % interval of the agreement: Wilson's, for positions a bootstrap over samples; None for one sample.
        tolerance: that was asked for.
        outside: share of the elements beyond it; None where there is none.
        worst: samples that are farthest apart.
        message: why there is nothing to compare; empty where there is.
    """

    output: str
    other: str
    samples: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    relative_error: float = 0.0
    cosine: float | None = None
    equal: float = 1.0
    top_k: int = 1
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    tolerance: Tolerance | None = None
    outside: float | None = None
    worst: list[Worst] = field(default_factory=list)
    message: str = ""

    @property
    def passed(self) -> bool | None:
        """Every element is within the tolerance; None where there is none."""
        if self.tolerance is None:
            return None
        return not self.message and self.outside == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "passed": self.passed}


class Differences:
    """Collects both values of one output.

    Args:
        output: name in the first model.
        other: name in the second.
        tolerance: of elements.
        top_k: see `OutputDifference`.
        class_axis: axis of scores; None: the second one of outputs `(N, classes)`, and none of others.
    """

    def __init__(
        self, output: str, other: str, tolerance: Tolerance | None, top_k: int, class_axis: int | None = None
    ) -> None:
        self.output, self.tolerance, self.top_k, self.class_axis = output, tolerance, top_k, class_axis
        self.found = OutputDifference(output, other, tolerance=tolerance, top_k=top_k)
        self.likeness = Likeness()
        self.agreed: list[NDArray[np.bool_]] = []  # (samples, positions), raveled
        self.positions: list[NDArray[np.int64]] = []  # of each sample
        self.elements = self.same = self.beyond = 0
        self.errors: dict[int, float] = {}

    def add(self, batch: Batch, a: Any, b: Any) -> None:
        """Takes in the values of one run."""
        found = self.found
        a, b = _flat(a), _flat(b)
        if a.shape != b.shape or (a.dtype.kind in "fc") != (b.dtype.kind in "fc"):
            found.message = found.message or f"{b.dtype} {list(b.shape)} instead of {a.dtype} {list(a.shape)}"
            return
        rows = a.ndim > 0 and len(a) >= batch.count
        count = batch.count if rows else 1
        a, b = (a[:count], b[:count]) if rows else (a[None], b[None])
        places = batch.samples[:count] if len(batch.samples) else np.arange(found.samples, found.samples + count)
        found.samples += count
        self.elements += a.size
        if a.dtype.kind not in "fiub":  # texts
            self._note(places, (a != b).reshape(count, -1).any(1).astype(np.float64))
            self.same += int((a == b).sum())
            self.beyond += int((a != b).sum())
            return
        self._numbers(Batch({}, count, places), a.astype(np.float64), b.astype(np.float64), floats=a.dtype.kind == "f")

    def _numbers(self, batch: Batch, a: Array, b: Array, *, floats: bool) -> None:
        found, count = self.found, batch.count
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        a, b = (np.where(same & ~np.isfinite(v), 0.0, v) for v in (a, b))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(a - b))
        apart = np.where(np.isnan(apart), np.inf, apart).reshape(count, -1)
        scale = np.abs(np.nan_to_num(a, posinf=0.0, neginf=0.0)).reshape(count, -1).max(1, initial=0.0)
        largest = apart.max(1, initial=0.0)
        self._note(batch.samples, np.divide(largest, scale, out=largest.copy(), where=scale > 0))
        found.max_abs = max(found.max_abs, float(largest.max(initial=0.0)))
        self.same += int(same.sum())
        if self.tolerance:
            bound = self.tolerance.atol + self.tolerance.rtol * np.abs(np.nan_to_num(a)).reshape(count, -1)
            self.beyond += int((apart > bound).sum())
        if floats:
            self.likeness.add(batch, {self.output: a}, {self.output: b})
            self._agree(a, b)

    def _agree(self, a: Array, b: Array) -> None:
        """Takes in which classes are the largest."""
        axis = self.class_axis if self.class_axis is not None else 1 if a.ndim == 2 else None
        if axis is None or not -a.ndim < axis < a.ndim or axis == 0 or a.shape[axis] <= self.top_k:
            return
        rows = [np.moveaxis(v, axis, -1).reshape(-1, v.shape[axis]) for v in (a, b)]
        self.agreed.append(_same_largest(rows[0], rows[1], self.top_k))
        self.positions.append(np.full(len(a), len(rows[0]) // max(len(a), 1)))

    def _note(self, places: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        self.errors.update(zip(places.tolist(), errors.tolist(), strict=True))
        self.found.max_rel = max(self.found.max_rel, float(errors.max(initial=0.0)))

    def result(self, samples: Samples) -> OutputDifference:
        """The figures.

        Args:
            samples: where the batches came from.
        """
        found = self.found
        found.equal = self.same / self.elements if self.elements else 1.0
        found.outside = None if self.tolerance is None else self.beyond / self.elements if self.elements else 0.0
        order = sorted(self.errors, key=lambda k: (-self.errors[k], k))[:5]
        found.worst = [Worst(k, self.errors[k], samples.name(k)) for k in order if self.errors[k] > 0]
        likeness = next(iter(self.likeness.result(samples)), None)
        if likeness:
            found.relative_error, found.cosine = likeness.relative_error, likeness.cosine
        if self.agreed:
            same, positions = np.concatenate(self.agreed), np.concatenate(self.positions)
            found.agreement, ends = float(same.mean()), _interval(same, positions)
            found.interval = None if ends is None else (ends.low, ends.high)
        return found


def _flat(value: Any) -> Array:
    """Sequences of tensors end to end, as one row; maps of samples (probabilities by class) as rows `(N, keys)`."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return np.array([[v[k] for k in sorted(v)] for v in value])
    if isinstance(value, list) and value and all(isinstance(v, np.ndarray) for v in value):
        return np.concatenate([v.ravel() for v in value])[None]
    return np.asarray(value)


def _interval(same: NDArray[np.bool_], positions: NDArray[np.int64]) -> Interval | None:
    """Of a share of samples, or of positions: those of one sample are not independent, so samples are drawn."""
    if (positions == 1).all():
        return share(same)
    weights = positions.astype(np.float64)
    agreed = np.add.reduceat(same.astype(np.float64), np.cumsum(positions) - positions)
    return difference_of_ratios((np.zeros_like(weights), weights), (agreed, weights), lambda total, weight: total / weight)


def _same_largest(a: Array, b: Array, k: int) -> NDArray[np.bool_]:
    """Whether the k largest elements of each row are the same ones."""
    if k == 1:
        return np.asarray(a.argmax(1) == b.argmax(1))
    one, other = (np.sort(np.argsort(-v, axis=1, kind="stable")[:, :k], axis=1) for v in (a, b))
    return np.asarray((one == other).all(1))


def farthest(differences: Mapping[str, Differences]) -> dict[int, float]:
    """Largest relative difference of each sample over all outputs."""
    found: dict[int, float] = {}
    for each in differences.values():
        for sample, error in each.errors.items():
            found[sample] = max(found.get(sample, 0.0), error)
    return found
