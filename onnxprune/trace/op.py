"""What a rule sees of one node, and what it may say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.trace import moves
from onnxprune.trace.labels import Field, Labels, LabelSpace
from onnxprune.trace.unify import Index, contract
from onnxprune.trace.value import Value

Zero = Callable[[Iterable[bool]], bool]


def never(_: Iterable[bool]) -> bool:
    """Zero rule of an operator with f(0) != 0."""
    return False


@dataclass(frozen=True, eq=False)
class Edit:
    """A number inside the graph that counts or names slices, and has to follow them.

    Attributes:
        node: the node that reads it.
        slot: attribute name or input position.
        element: flat index within the attribute's list or the input; None for a scalar or, with `index`, for all of it.
        labels: what is counted.
        position: the axis of `labels` along which slices are counted.
        kind: `length`: becomes the number of slices kept; `index`: indices into the axis, renumbered and filtered;
            `value`: becomes `value` as soon as that number changes.
        value: see `kind`.
        add: added to a length.
        due: the number changes when one of these labels is removed; the counted ones where None. A bound that counts from
            the end changes with what lies behind it.
    """

    node: gs.Node
    slot: str | int
    element: int | None
    labels: Labels
    position: int
    kind: Literal["length", "index", "value"] = "length"
    value: float = 0.0
    add: int = 0
    due: Labels | None = None


@dataclass
class Op:
    """One node under trace: its values, and the verbs move, tie, freeze and edit.

    Attributes:
        node: the node.
        version: opset version of its domain.
        ins: inputs; None where omitted.
        outs: outputs with shapes, to be given fields.
        space: where facts about labels go.
        edits: numbers in the graph that follow the labels.
        made: labelled outputs that hold constants (the oracle puts zeros into them as into weights).
    """

    node: gs.Node
    version: int
    ins: list[Value | None]
    outs: list[Value]
    space: LabelSpace
    edits: list[Edit] = field(default_factory=list)
    made: list[Value] = field(default_factory=list)
    trace_body: Callable[[gs.Graph, Sequence[Value | None]], list[Value]] | None = None

    @property
    def what(self) -> str:
        """The node, for reasons."""
        return f"{self.node.op} {(self.node.name or self.outs[0].name)!r}"

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.node.attrs.get(name, default)

    def given(self, i: int) -> Value | None:
        """Input `i`, or None where it is omitted."""
        return self.ins[i] if i < len(self.ins) else None

    def need(self, i: int) -> Value:
        """Input `i`, which the operator requires."""
        value = self.given(i)
        if value is None:
            raise ValueError(f"{self.what} lacks input {i}")
        return value

    def static(self, i: int) -> NDArray[Any] | None:
        """Value of input `i` where it depends on constants and shapes alone."""
        value = self.given(i)
        return None if value is None else value.static

    def varies(self, i: int, element: int | None = None) -> bool:
        """Input `i`, or one element of it, has another static value at other sizes of the model's inputs."""
        value = self.given(i)
        if value is None or value.varies is None:
            return False
        return bool(value.varies.any() if element is None else value.varies.ravel()[element])

    def ints(self, i: int, name: str, default: Sequence[int] | None = None) -> list[int] | None:
        """A list that is an attribute in old opsets and an input in new ones; None where it depends on data."""
        if name in self.node.attrs:
            value = self.node.attrs[name]
            return [int(v) for v in (value if isinstance(value, (list, tuple)) else [value])]
        given = self.given(i)
        if given is None:
            return None if default is None else list(default)
        return None if given.static is None else [int(v) for v in np.atleast_1d(given.static).ravel()]

    def axis(self, name: str = "axis", default: int = 0, of: int = 0) -> int:
        """A non-negative axis attribute."""
        return int(self.attr(name, default)) % max(self.need(of).rank, 1)

    # ---- verbs ----

    def freeze(self, value: Value | None, reason: str | None = None) -> None:
        """Nothing of a value can shrink."""
        if value is None:
            return
        for f in value.fields:
            self.space.freeze(f.labels, reason or f"{self.what} needs all of {value.name!r}")
        for labels in value.blocked.values():
            self.space.freeze(labels, reason or f"{self.what} needs all of {value.name!r}")

    def freeze_all(self, reason: str) -> None:
        """Nothing of any input can shrink."""
        for value in self.ins:
            self.freeze(value, reason)

    def freeze_axis(self, value: Value, axis: int, reason: str | None = None) -> None:
        """One axis of a value can't shrink; the other axes of a joint field still can."""
        f = value.field_on(axis)
        if f is not None:
            self.space.freeze(self.space.across(f, axis), reason or f"{self.what} works along axis {axis} of {value.name!r}")

    def inexact_axis(self, value: Value, axis: int, statistic: str) -> None:
        """Removing slices of an axis changes a statistic over it."""
        f = value.field_on(axis)
        if f is not None:
            self.space.mark_inexact(self.space.across(f, axis), f"{self.what} computes {statistic} over it")

    def indexed(self, i: int, names: Sequence[Index]) -> tuple[Value, Sequence[Index]]:
        """Input `i` with its index names."""
        return self.need(i), names

    def same(self, i: int = 0, out: int = 0, *, zero: bool = True) -> None:
        """The output has the axes of input `i`; `zero` says whether f(0) = 0."""
        self.outs[out].fields = [Field(f.axes, f.labels, f.zero and zero) for f in self.need(i).fields]
        self.outs[out].why = dict(self.need(i).why)

    def pointwise(self, inputs: Sequence[int] | None = None, out: int = 0, *, zero: Zero = all) -> None:
        """An elementwise operator with numpy broadcasting (ONNX spec, "Multidirectional broadcasting")."""
        rank = self.outs[out].rank
        chosen = [i for i in (inputs if inputs is not None else range(len(self.ins))) if self.given(i) is not None]
        operands = []
        for i in chosen:
            value = self.need(i)
            operands.append((value, list(range(rank - value.rank, rank))))
        self.outs[out].fields = contract(self.space, operands, list(range(rank)), self.what, zero=zero)
        for value, names in operands:
            for axis, reason in value.why.items():
                self.outs[out].why.setdefault(int(names[axis]), reason)

    def tie_axis(self, value: Value, axis: int, labels: Labels | None, reason: str) -> None:
        """Ties one axis of a value to labels, or freezes it where there are none."""
        f = value.field_on(axis)
        if labels is None:
            self.freeze_axis(value, axis, reason)
        elif f is not None:
            self.space.tie(self.space.separate(f, axis), labels)
        elif value.sizes[axis] > 1:
            self.space.freeze(labels, f"{self.what} combines it with {value.reason(axis)}")

    def alone(self, value: Value, axis: int) -> Labels | None:
        """The labels of one axis alone."""
        f = value.field_on(axis)
        return None if f is None else self.space.separate(f, axis)

    def follow(self, i: int, axis_of: dict[int, int], out: int = 0) -> None:
        """Element `k` of the integer input `i` is the length of axis `axis_of[k]` of an output."""
        for element, axis in axis_of.items():
            f = self.outs[out].field_on(axis)
            if f is not None:
                self.edits.append(Edit(self.node, i, element, f.labels, f.axes.index(axis)))

    def label_output(self, out: int = 0, *, zero: bool) -> None:
        """Fresh labels on every axis of an output that the operator makes from nothing; `zero`: it holds zeros."""
        value = self.outs[out]
        value.fields = [Field((a,), self.space.fresh(n), zero) for a, n in enumerate(value.sizes) if n > 1]
        if not zero:
            value.fields = [Field(f.axes, f.labels, True) for f in value.fields]
            self.made.append(value)

    def count(
        self,
        slot: str | int,
        element: int | None,
        labels: Labels,
        position: int = 0,
        *,
        add: int = 0,
        due: Labels | None = None,
    ) -> None:
        """A number in an attribute or input counts these labels, plus a constant; see `Edit` for `due`."""
        self.edits.append(Edit(self.node, slot, element, labels, position, add=add, due=due))

    def select(self, i: int, axis: int, pick: Callable[[Labels, int], Labels], out: int = 0) -> None:
        """The output is input `i` with slices of one axis picked, repeated or dropped."""
        self.outs[out].fields = moves.select(self.space, self.need(i).fields, axis, pick)
