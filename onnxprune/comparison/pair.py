"""Two models that run on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.comparison.sides import Interface, Side, Whole
from onnxprune.errors import ModelError
from onnxprune.statistics.providers import Providers

_NOISE = 1e-4  # relative error of outputs that is no reason to search
_NARROW_NOISE = 5e-3  # the same where one of the models computes in half precision


@dataclass
class Pair:
    """Both models, ready to run.

    Attributes:
        first: that is compared with.
        second: the other one.
        between: inputs and outputs that belong together.
        providers: that both run on.
        batched: the first axis of all inputs counts samples.
    """

    first: Side
    second: Side
    between: Interface
    providers: Providers
    batched: bool
    failed: str = ""
    runs: list[Whole] = field(default_factory=list)

    def open(self) -> None:
        """Opens sessions; a second model that is refused is noted in `failed`."""
        outputs = self.between.outputs
        known = {n: n for n in self.first.flow.inputs}
        self.runs = [Whole(self.first, known, {n: n for n in outputs}, self.providers)]
        try:
            self.runs.append(Whole(self.second, self.between.inputs, outputs, self.providers))
        except ModelError as error:
            self.failed = str(error).removeprefix(f"{self.second.name}: ")

    def outputs(
        self, samples: Samples, wanted: Callable[[int, Batch], bool] = lambda k, batch: True
    ) -> Iterator[tuple[int, Batch, dict[str, Any], dict[str, Any]]]:
        """Batches with their numbers, and what both models compute for them; ends where the second model fails.

        Args:
            samples: that they are run on.
            wanted: whether a batch is run.

        Raises:
            ModelError: the first model can't be run on the samples.
        """
        for k, batch in enumerate(samples.batches):
            if not wanted(k, batch):
                continue
            try:
                ours = self.runs[0](batch.feeds)
            except RuntimeError as error:
                raise ModelError(f"{self.first.name}: can't run on {samples.origin} ({error})") from error
            try:
                theirs = self.runs[1](batch.feeds) if len(self.runs) > 1 else {}
            except RuntimeError as error:
                self.failed = str(error)
                theirs = {}
            if not theirs:
                return
            yield k, batch, ours, theirs

    def sample(self, k: int, batch: Batch) -> Batch:
        """A batch as samples: one run is one of them where the models have no batch axis."""
        return batch if self.batched else Batch(batch.feeds, 1, np.array([k]), batch.extras)

    def places(self, k: int, batch: Batch) -> list[int]:
        """Positions in the data of the samples of a batch."""
        own = self.sample(k, batch)
        return [int(i) for i in own.samples] if len(own.samples) else list(range(own.count))

    @property
    def noise(self) -> float:
        """Relative error of outputs that rounding explains."""
        return _NARROW_NOISE if any(side.narrow or _has_halves(side) for side in (self.first, self.second)) else _NOISE


def _has_halves(side: Side) -> bool:
    kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(t.data_type in kinds for t in side.flow.initializers.values())
