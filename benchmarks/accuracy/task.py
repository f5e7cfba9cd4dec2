"""What a task is: a dense model, calibration data, an evaluation that the calibration never sees, and settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from third_party import fetch

Array = NDArray[Any]
Feeds = dict[str, Array]
Outputs = dict[str, Array]
Figures = dict[str, float]


@dataclass(frozen=True)
class Target:
    """A bound that a deployment would set: `figure` at most (`<=`) or at least (`>=`) `bound`."""

    figure: str
    relation: str
    bound: float

    def met(self, figures: Mapping[str, float]) -> bool:
        """Whether the figures hold it."""
        value = figures[self.figure]
        return value <= self.bound if self.relation == "<=" else value >= self.bound


@dataclass(frozen=True)
class Setting:
    """One way to prune a task's model.

    Attributes:
        name: for the table.
        options: of `onnxprune.prune`; `ratio` is the peers' sparsity too.
        macs: share of the multiply-accumulates that stays; the ratio that reaches it is searched.
        latency: the same of the latency at one thread, measured where the benchmark runs; for those who take a target.
        inner: residual streams keep their width; for peers that take no names, the sums are made graph outputs meanwhile.
        targets: what a deployment would ask for.
        contestants: globs of those that are measured.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    macs: float | None = None
    latency: float | None = None
    inner: bool = True
    targets: tuple[Target, ...] = ()
    contestants: tuple[str, ...] = ("*",)

    @property
    def target(self) -> dict[str, float]:
        """By quantity the share that stays; empty where a ratio says what goes."""
        known = {"macs": self.macs, "latency": self.latency}
        return {quantity: share for quantity, share in known.items() if share is not None}


def latencies(name: str, options: Mapping[str, Any], *shares: float, inner: bool = True) -> tuple[Setting, ...]:
    """The same at several shares of the latency, for fronts."""
    return tuple(
        Setting(f"{name}{share * 100:.0f} % of the latency", options, latency=share, inner=inner, contestants=RANKINGS)
        for share in shares
    )


RANKINGS = ("uniform", "knapsack", "global", "isomorphic", "global-l2")  # contestants that differ in widths alone


class Task(ABC):
    """One model on one data set.

    Attributes:
        name: on the command line and in the results.
        title: for the report, with the data it is measured on.
        metric: the task's own figure, a key of `figures`.
        shown: further figures of the table.
        settings: ways to prune it.
        shapes: of the inputs, at which multiply-accumulates are counted.
        mask: input that marks padding, "" where there is none.
        samples: calibration samples.
        few: a smaller number of them, measured with the first seed only; 0 for none.
        seeds: how many subsets of the calibration data are measured.
        batch: calibration samples to a batch.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"
    shown: ClassVar[tuple[str, ...]] = ("drop", "agreement")
    settings: ClassVar[tuple[Setting, ...]] = ()
    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    mask: ClassVar[str] = ""
    samples: ClassVar[int] = 512
    few: ClassVar[int] = 128
    seeds: ClassVar[int] = 3
    batch: ClassVar[int] = 32

    def model(self) -> Path:
        """Path of the dense model."""
        return fetch(self.name)

    @abstractmethod
    def pool(self) -> Feeds:
        """All calibration samples: input -> `(samples, ...)`; disjoint from the evaluation."""

    @abstractmethod
    def outputs(self, session: ort.InferenceSession) -> Outputs:
        """What the evaluation keeps of a model's outputs."""

    @abstractmethod
    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        """The task's figures, and those that compare sample by sample with the dense model."""

    def data(self) -> dict[str, str]:
        """Package -> version, of the data."""
        return {}

    def calibration(self, samples: int, seed: int) -> list[Feeds]:
        """Batches of a random subset of the pool, the same for every contestant."""
        pool = self.pool()
        size = len(next(iter(pool.values())))
        rows = np.random.default_rng(seed).permutation(size)[:samples]
        return [self.trim({k: v[part] for k, v in pool.items()}) for part in batches(rows, self.batch)]

    def trim(self, feeds: Feeds) -> Feeds:
        """A batch without what no sample of it needs."""
        return feeds


def batches(values: Array, size: int) -> list[Array]:
    """The array in parts of at most `size` along its first axis."""
    return [values[i : i + size] for i in range(0, len(values), size)]


def classification(logits: Array, labels: list[list[int]] | Array, dense: Array) -> Figures:
    """Figures of a classifier in percent; `labels` are the right classes of each sample, of which one counts.

    `cosine` is the mean over the samples, of logits less their mean.
    """
    right = [np.atleast_1d(each) for each in labels]
    order, was = np.argsort(-logits, axis=1, kind="stable"), np.argsort(-dense, axis=1, kind="stable")
    top1 = [float(np.isin(row[0], each)) for row, each in zip(order, right, strict=True)]
    top5 = [float(np.isin(row[:5], each).any()) for row, each in zip(order, right, strict=True)]
    before = [float(np.isin(row[0], each)) for row, each in zip(was, right, strict=True)]
    return {
        "accuracy": 100 * float(np.mean(top1)),
        "top5": 100 * float(np.mean(top5)),
        "drop": 100 * float(np.mean(before) - np.mean(top1)),
        "agreement": 100 * float((order[:, 0] == was[:, 0]).mean()),
        "cosine": cosine(logits - logits.mean(1, keepdims=True), dense - dense.mean(1, keepdims=True)),
    }


def cosine(a: Array, b: Array) -> float:
    """Mean cosine of the rows."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(norms, 1e-30)).mean())
