"""A reconstruction in mid-run: both models, and what is still to be fitted along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.recover.attention import Values
from onnxprune.recover.repair import Repairs
from onnxprune.recover.run import Run
from onnxprune.statistics.linear import Linear
from onnxprune.statistics.stream import View


@dataclass
class State(Run):
    """Both models, and what there still is to fit in the pruned one.

    Attributes:
        linears: linear nodes of the pruned model.
        fitted: nodes that were fitted along with an earlier one.
        attention: values of attention that are still to be fitted, by the output of the projection that reads them.
        repairs: what is fitted between linear nodes.
        tell: called with the share of a walk through the samples that is done.
    """

    linears: list[Linear]
    fitted: set[int] = field(default_factory=set)
    attention: dict[str, Values] = field(default_factory=dict)
    repairs: Repairs | None = None
    tell: Callable[[float], None] = lambda done: None

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
