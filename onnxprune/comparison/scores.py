"""What both models reach on evaluation data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.calibrate.batch import Batch
from onnxprune.comparison.pair import Pair
from onnxprune.errors import OnnxPruneError
from onnxprune.metrics.data import EvalData
from onnxprune.report.evaluate import Tally
from onnxprune.report.evaluation import Evaluation


class Scores:
    """Both models on evaluation data, one batch after the other.

    Args:
        pair: both models.
        data: fitted to the first one.
    """

    def __init__(self, pair: Pair, data: EvalData) -> None:
        self.data, self.failed = data, ""
        self.tallies = [Tally(data, side.name) for side in (pair.first, pair.second)]

    def add(self, batch: Batch, *outputs: Mapping[str, Any]) -> None:
        """Takes in a batch. What is wrong with the first model is raised, with the second one noted."""
        self.tallies[0].add(batch, outputs[0])
        if not self.failed:
            try:
                self.tallies[1].add(batch, outputs[1])
            except OnnxPruneError as error:
                self.failed = str(error)

    def result(self) -> Evaluation | None:
        """None where nothing was run."""
        if self.tallies[0].metric is None:
            return None
        data = self.data
        origin = f"{data.count:,} runs of {data.origin}" if data.whole else data.samples.origin
        found = Evaluation(origin, self.tallies[0].score(), failed=self.failed, note=data.note)
        if not self.failed:
            try:
                found.after = self.tallies[1].score()
            except OnnxPruneError as error:
                found.failed = str(error)
        return found
