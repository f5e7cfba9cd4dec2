"""Builds groups: free classes are units themselves, classes in grids go in rows or in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.groups.classes import Classes, ClassGrid, Ids, Mask, components, solve
from onnxprune.groups.cost import Costs, costs
from onnxprune.groups.cut import Component, Mode
from onnxprune.groups.group import Frozen, Group, Groups, Kind
from onnxprune.trace.tracer import Trace


def build(trace: Trace, *, width: bool = False) -> Groups:
    """All groups of a traced graph.

    Args:
        trace: result of `onnxprune.trace.tracer.trace`.
        width: include groups whose removal changes a statistic (the width of residual streams).
    """
    classes = solve(trace.space)
    builder = _Builder(trace, classes, costs(trace, classes), width)
    groups = builder.all()
    return Groups(trace, classes, groups, _frozen(trace, classes, groups), width)


@dataclass
class _Builder:
    trace: Trace
    classes: Classes
    costs: Costs
    width: bool

    def __post_init__(self) -> None:
        self.held: Mask = self.classes.frozen >= 0
        if not self.width:
            self.held |= self.classes.inexact >= 0

    def all(self) -> list[Group]:
        """Groups in graph order of their first weight, with ids."""
        classes, grids = self.classes, self.classes.grids
        linked = [(g.everything[:-1], g.everything[1:]) for g in grids]
        _, component = components(classes.count, linked)
        in_grid = np.zeros(classes.count, np.bool_)
        by_component: dict[int, list[ClassGrid]] = {}
        for grid in grids:
            in_grid[grid.everything] = True
            by_component.setdefault(int(component[grid.cells.flat[0]]), []).append(grid)
        free = np.flatnonzero(~in_grid & ~self.held & (self.costs.signature != 0)).astype(np.int32)
        ways = [[g] for g in self.by_signature([np.array([c], np.int32) for c in free], "channel")]
        for members in by_component.values():
            ways.append(self.component(members))
        return self.numbered(ways)

    def numbered(self, ways: Sequence[list[Group]]) -> list[Group]:
        """Ids in the order in which weights appear in the graph; groups that cut the same grids know each other."""
        order = {name: k for k, name in enumerate(self.trace.weights)}
        result: list[Group] = []
        for groups in sorted((w for w in ways if w), key=lambda w: min(order[m] for g in w for m, _ in g.members)):
            for group in groups:
                group.id = f"g{len(result)}"
                result.append(group)
            for group in groups:
                group.alternatives = [g.id for g in groups if g.kind != group.kind]
        return result

    def component(self, grids: list[ClassGrid]) -> list[Group]:
        """Groups of grids that share cells or hyperplanes.

        Heads come as rows with head dims as the other way; any other grid is cut so that most units stay removable.
        """
        if any(g.attention for g in grids):
            rows = [g for mode in self.modes(grids, heads=True) for g in self.groups_of(mode, "heads") if g.units > 1]
            return rows + [g for mode in self.modes(grids, heads=False) for g in self.groups_of(mode, "head-dim")]
        result = []
        for mode in self.modes(grids, heads=None):
            result += self.groups_of(mode, "group-channels" if mode.columns_first else "conv-groups")
        return result

    def modes(self, grids: list[ClassGrid], *, heads: bool | None) -> list[Mode]:
        """Cuts of connected grids; what hangs together by held labels alone is cut apart.

        So layers that share nothing but a table of rotations have heads of their own.
        """
        held = self.held.copy()
        for grid in grids:
            for own in grid.kept_by(heads):
                held[own] = True
        count = -1
        while count != (count := int(held.sum())):
            for grid in grids:
                if held[grid.cells].all():  # a hyperplane stays as long as one of its cells does
                    held[grid.everything] = True
        free = [grid.everything[~held[grid.everything]] for grid in grids]
        _, part_of = components(self.classes.count, [(ids[:-1], ids[1:]) for ids in free])
        parts: dict[int, list[ClassGrid]] = {}
        for grid, ids in zip(grids, free, strict=True):
            if ids.size:
                parts.setdefault(int(part_of[ids[0]]), []).append(grid)
        return [Component(part, held, self.classes.count).best(heads=heads) for part in parts.values()]

    # ---- cutting grids ----

    def groups_of(self, mode: Mode, kind: Kind) -> list[Group]:
        """Groups of one mode: units that are balanced by themselves, then columns of one element per row."""
        result = self.by_signature(mode.balanced, kind)
        return result + [self.group(buckets, kind) for buckets in mode.columns]

    def by_signature(self, units: list[Ids], kind: Kind) -> list[Group]:
        """Groups units that touch the same weights."""
        found: dict[tuple[object, ...], list[Ids]] = {}
        for unit in units:
            key = (self.costs.members(unit), bool((self.classes.inexact[unit] >= 0).any()))
            if key[0]:
                found.setdefault(key, []).append(unit)
        return [self.group([members], kind) for members in found.values()]

    def group(self, buckets: list[list[Ids]], kind: Kind) -> Group:
        """A group without an id yet."""
        everything = np.concatenate([u for b in buckets for u in b])
        inexact = self.classes.inexact[everything]
        note = self.classes.reasons[inexact[inexact >= 0][0]] if (inexact >= 0).any() else ""
        members = [self.costs.axes[k] for k in self.costs.members(everything)]
        group = Group("", kind, not note, buckets, members, note=note)
        group.nodes = sorted({n for w, _ in members for n in self.costs.readers.get(w, ())})
        group.params = [np.array([self.costs.params[u].sum() for u in b]) for b in buckets]
        group.macs = [np.array([self.costs.macs[u].sum() for u in b]) for b in buckets]
        group.width = self.costs.width(np.concatenate([b[0] for b in buckets]), members)
        return group


def _frozen(trace: Trace, classes: Classes, groups: Sequence[Group]) -> list[Frozen]:
    """Axes of weights with slices that are in no unit, with the reason."""
    usable = np.zeros(classes.count, np.bool_)
    for group in groups:
        for bucket in group.buckets:
            for unit in bucket:
                usable[unit] = True
    result = []
    for weight in trace.weights.values():
        for axis, labels in weight.labels.items():
            ids = classes.of_label[labels]
            held = ids[~usable[ids]]
            if held.size:
                known = np.concatenate([classes.frozen[held], classes.inexact[held]])
                known = known[known >= 0]
                reason = classes.reasons[known[0]] if known.size else "its slices can't go without breaking up a tensor"
                inexact = bool(((classes.inexact[held] >= 0) & (classes.frozen[held] < 0)).any())
                result.append(Frozen(weight.name, axis, int(held.size), int(ids.size), reason, inexact))
    return result
