"""Which cost a quantity is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from onnxprune.budget.axes import Axes
from onnxprune.budget.costs import Cost
from onnxprune.budget.counted import macs, params, size
from onnxprune.budget.memory import Memory
from onnxprune.errors import UsageError
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.select.allocate import Choice


@dataclass
class Setting:
    """What costs are made from.

    Attributes:
        source: the model as it was given.
        prepared: as it was traced.
        groups: its analysis.
        choices: groups that compete, with the scores that say in which order their units go.
        providers: execution providers, as the user named them.
    """

    source: onnx.ModelProto
    prepared: Prepared
    groups: Groups
    choices: Sequence[Choice]
    providers: Sequence[str] = ()
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
            return macs(self.groups, self.axes)
        if quantity == "params":
            return params(self.groups, self.axes)
        if quantity == "size":
            return size(self.groups, self.axes, self.source)
        if quantity == "memory":
            return Memory(self.groups, self.axes)
        raise UsageError(f"there is no table of {quantity} to spend; macs, params, size and memory are counted")
