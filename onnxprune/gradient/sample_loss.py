"""The loss of each sample of a batch, and its gradient with respect to the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples, digests
from onnxprune.gradient.loss import Loss

Array = NDArray[Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Target:
    """What one output of one sample is held against.

    Attributes:
        label: see `Loss.draw`.
        counted: tokens that are no padding `(T,)`; None: all.
    """

    label: Array
    counted: Array | None


@dataclass(frozen=True)
class SampleLoss:
    """Losses of samples, summed over outputs.

    Attributes:
        parts: one for each output.
        samples: with labels, or without: then they are drawn.
        seed: of the draws. Those of a sample follow from its content, so that order and batches do not matter.
        batched: the first axis of outputs counts samples; else a run is one sample.
    """

    parts: Sequence[Loss]
    samples: Samples
    seed: int
    batched: bool

    def count(self, batch: Batch) -> int:
        """Samples in a run that count."""
        return batch.count if self.batched else 1

    def targets(self, outputs: Outputs, batch: Batch, start: int) -> list[list[Target]]:
        """For each sample, for each part of the loss what it is held against.

        Args:
            outputs: of the dense model.
            batch: what it was fed.
            start: number of the first sample of the batch.
        """
        marks = digests(batch)
        return [
            [
                self._target(n, self._row(outputs, p.output, k), batch, k, start + k, marks[k] if self.batched else marks[0])
                for n, p in enumerate(self.parts)
            ]
            for k in range(self.count(batch))
        ]

    def _target(self, n: int, y: Array, batch: Batch, k: int, sample: int, mark: int) -> Target:
        loss, counted = self.parts[n], None
        if self.batched and self.samples.mask is not None and loss.kind == "tokens":
            mask = batch.feeds[self.samples.mask][k]
            counted = np.asarray(mask != 0) if mask.shape == y.shape[:1] else None
        if self.samples.labels is not None:
            return Target(np.asarray(self.samples.labels[sample]), counted)
        return Target(loss.draw(y, np.random.default_rng([self.seed, n, mark])), counted)

    def seeds(self, outputs: Outputs, targets: Sequence[Sequence[Target]]) -> dict[str, Array]:
        """Gradient of the sum of all samples' losses with respect to each output; zeros for samples that do not count."""
        result = {}
        for n, loss in enumerate(self.parts):
            y = outputs[loss.output]
            seed = np.zeros(y.shape, np.float64 if y.dtype == np.float64 else np.float32)
            for k, own in enumerate(targets):
                found = loss.seed(self._row(outputs, loss.output, k), own[n].label, own[n].counted)
                seed[k if self.batched else ...] = found
            result[loss.output] = seed
        return result

    def values(self, outputs: Outputs, targets: Sequence[Sequence[Target]]) -> NDArray[np.float64]:
        """The loss of each sample `(S,)`."""
        return np.array(
            [
                sum(
                    p.value(self._row(outputs, p.output, k), t.label, t.counted)
                    for p, t in zip(self.parts, own, strict=True)
                )
                for k, own in enumerate(targets)
            ]
        )

    def _row(self, outputs: Outputs, name: str, k: int) -> Array:
        return np.asarray(outputs[name][k]) if self.batched else outputs[name]
