"""How long every axis of every tensor is, by how many units of each group stay.

Units of a group go in the order of their scores, so a number of units says which labels are left. For each axis that a
group touches, its length by the number of units that are gone is counted once. Where several groups touch an axis, their
losses add up if they hold different labels (a Concat), else what they leave multiplies (heads and their dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.costs import Widths
from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Groups
from onnxprune.select.allocate import Choice
from onnxprune.trace.labels import Labels
from onnxprune.trace.tracer import Weight
from onnxprune.trace.value import Value

_NEVER = np.iinfo(np.int32).max
Shape = tuple["int | Axis", ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis.

    Attributes:
        size: its length in the source.
        lengths: by group id, how long it is with 0, 1, 2 ... units of that group gone.
        apart: no label belongs to two groups.
    """

    size: int
    lengths: Mapping[str, NDArray[np.int64]]
    apart: bool = True

    def at(self, gone: Mapping[str, int]) -> int:
        """Its length with that many units of each group gone."""
        return int(self._combined([lengths[gone.get(g, 0)] for g, lengths in self.lengths.items()]))

    def over(self, gone: Mapping[str, int], group: str, counts: NDArray[np.int64]) -> NDArray[np.int64] | int:
        """Its lengths with these numbers of units of one group gone, and `gone` of the others."""
        if group not in self.lengths:
            return self.at(gone)
        own = [n[counts] if g == group else n[gone.get(g, 0)] for g, n in self.lengths.items()]
        return np.asarray(self._combined(own), np.int64)

    def _combined(self, left: Sequence[Any]) -> Any:
        """Its length, from what each group leaves of it."""
        if self.apart:
            return self.size - sum(self.size - n for n in left)
        length: Any = float(self.size)
        for n in left:
            length = length * n / self.size
        return np.maximum(np.rint(length), 1).astype(np.int64)


@dataclass
class Axes:
    """Lengths of axes for groups whose units go in a fixed order.

    Args:
        groups: the analysis.
        choices: groups that compete; the order of removal is that of their scores.
    """

    groups: Groups
    choices: Sequence[Choice]
    _held: dict[tuple[bytes, tuple[int, ...], int], int | Axis] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.units = {c.group.id: c.group.units for c in self.choices}
        self._layers: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        for k, choice in enumerate(self.choices):
            self._claim(k, choice)

    def _claim(self, k: int, choice: Choice) -> None:
        """Writes down when each class of a group goes, in the first layer where no other group has any of them."""
        when = np.full(self.groups.classes.count, _NEVER, np.int32)
        for bucket, scores in zip(choice.group.buckets, choice.scores, strict=True):
            for n, element in enumerate(np.argsort(scores, kind="stable").tolist()):
                when[bucket[element]] = np.minimum(when[bucket[element]], n + 1)
        own = when < _NEVER
        layer = next((layer for layer in self._layers if (layer[0][own] < 0).all()), None)
        if layer is None:
            layer = np.full(own.size, -1, np.int32), np.full(own.size, _NEVER, np.int32)
            self._layers.append(layer)
        layer[0][own], layer[1][own] = k, when[own]

    def gone(self, widths: Widths) -> dict[str, int]:
        """Units that go of each group."""
        return {g: self.units[g] - n for g, n in widths.items() if g in self.units}

    def axis(self, labels: Labels, position: int) -> int | Axis:
        """The axis of a field; see `onnxprune.trace.value.length`."""
        key = (labels.tobytes(), labels.shape, position)
        if key not in self._held:
            self._held[key] = self._axis(self.groups.classes.of_label[labels], position)
        return self._held[key]

    def _axis(self, classes: Ids, position: int) -> int | Axis:
        size = int(classes.shape[position])
        found: dict[str, NDArray[np.int64]] = {}
        for owner, gone in self._layers:
            for k in np.unique(owner[classes]).tolist():
                if k >= 0:
                    when = np.where(owner[classes] == k, gone[classes], _NEVER)
                    found[self.choices[k].group.id] = _lengths(when, position, self.choices[k].group.units)
        if not found:
            return size
        layers = sum(bool((owner[classes] >= 0).any()) for owner, _ in self._layers)
        return Axis(size, found, apart=layers < 2)

    def shape_of(self, value: Value) -> Shape | None:
        """Shape of a tensor."""
        if value.shape is None:
            return None
        shape: list[int | Axis] = list(value.shape)
        for f in value.fields:
            for position, axis in enumerate(f.axes):
                shape[axis] = self.axis(f.labels, position)
        for axis, labels in value.blocked.items():
            shape[axis] = self.axis(labels, 1)
        return tuple(shape)

    def weight_shape(self, weight: Weight) -> Shape:
        """Shape of a stored weight."""
        shape: list[int | Axis] = list(weight.shape)
        for axis, labels in weight.labels.items():
            shape[axis] = self.axis(labels, labels.ndim - 1)
        return tuple(shape)


def _lengths(when: NDArray[np.int32], position: int, units: int) -> NDArray[np.int64]:
    """Length by the number of units gone, from when each cell goes."""
    if position < when.ndim - 1:
        when = when.max(axis=tuple(a for a in range(when.ndim) if a != position))
    rows = np.minimum(when.reshape(-1, when.shape[-1]), units + 1)
    counts = np.stack([np.bincount(row, minlength=units + 2)[: units + 1] for row in rows])
    return np.asarray((when.shape[-1] - np.cumsum(counts, axis=1)).max(axis=0), np.int64)


def touched(shapes: Sequence[Shape | None]) -> frozenset[str]:
    """Groups that some shapes depend on."""
    return frozenset(g for s in shapes if s for axis in s if isinstance(axis, Axis) for g in axis.lengths)


def sizes(shape: Shape | None, gone: Mapping[str, int]) -> tuple[int, ...] | None:
    """A shape with that many units of each group gone."""
    return None if shape is None else tuple(a.at(gone) if isinstance(a, Axis) else a for a in shape)
