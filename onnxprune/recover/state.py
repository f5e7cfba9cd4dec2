"""A reconstruction in mid-run: both models, and what is still to be fitted along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Samples, held_out
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.attention import Values
from onnxprune.recover.repair import Repairs
from onnxprune.recover.solve import Mode
from onnxprune.statistics.linear import Linear
from onnxprune.statistics.stream import Stream, View
from onnxprune.trace.value import Value

Array = NDArray[Any]


@dataclass
class State:
    """Both models, with what fits have made of the pruned one so far.

    Attributes:
        groups: analysis of the source.
        alive: for each label whether it stays.
        samples: calibration samples.
        mode: how far fits go.
        dense: the source in mid-run.
        pruned: the pruned model in mid-run.
        linears: its linear nodes.
        fitted: nodes that were fitted along with an earlier one.
        attention: values of attention that are still to be fitted, by the output of the projection that reads them.
        repairs: what is fitted between linear nodes.
        tell: called with the share of a walk through the samples that is done.
    """

    groups: Groups
    alive: Mask
    samples: Samples
    mode: Mode
    dense: Stream
    pruned: Stream
    linears: list[Linear]
    fitted: set[int] = field(default_factory=set)
    attention: dict[str, Values] = field(default_factory=dict)
    repairs: Repairs | None = None
    tell: Callable[[float], None] = lambda done: None

    @property
    def values(self) -> Mapping[str, Value]:
        """What the trace knows of each tensor of the source."""
        return self.groups.trace.values

    @cached_property
    def judges(self) -> list[NDArray[np.bool_]]:
        """For each batch which of its samples judge."""
        return [held_out(batch) for batch in self.samples.batches]

    def weight(self, name: str) -> Array:
        """A stored tensor as it is by now."""
        changed = self.pruned.weights.get(name)
        return numpy_helper.to_array(self.pruned.flow.initializers[name]) if changed is None else changed

    def views(self, dense: Iterable[str], pruned: Iterable[str]) -> Iterator[tuple[View, View]]:
        """Both models, batch by batch, with the tensors that are asked for."""
        batches = len(self.samples.batches)
        for both in zip(self.dense.walk(dense), self.pruned.walk(pruned), strict=True):
            yield both
            self.tell((both[0].index + 1) / batches)

    def pin(self) -> None:
        """Keeps what fits of attention look at that are still to come."""
        for way in self.attention.values():
            self.pruned.pinned |= way.needs | {way.value.x}
        if self.repairs:
            self.repairs.pin()

    def left(self) -> dict[str, Any]:
        """What is still to be fitted, and what was fitted along, as plain data."""
        repairs = [] if self.repairs is None else self.repairs.left()
        return {"fitted": sorted(self.fitted), "attention": sorted(self.attention), "repairs": repairs}

    def take_up(self, left: Mapping[str, Any]) -> None:
        """Goes to a point of an earlier run, but for the streams."""
        self.fitted = set(left["fitted"])
        self.attention = {y: way for y, way in self.attention.items() if y in left["attention"]}
        if self.repairs is not None:
            self.repairs.take_up(left["repairs"])
