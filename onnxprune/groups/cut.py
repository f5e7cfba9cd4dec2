"""Cutting grids into units: along rows, along columns, or into cells of which each row loses as many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import ClassGrid, Ids, Mask, components

Cut = int | None  # the axis whose hyperplanes are units; None: single cells of the last axis, ragged


@dataclass
class Mode:
    """One way to cut a component.

    Attributes:
        first: how its first grid was cut.
        balanced: units that take equally many cells from every row of every grid by themselves.
        columns: buckets of which one element each does so together.
    """

    first: Cut
    balanced: list[Ids]
    columns: list[list[list[Ids]]]

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.balanced) + sum(min(len(b) for b in c) for c in self.columns)


class Component:
    """Grids that share cells or hyperplanes, head grids first."""

    def __init__(self, grids: Sequence[ClassGrid], held: Mask, count: int) -> None:
        self.grids = _connected_order(sorted(grids, key=lambda g: (not g.attention, -g.cells.size)))
        own = [a for g in grids for a in g.axis_classes if a is not None]
        cells = np.unique(np.concatenate([g.cells.ravel() for g in grids]))
        self.local: Ids = np.unique(np.concatenate([cells, *own]))
        self.is_cell: Mask = np.isin(self.local, cells)
        self.held: Mask = held[self.local]
        self.position = np.full(count, -1, np.int32)
        self.position[self.local] = np.arange(self.local.size, dtype=np.int32)

    def mode(self, first: Cut) -> Mode:
        """Cuts the first grid as asked for, then each further one so that most units stay removable."""
        pairs: list[tuple[Ids, Ids]] = []
        ragged: list[ClassGrid] = []
        moving = np.zeros(self.local.size, np.bool_)  # hyperplanes that die with a unit
        still = np.zeros(self.local.size, np.bool_)  # hyperplanes that stay
        for k, grid in enumerate(self.grids):
            last = grid.cells.ndim - 1
            cuts: list[Cut] = [*range(last), None if grid.ragged else last]
            planes = {a: self.position[own] for a, own in enumerate(grid.axis_classes) if own is not None}
            forced: list[Cut] = [a for a, own in planes.items() if moving[own].any()]
            options = []
            for cut in [first] if k == 0 else forced or cuts:
                if cut in planes and still[planes[cut]].any():
                    continue
                new = [] if cut is None else [(self.position[a], self.position[b]) for a, b in grid.plane_pairs(cut)]
                kept = [*ragged, grid] if cut is None else ragged
                width = grid.cells.size if cut is None else grid.cells.shape[cut]
                options.append((self.units(pairs + new, kept).count, width, cut, new))
            if not options:  # each way is blocked by a grid before it: nothing of this one can go
                own = self.position[grid.cells.ravel()]
                held = np.flatnonzero(self.held)[:1].astype(np.int32)
                pairs += [(own, np.broadcast_to(own[:1], own.shape)), (own[: held.size], held)]
                continue
            _, _, cut, new = max(options, key=lambda o: o[:2])
            pairs += new
            ragged += [grid] if cut is None else []
            for axis, own in planes.items():
                (moving if axis == cut else still)[own] = True
        mode = self.units(pairs, ragged)
        mode.first = first
        return mode

    def units(self, pairs: Sequence[tuple[Ids, Ids]], ragged: Sequence[ClassGrid]) -> Mode:
        """Units under some ties and grids that have to stay balanced."""
        count, of_class = components(self.local.size, pairs)
        usable = np.zeros(count, np.bool_)
        usable[of_class[self.is_cell]] = True
        usable[of_class[self.held]] = False
        order = np.argsort(of_class, kind="stable")
        parts = np.split(self.local[order], np.flatnonzero(np.diff(of_class[order])) + 1)
        chosen = np.flatnonzero(usable)
        units = [parts[k] for k in chosen]
        row_of = np.full(count, -1, np.int64)
        row_of[chosen] = np.arange(chosen.size)
        tables = [t for t in (self.row_counts(g, row_of[of_class], len(units)) for g in ragged) if t.any()]
        if not tables or not units:
            return Mode(None, units, [])
        even = np.all([(t == t[:, :1]).all(axis=1) for t in tables], axis=0)
        rest = np.flatnonzero(~even)
        columns = _columns([units[k] for k in rest], [t[rest] for t in tables]) if rest.size else []
        return Mode(None, [units[k] for k in np.flatnonzero(even)], columns)

    def row_counts(self, grid: ClassGrid, unit_of: NDArray[np.int64], units: int) -> NDArray[np.int32]:
        """`(units, rows)`: how many cells of each row a unit takes."""
        cells = unit_of[self.position[grid.cells.reshape(-1, grid.cells.shape[-1])]]
        table = np.zeros((units + 1, cells.shape[0]), np.int32)
        np.add.at(table, (cells, np.arange(cells.shape[0])[:, None]), 1)
        return table[:-1]


def _columns(units: list[Ids], tables: list[NDArray[np.int32]]) -> list[list[list[Ids]]]:
    """Buckets of units that take the same cells per row; sets of buckets that are balanced together.

    Two buckets belong together when one grid needs both: every row of it has to lose as many cells.
    """
    table = np.concatenate(tables, axis=1)
    grid_of_row = np.repeat(np.arange(len(tables)), [t.shape[1] for t in tables])
    shapes, bucket_of = np.unique(table, axis=0, return_inverse=True)
    touched = np.stack([shapes[:, grid_of_row == g].any(axis=1) for g in range(len(tables))], axis=1)
    a, b = np.nonzero(touched)
    _, linked = components(len(shapes) + len(tables), [(a.astype(np.int32), (b + len(shapes)).astype(np.int32))])
    members = {int(k): [units[i] for i in np.flatnonzero(bucket_of.ravel() == k)] for k in range(len(shapes))}
    result = []
    for one in np.unique(linked[: len(shapes)]):
        chosen = np.flatnonzero(linked[: len(shapes)] == one)
        pure = chosen[[_pure(shapes[k], grid_of_row) for k in chosen]]
        for candidate in (chosen, pure):
            total = shapes[candidate].sum(axis=0)
            if candidate.size and all(np.unique(total[grid_of_row == g]).size == 1 for g in np.unique(grid_of_row)):
                result.append([members[int(k)] for k in candidate])
                break
    return result


def _pure(shape: NDArray[np.int32], grid_of_row: NDArray[np.int64]) -> bool:
    """It takes the same number of cells from every row that it touches."""
    return all(np.unique(part[part > 0]).size <= 1 for part in (shape[grid_of_row == g] for g in np.unique(grid_of_row)))


def _connected_order(grids: list[ClassGrid]) -> list[ClassGrid]:
    """Each grid shares classes with one before it."""
    classes = [set(np.concatenate([g.cells.ravel(), *[a for a in g.axis_classes if a is not None]]).tolist()) for g in grids]
    order, seen = [0], set(classes[0])
    left = list(range(1, len(grids)))
    while left:
        following = next((k for k in left if classes[k] & seen), left[0])
        left.remove(following)
        order.append(following)
        seen |= classes[following]
    return [grids[k] for k in order]
