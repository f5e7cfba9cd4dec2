"""Latency as something to spend; see `onnxprune.budget.costs.Cost`."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.budget.axes import Axes
from onnxprune.budget.costs import Levels, Widths
from onnxprune.groups.classes import Mask
from onnxprune.latency.figures import LatencyFigures, TableFigures
from onnxprune.latency.measure import Comparison
from onnxprune.latency.table import Table
from onnxprune.latency.timing import Timing
from onnxprune.statistics.providers import short

Floats = NDArray[np.float64]


class Latency:
    """Milliseconds of one run.

    Args:
        table: fitted.
        axes: that its lengths are of.
        comparison: of pruned models with the source.
        timing: what was asked for.
    """

    name = "latency"
    unit = "ms"
    tolerance = 0.03

    def __init__(self, table: Table, axes: Axes, comparison: Comparison, timing: Timing, gone: Container[str] = ()) -> None:
        self.of_table, self.comparison, self._axes, self._timing = table, comparison, axes, timing
        self._pieces = [k for k, work in enumerate(table.works) if work.tensor not in gone]
        self.dense = table.dense
        self._of_group: dict[str, list[int]] = {}
        for k in self._pieces:
            for g in table.works[k].groups:
                self._of_group.setdefault(g, []).append(k)

    def total(self, widths: Widths) -> float:
        """Of the whole model; that of the source is what was measured."""
        gone = self._axes.gone(widths)
        return sum(self.of_table.piece(k, gone) for k in self._pieces)

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """Total by the width of one group at a time."""
        gone = self._axes.gone(widths)
        now = {k: self.of_table.piece(k, gone) for k in self._pieces}
        result = {}
        for group, kept in levels.items():
            counts = self._axes.units[group] - kept
            own = self._of_group.get(group, [])
            changes = [self.of_table.along(k, group, gone, counts) - now[k] for k in own]
            result[group] = np.asarray(sum(now.values()) + sum(changes, np.zeros(len(kept))), np.float64)
        return result

    def without(self, gone: Container[str]) -> Latency:
        """The same without the pieces that begin with some tensors; what is measured is measured all the same."""
        found = Latency(self.of_table, self._axes, self.comparison, self._timing, gone)
        found.dense = self.dense
        return found

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """Of a pruned model: the source's time, by the share of it that the model takes side by side.

        Raises:
            ModelError: ONNX Runtime can't run it.
        """
        return self.comparison.share(model) * self.dense

    def against(self, other: Latency) -> None:
        """From now on models are measured beside the source of another table."""
        self.comparison, self.dense = other.comparison, other.dense

    def of_source(self) -> TableFigures:
        """What stands behind the table, and how well it foretells the whole model."""
        table, runtime = self.of_table, self.comparison.runtime
        return TableFigures(
            dense_ms=self.dense,
            samples=table.check.samples,
            median_error=table.check.error,
            worst_error=table.check.worst,
            pieces=table.check.pieces,
            timed=len(set(table.kinds)),
            untimed=table.untimed,
            measured_now=table.measured,
            cache=table.cache,
            steps=dict(table.steps),
            provider=short(runtime.providers.chosen[0][0]),
            threads=runtime.threads,
            batch=self._timing.batch,
            inputs={name: array.shape for name, array in self.comparison.feeds.items()},
        )

    def figures(self, widths: Widths, measured: float) -> LatencyFigures:
        """What the table says about a result, and what was measured.

        Args:
            widths: of the result.
            measured: what `measure` said about it.
        """
        modelled = self.total(widths)
        return LatencyFigures(
            **vars(self.of_source()), modelled_ms=modelled, measured_ms=measured, error=modelled / measured - 1
        )
