"""Which cost a quantity is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import onnx

from onnxprune.budget.axes import Axes
from onnxprune.budget.costs import Cost
from onnxprune.budget.counted import macs, params, size
from onnxprune.budget.memory import Memory
from onnxprune.budget.pairs import Twin
from onnxprune.calibrate.batch import Samples
from onnxprune.errors import UsageError
from onnxprune.groups.group import Groups
from onnxprune.latency.timing import Timing
from onnxprune.prepare.prepare import Prepared
from onnxprune.select.allocate import Choice

if TYPE_CHECKING:
    from onnxprune.latency.cost import Latency


@dataclass
class Setting:
    """What costs are made from.

    Attributes:
        source: the model as it was given.
        prepared: as it was traced.
        groups: its analysis.
        choices: groups that compete, with the scores that say in which order their units go.
        providers: execution providers, as the user named them.
        timing: how the model will be run, for latency.
        shapes: of inputs that the model leaves open.
        samples: that were given, which models are timed with.
        tell: progress of measurements.
        twins: nodes that may be one or two, and count as what costs less.
        beside: setting of the model that this one was made from: targets are shares of what that one costs, and times are
            measured beside it. None where nothing was done to the model yet.
    """

    source: onnx.ModelProto
    prepared: Prepared
    groups: Groups
    choices: Sequence[Choice]
    providers: Sequence[str] = ()
    timing: Timing = field(default_factory=Timing)
    shapes: Mapping[str, Sequence[int]] | None = None
    samples: Samples | None = None
    tell: Callable[[str, float], None] | None = None
    twins: Sequence[Twin] = ()
    beside: Setting | None = None
    _made: dict[str, Cost] = field(default_factory=dict)

    @cached_property
    def axes(self) -> Axes:
        """Lengths of axes by widths."""
        return Axes(self.groups, self.choices)

    def cost(self, quantity: str) -> Cost:
        """The cost of a quantity.

        Raises:
            UsageError: there is none.
        """
        if quantity not in self._made:
            self._made[quantity] = self._make(quantity)
        return self._made[quantity]

    def _make(self, quantity: str) -> Cost:
        if quantity == "macs":
            return macs(self.groups, self.axes, self.twins)
        if quantity == "params":
            return params(self.groups, self.axes, self.twins)
        if quantity == "size":
            return size(self.groups, self.axes, self.source, self.twins)
        if quantity == "memory":
            return Memory(self.groups, self.axes)
        if quantity == "latency":
            return self.latency
        raise UsageError(f"there is no table of {quantity} to spend; macs, params, size, memory and latency have one")

    @cached_property
    def latency(self) -> Latency:
        """Latency, measured where it was not before."""
        from onnxprune.latency.build import latency_cost

        found = latency_cost(
            self.prepared,
            self.groups,
            self.choices,
            self.axes,
            self.timing,
            providers=self.providers,
            shapes=self.shapes,
            samples=self.samples,
            progress=self.tell,
        )
        if self.beside is not None:
            found.against(self.beside.latency)
        return found

    def of_source(self, quantity: str) -> float:
        """What the source costs."""
        of = self.beside or self
        return of.latency.dense if quantity == "latency" else of.cost(quantity).total({})

    def steps(self, quantities: Iterable[str]) -> Mapping[str, int]:
        """By group id, units between the widths that pay in these quantities; empty where all widths do."""
        return self.latency.of_table.steps if "latency" in quantities else {}
