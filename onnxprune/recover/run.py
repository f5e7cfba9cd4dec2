"""What fits of anything but linear nodes share: both models in mid-run, and rows that fit or judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples, batch_size
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.solve import Mode
from onnxprune.statistics.channels import counted_rows
from onnxprune.statistics.linear import Dense
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.stream import Stream
from onnxprune.trace.value import Value

Array = NDArray[Any]


class Run(Protocol):
    """State of a reconstruction.

    Attributes:
        groups: analysis of the source.
        alive: for each label whether it stays.
        samples: calibration samples.
        mode: how far fits go.
        dense: the source in mid-run.
        pruned: the pruned model in mid-run, with all weights fitted so far.
    """

    groups: Groups
    alive: Mask
    samples: Samples
    mode: Mode
    dense: Stream
    pruned: Stream

    @property
    def values(self) -> Mapping[str, Value]:
        """What the trace knows of each tensor of the source."""

    @property
    def judges(self) -> list[NDArray[np.bool_]]:
        """For each batch which of its samples judge."""

    def weight(self, name: str) -> Array:
        """A stored tensor as it is by now."""


class Sides:
    """Moments of rows that fit, and of rows that judge.

    Args:
        run: which samples judge, and which rows count.
        groups: G.
        k: K.
        m: M.
    """

    def __init__(self, run: Run, groups: int, k: int, m: int) -> None:
        self.run = run
        self.train, self.held = (Moments.empty(groups, k, m) for _ in range(2))

    def add(self, index: int, batch: Batch, rows: Array, wanted: Array, tensor: Array, chosen: Array, form: Dense) -> None:
        """Takes rows `(N, P, G, K)` of a tensor, and what they should give `(N, P, G, M)`."""
        counted = counted_rows(batch, self.run.samples.mask, tensor, chosen, form)
        judged = by_row(self.run.judges[index], batch, len(rows))
        for part, moments in ((~judged, self.train), (judged, self.held)):
            use = counted & part[:, None]
            if use.any():
                moments.add(Moments.of(rows[use], wanted[use]))

    def result(self) -> tuple[Moments, Moments]:
        """Moments for fitting and for judging; without rows for the former, the latter are taken for both.

        Raises:
            ModelError: a row held NaN or infinity.
        """
        self.train.check_finite()
        self.held.check_finite()
        return (self.train, self.held) if self.train.rows else (self.held, self.train)


def by_row(judges: NDArray[np.bool_], batch: Batch, rows: int) -> NDArray[np.bool_]:
    """Which rows of a tensor are of samples that judge, where a sample has several of them or positions come first."""
    return np.resize(np.repeat(judges, max(rows // batch_size(batch), 1)), rows)
