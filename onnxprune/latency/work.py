"""What a piece has to do at given widths: multiply-accumulates, elements that go in and out, elements of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Group, Groups
from onnxprune.latency.pieces import Piece
from onnxprune.report.macs import node_macs
from onnxprune.trace.value import Value, length

Floats = NDArray[np.float64]
Widths = Mapping[str, int]
Key = tuple[int, int]  # an axis: number of its labels, position within the field

KINDS = ("multiply-accumulates", "elements in", "elements out", "elements of weights")


@dataclass
class Axes:
    """Lengths of axes at given widths, when the units that stay are spread evenly.

    Attributes:
        groups: analysis of the source.
        varied: groups that may change.
    """

    groups: Groups
    varied: Sequence[Group]
    _known: dict[tuple[Key, tuple[int, ...]], int] = field(default_factory=dict)
    _labels: dict[bytes, int] = field(default_factory=dict)
    _touched: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _dead: dict[tuple[int, int], Ids] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = np.full(self.groups.classes.count, -1, np.int32)
        for k, group in enumerate(self.varied):
            for bucket in group.buckets:
                for unit in bucket:
                    self.owner[unit] = k

    def alive(self, widths: Widths) -> Mask:
        """For each label whether it stays."""
        dead = [self.dead(k, widths[g.id]) for k, g in enumerate(self.varied) if widths.get(g.id, g.units) < g.units]
        gone = np.concatenate(dead) if dead else np.zeros(0, np.int32)
        return self.groups.alive_labels(self._floored(gone))

    def dead(self, k: int, width: int) -> Ids:
        """Classes of a group that go where `width` units stay."""
        if (k, width) not in self._dead:
            parts = []
            for bucket in self.varied[k].buckets:
                kept = np.zeros(len(bucket), np.bool_)
                stays = width + len(bucket) - self.varied[k].units
                kept[(np.arange(stays) * len(bucket)) // max(stays, 1)] = True
                parts += [unit for unit, stay in zip(bucket, kept, strict=True) if not stay]
            self._dead[k, width] = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return self._dead[k, width]

    def _floored(self, gone: Ids) -> Ids:
        """Without groups that would leave a tensor empty."""
        mask = np.zeros(self.groups.classes.count, np.bool_)
        mask[gone] = True
        for floor in self.groups.floors:
            if mask[floor].all():
                owners = {int(k) for k in self.owner[floor] if k >= 0}
                mask[np.isin(self.owner, sorted(owners))] = False
        return np.flatnonzero(mask).astype(np.int32)

    def shape(self, value: Value, widths: Widths) -> tuple[int, ...] | None:
        """Shape of a value at given widths."""
        if value.shape is None:
            return None
        shape = list(value.shape)
        for f in value.fields:
            for position, axis in enumerate(f.axes):
                shape[axis] = self.length(f.labels, position, widths)
        for axis, labels in value.blocked.items():
            shape[axis] = self.length(labels, 1, widths)
        return tuple(shape)

    def length(self, labels: Ids, position: int, widths: Widths) -> int:
        """Slices that one axis of a field keeps."""
        number = self._labels.setdefault(labels.tobytes() + bytes(str(labels.shape), "ascii"), len(self._labels))
        touched = self.touched(number, labels)
        at = tuple(widths.get(self.varied[k].id, self.varied[k].units) for k in touched)
        known = self._known.get(((number, position), at))
        if known is None:
            alive = np.ones(self.groups.classes.count, np.bool_)
            for k, width in zip(touched, at, strict=True):
                alive[self.dead(k, width)] = False
            known = length(alive, self.groups.classes.of_label[labels], position)
            self._known[(number, position), at] = known
        return known

    def touched(self, number: int, labels: Ids) -> tuple[int, ...]:
        """Positions of the groups on which the axes of a field depend."""
        if number not in self._touched:
            owners = np.unique(self.owner[self.groups.classes.of_label[labels]])
            self._touched[number] = tuple(int(k) for k in owners if k >= 0)
        return self._touched[number]

    def groups_of(self, value: Value) -> set[int]:
        """Positions of the groups on which the shape of a value depends."""
        found: set[int] = set()
        for labels in [f.labels for f in value.fields] + list(value.blocked.values()):
            number = self._labels.setdefault(labels.tobytes() + bytes(str(labels.shape), "ascii"), len(self._labels))
            found |= set(self.touched(number, labels))
        return found


class Work:
    """The work of one piece.

    Args:
        axes: lengths.
        graph: that was traced; its nodes are those of the model that the piece was cut from.
        piece: of it.

    Attributes:
        groups: ids of the groups on whose widths it depends.
    """

    def __init__(self, axes: Axes, graph: gs.Graph, piece: Piece) -> None:
        self.axes = axes
        values = axes.groups.trace.values
        self.nodes = [graph.nodes[k] for k in piece.nodes]
        produced = {t.name for n in self.nodes for t in n.outputs}
        read = {t.name for n in self.nodes for t in n.inputs if t.name} - produced
        self.ins = [values[n] for n in piece.inputs if n in values]
        self.outs = [values[n] for n in piece.outputs if n in values]
        self.weights = [values[n] for n in sorted(read - set(piece.inputs)) if n in values]
        self.values = values
        every = [values[t.name] for n in self.nodes for t in (*n.inputs, *n.outputs) if t.name in values]
        found = sorted({k for v in every for k in axes.groups_of(v)})
        self.groups = tuple(axes.varied[k].id for k in found)
        self._known: dict[tuple[int, ...], Floats] = {}
        self._units = {g.id: g.units for g in axes.varied}

    def at(self, widths: Widths) -> Floats:
        """Amount of each kind of work `(4,)`, at the traced sizes."""
        key = tuple(widths.get(g, self._units[g]) for g in self.groups)
        if key not in self._known:
            counts = [float(self._macs(widths))]
            counts += [sum(self._size(v, widths) for v in part) for part in (self.ins, self.outs, self.weights)]
            self._known[key] = np.array(counts)
        return self._known[key]

    def _macs(self, widths: Widths) -> int:
        total = 0
        for node in self.nodes:
            ins, outs = ([self._shape(t.name, widths) for t in ts] for ts in (node.inputs, node.outputs))
            attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}
            total += node_macs(node.op, node.domain or "", attrs, ins, outs)
        return total

    def _shape(self, name: str, widths: Widths) -> tuple[int, ...] | None:
        value = self.values.get(name)
        return None if value is None else self.axes.shape(value, widths)

    def _size(self, value: Value, widths: Widths) -> float:
        shape = self.axes.shape(value, widths)
        return float(np.prod(shape)) if shape is not None else 0.0
