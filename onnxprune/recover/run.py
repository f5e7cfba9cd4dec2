"""Both models in mid-run: what every fit of a reconstruction looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Samples, held_out
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.solve import Mode
from onnxprune.statistics.stream import Stream, View
from onnxprune.trace.value import Value

Array = NDArray[Any]


@dataclass
class Run:
    """Both models in mid-run.

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
        return self.groups.trace.values

    @cached_property
    def judges(self) -> list[NDArray[np.bool_]]:
        """For each batch which of its samples judge `(N,)`."""
        return [held_out(batch) for batch in self.samples.batches]

    def weight(self, name: str) -> Array:
        """A stored tensor of the pruned model as it is by now."""
        changed = self.pruned.weights.get(name)
        return numpy_helper.to_array(self.pruned.flow.initializers[name]) if changed is None else changed

    def computed(self) -> Iterator[tuple[View, View]]:
        """Both models, batch by batch, with the tensors that their streams hold."""
        for b, batch in enumerate(self.samples.batches):
            yield View(self.dense, b, batch, {}), View(self.pruned, b, batch, {})
