"""Groups: units that touch the same weights, among which a selection chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Classes, Ids, Mask
from onnxprune.trace.tracer import Trace

Kind = Literal["channel", "heads", "head-dim", "conv-groups", "group-channels", "rank"]


@dataclass
class Group:
    """Units of one kind.

    Attributes:
        id: `g0`, `g1` ... in graph order.
        kind: `channel`; `heads` and `head-dim` are the rows and columns of an attention grid, `conv-groups` and
            `group-channels` those of any other; `rank` lies between two nodes that were one.
        exact: removing a unit equals putting zeros into its weights.
        buckets: a unit of the group is one element of each bucket, each an array of classes: one bucket for channels and
            rows, one per row for columns that may differ from row to row.
        members: (weight, axis) that its units touch.
        nodes: names of the nodes that read those weights.
        params: parameters that each element of a bucket accounts for, in the order of `buckets`.
        macs: multiply-accumulates, likewise.
        note: why it is inexact.
        alternatives: ids of the groups that cut the same grids another way.
        width: slices that a unit takes from the first axis it touches.
    """

    id: str
    kind: Kind
    exact: bool
    buckets: list[list[Ids]]
    members: list[tuple[str, int]]
    nodes: list[str] = field(default_factory=list)
    params: list[NDArray[np.float64]] = field(default_factory=list)
    macs: list[NDArray[np.float64]] = field(default_factory=list)
    note: str = ""
    alternatives: list[str] = field(default_factory=list)
    width: int = 1

    @property
    def units(self) -> int:
        """How many units there are."""
        return min(len(b) for b in self.buckets)

    @property
    def unit_params(self) -> float:
        """Mean parameters of a unit."""
        return float(sum(p.mean() for p in self.params))

    @property
    def unit_macs(self) -> float:
        """Mean multiply-accumulates of a unit."""
        return float(sum(m.mean() for m in self.macs))


@dataclass
class Frozen:
    """An axis of a weight that can't shrink, or only in part.

    Attributes:
        weight: tensor name.
        axis: its axis.
        slices: how many of its slices are held.
        of: how many it has.
        reason: the first reason.
        inexact: some of them could go with `width`.
    """

    weight: str
    axis: int
    slices: int
    of: int
    reason: str
    inexact: bool = False


@dataclass
class Groups:
    """Result of `analyze`: what can go, what can't and why.

    Attributes:
        trace: the labels behind it.
        classes: the solved ties.
        groups: all groups, alternatives included.
        frozen: axes held in full or in part.
        width: inexact groups are included.
    """

    trace: Trace
    classes: Classes
    groups: list[Group]
    frozen: list[Frozen]
    width: bool

    def alive_labels(self, removed: Ids) -> Mask:
        """For each label whether it stays when these classes are removed."""
        alive = np.ones(self.classes.count, np.bool_)
        alive[removed] = False
        return np.asarray(alive[self.classes.of_label])

    @cached_property
    def floors(self) -> list[Ids]:
        """Sets of classes of which one has to stay, or some tensor would be empty."""
        found: dict[bytes, Ids] = {}
        for scope in self.trace.inferred.scopes.values():
            for value in scope.values():
                for f in value.fields:
                    ids = np.unique(self.classes.of_label[f.labels])
                    found.setdefault(ids.tobytes(), ids)
        return list(found.values())

    def violations(self, alive: Mask) -> list[str]:
        """What makes a removal illegal: a tensor that would not be a box. `alive` is per label; empty where legal."""
        per_class = np.ones(self.classes.count, np.bool_)
        np.logical_and.at(per_class, self.classes.of_label, alive)
        problems = []
        if not all(per_class[ids].any() for ids in self.floors):
            problems.append("a tensor would be empty")
        for grid in self.classes.grids:
            kept = per_class[grid.cells]
            box = np.ones(kept.shape, np.bool_)
            for axis, own in enumerate(grid.axis_classes):
                plane = kept.any(axis=tuple(a for a in range(kept.ndim) if a != axis))
                if own is not None and not np.array_equal(per_class[own], plane):
                    problems.append("an axis loses slices that are still used")
                if axis < kept.ndim - 1 or not grid.ragged:
                    box &= plane.reshape([-1 if a == axis else 1 for a in range(kept.ndim)])
            if grid.ragged:
                counts = kept.sum(axis=-1)
                rows = box.any(axis=-1)
                if (counts[rows] != counts.max()).any():
                    problems.append("rows would lose different numbers of columns")
            elif not np.array_equal(box, kept):
                problems.append("a tensor would lose single cells of a row")
        return problems
