"""What the caller of `prune` asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import onnx

from onnxprune.budget.targets import Target
from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.labels import with_labels
from onnxprune.errors import UsageError
from onnxprune.latency.timing import Timing
from onnxprune.pipeline.drop import Scorer
from onnxprune.pipeline.stages import Shapes
from onnxprune.recover.solve import Mode
from onnxprune.select.allocate import Options


@dataclass(frozen=True)
class Request:
    """Options of `onnxprune.prune`, which tells what they mean.

    Attributes:
        options: what goes.
    """

    options: Options
    target: Sequence[Target]
    width: bool
    data: Any
    samples: int
    mask: str | None
    labels: Sequence[int] | None
    reconstruct: Mode | None
    merge: bool
    lossless: bool
    memory: int
    providers: Sequence[str]
    resume: str | os.PathLike[str] | None
    shapes: Shapes | None
    check: bool
    seed: int
    closest: bool = False
    scorer: Scorer | None = None
    timing: Timing = field(default_factory=Timing)
    depth: bool = False
    low_rank: bool = False

    def __post_init__(self) -> None:
        if self.lossless and self.data is not None:
            raise UsageError("lossless removes what provably does nothing: there is nothing to learn from data")
        if self.lossless and self.merge:
            raise UsageError("lossless removes what provably does nothing: there is nothing to merge")
        if self.scorer is None and any(t.quantity == "drop" for t in self.target):
            raise UsageError("target drop is about a metric: give data to evaluate on")
        if self.closest and not self.target:
            raise UsageError("closest is about a target, and there is none")
        if self.depth and (not self.target or self.options.ranking != "knapsack" or self.data is None):
            raise UsageError(
                "depth lets the knapsack choose which blocks go: give a target and samples, with a criterion that knows "
                "what each width loses (obs, fisher), and no other ranking"
            )
        if self.low_rank and (self.options.ranking != "knapsack" or not self.target or self.data is None):
            raise UsageError("low_rank is a choice of the knapsack: it needs a target, samples, and the ranking knapsack")
        if self.low_rank and self.merge:
            raise UsageError("low_rank and merge exclude each other: what a pair lacks is made up for by the fit")
        if self.reconstruct not in (None, *get_args(Mode)):
            raise UsageError(f"reconstruct {self.reconstruct!r} is none of {', '.join(get_args(Mode))}")

    @property
    def fits(self) -> bool:
        """Weights are fitted where there are samples."""
        return self.reconstruct != "none"

    def read(self, source: onnx.ModelProto) -> Samples | None:
        """The calibration samples, if there are any.

        Raises:
            ModelError: they can't be read, or don't fit the model.
        """
        if self.data is None:
            return None
        return read(self.data, source, self.samples, self.mask, self.shapes, self.seed, self.labels)


def read(
    data: Any,
    source: onnx.ModelProto,
    samples: int,
    mask: str | None,
    shapes: Shapes | None,
    seed: int,
    labels: Sequence[int] | None = None,
) -> Samples:
    """Samples in any form; `synthetic` for random ones."""
    if isinstance(data, Samples):
        return data if labels is None else with_labels(data, labels)
    from onnxprune.calibrate.read import read_samples

    given = None if isinstance(data, str) and data == "synthetic" else data
    return read_samples(given, source, samples=samples, mask=mask, labels=labels, shapes=shapes, seed=seed)
