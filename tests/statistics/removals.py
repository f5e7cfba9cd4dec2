"""How far the outputs move when units are gone and nothing makes up for them: runs of the gated model, no gradients.

One session serves all: units are put to 0 by its inputs, so that hundreds of removals cost hundreds of runs and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.signature import signature
from onnxprune.gradient.loss import Loss, losses
from onnxprune.groups.group import Groups
from onnxprune.statistics.gates import GatedModel

Removal = Mapping[str, Sequence[Sequence[int]]]  # group id -> positions in each bucket
_LEAST = 1e-12  # a probability


@dataclass(frozen=True)
class Change:
    """What a removal does to the outputs, over all samples.

    Attributes:
        relative_error: squared distance from the dense outputs over their squared norm, the mean over outputs.
        divergence: Kullback-Leibler divergence of the outputs' classes from those of the dense model in nats, the mean over
            samples (the sum over tokens and outputs); None where no output is one of classes.
    """

    relative_error: float
    divergence: float | None


def least_important(groups: Groups, scores: Sequence[Sequence[NDArray[np.float64]]], share: float) -> dict[str, Removal]:
    """For each group the removal of a share of its units, those of the lowest score, rounded down.

    Args:
        groups: an analysis.
        scores: importances as criteria return them.
        share: of the units of a group, 0 <= share < 1.
    """
    result: dict[str, Removal] = {}
    for group, own in zip(groups.groups, scores, strict=True):
        count = int(group.units * share + 1e-9)
        result[group.id] = {group.id: [np.argsort(s, kind="stable")[:count].tolist() for s in own]}
    return result


def removal_changes(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    removals: Sequence[Removal],
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> list[Change]:
    """What each removal does to the outputs, by itself.

    Args:
        model: that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        removals: of units. Units whose channels end in bodies of control flow can't be removed this way
            (`GatedModel.known`).
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
        UsageError: no output is of floats.
    """
    gated, batched = GatedModel(model, groups), signature(model).batched
    run, feeds = gated.open(), [gated.without(r) for r in removals]
    parts: list[Loss] = []
    sums: list[_Sums] = []
    for b, batch in enumerate(samples.batches):
        progress("removals", b / len(samples.batches))
        dense = run(batch.feeds, {})
        if not parts:
            length = len(next(iter(batch.feeds.values()))) if batched else 1
            parts = losses(model, dense, length, None, batched=batched)
            sums = [_Sums(parts) for _ in removals]
        count = batch.count if batched else None
        for own, gates in zip(sums, feeds, strict=True):
            own.add(dense, run(batch.feeds, gates), count)
    return [own.change() for own in sums]


class _Sums:
    """Sums over samples, for each output."""

    def __init__(self, parts: Sequence[Loss]) -> None:
        self.parts = parts
        self.moved, self.norm, self.divergence = (np.zeros(len(parts)) for _ in range(3))
        self.samples = 0

    def add(self, dense: Mapping[str, NDArray[Any]], pruned: Mapping[str, NDArray[Any]], count: int | None) -> None:
        """One batch, of which the first `count` samples count; None: the run is one sample."""
        self.samples += 1 if count is None else count
        for n, loss in enumerate(self.parts):
            a, b = (np.asarray(found[loss.output][:count], np.float64) for found in (dense, pruned))
            self.moved[n] += np.square(a - b).sum()
            self.norm[n] += np.square(a).sum()
            if loss.kind != "values":
                p, q = (np.maximum(loss.distribution(y), _LEAST) for y in (a, b))
                self.divergence[n] += (p * np.log(p / q)).sum()

    def change(self) -> Change:
        """Over all that was added."""
        relative = float((self.moved / np.maximum(self.norm, _LEAST)).mean())
        if all(p.kind == "values" for p in self.parts):
            return Change(relative, None)
        return Change(relative, float(self.divergence.sum() / max(self.samples, 1)))
