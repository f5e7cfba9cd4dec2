"""Cutting grids into units: along rows, along columns, or into cells of which each row loses as many."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import ClassGrid, Cut, Ids, Mask, components


@dataclass
class Mode:
    """One way to cut a component.

    Attributes:
        columns_first: its first grid was cut along the last axis.
        balanced: units that take equally many cells from every row of every grid by themselves.
        columns: buckets of which one element each does so together.
    """

    columns_first: bool
    balanced: list[Ids]
    columns: list[list[list[Ids]]]

    @property
    def grain(self) -> float:
        """How finely the component can be pruned: effective number of units, times the classes that can go.

        The effective number `(sum s)^2 / sum s^2` of units of sizes `s` is their number where all are equal; one large unit
        among many small ones counts for little, as it can hardly be chosen.
        """
        sizes = [float(u.size) for u in self.balanced]
        for buckets in self.columns:
            count = min(len(b) for b in buckets)
            sizes += [sum(u.size for b in buckets for u in b) / count] * count
        total = sum(sizes)
        return total**3 / sum(s * s for s in sizes) if sizes else 0.0


class Component:
    """Grids that share cells or hyperplanes, head grids first."""

    def __init__(self, grids: Sequence[ClassGrid], held: Mask, count: int) -> None:
        self.grids = _connected_order(sorted(grids, key=lambda g: (not g.attention, -g.cells.size)))
        cells = np.unique(np.concatenate([g.cells.ravel() for g in grids]))
        self.local: Ids = np.unique(np.concatenate([g.everything for g in grids]))
        self.is_cell: Mask = np.isin(self.local, cells)
        self.held: Mask = held[self.local]
        self.position = np.full(count, -1, np.int32)
        self.position[self.local] = np.arange(self.local.size, dtype=np.int32)

    def mode(self, first: Cut, *, heads: bool | None = None) -> Mode:
        """Cuts the first grid as asked for, then each further one so that the grain stays fine.

        A grid that is cut along one axis keeps the hyperplanes of the others: their labels are held, wherever else they
        appear. So whatever is removed afterwards, a hyperplane is dead exactly when all its cells are.

        Args:
            first: cut of the first grid.
            heads: cut grids of attention along rows (True) or columns (False) only; None: as any other grid.
        """
        pairs: list[tuple[Ids, Ids]] = []
        ragged: list[ClassGrid] = []
        ties = Ties(self.local.size)
        held = self.held.copy()
        moving = np.zeros_like(held)  # hyperplanes that die with a unit: a later grid is cut along them too
        for k, grid in enumerate(self.grids):
            cuts = [first] if k == 0 else grid.cuts(heads)
            cuts = [c for c in cuts if (self.planes(grid, [c]) & moving).any()] or cuts
            if len(cuts) > 1:
                cuts = next(([c] for c in cuts if self.is_cut(grid, c, ties)), cuts)
            if len(cuts) > 1:
                gains = [self.gain(grid, c, pairs, ragged, held) for c in cuts]
                cuts = [cuts[gains.index(max(gains))]]
            new = self.cut_pairs(grid, cuts[0])
            for a, b in new:
                ties.add(a, b)
            pairs += new
            ragged += [grid] if cuts[0] is None else []
            moving |= self.planes(grid, [cuts[0]])
            held |= self.kept_planes(grid, cuts[0])
        mode = self.units(pairs, ragged, held)
        mode.columns_first = first == self.grids[0].column_cut
        return mode

    def is_cut(self, grid: ClassGrid, cut: Cut, ties: Ties) -> bool:
        """Whether what is tied already makes a cut, so that no other one can be better."""
        axis = grid.cells.ndim - 1 if cut is None else cut
        if any(own is not None for a, own in enumerate(grid.axis_classes) if a != axis):
            return False
        if cut is None:  # each unit takes equally many cells from every row
            roots = np.sort(ties.find(self.position[grid.cells]).reshape(-1, grid.cells.shape[-1]), axis=1)
            return bool((roots == roots[:1]).all())
        return all(np.array_equal(ties.find(a.ravel()), ties.find(b.ravel())) for a, b in self.cut_pairs(grid, cut))

    def best(self, *, heads: bool | None = None) -> Mode:
        """The finest of all ways to cut the first grid; see `mode`."""
        return max((self.mode(cut, heads=heads) for cut in self.grids[0].cuts(heads)), key=lambda m: m.grain)

    def cut_pairs(self, grid: ClassGrid, cut: Cut) -> list[tuple[Ids, Ids]]:
        """Ties that a cut adds."""
        return [] if cut is None else [(self.position[a], self.position[b]) for a, b in grid.plane_pairs(cut)]

    def planes(self, grid: ClassGrid, axes: Sequence[Cut]) -> Mask:
        """Labels of the hyperplanes of some axes of a grid."""
        found = np.zeros(self.local.size, np.bool_)
        for axis, own in enumerate(grid.axis_classes):
            if own is not None and axis in axes:
                found[self.position[own]] = True
        return found

    def kept_planes(self, grid: ClassGrid, cut: Cut) -> Mask:
        """Labels of hyperplanes that a cut along another axis keeps."""
        return self.planes(grid, [a for a in range(grid.cells.ndim) if a != cut])

    def gain(
        self, grid: ClassGrid, cut: Cut, pairs: list[tuple[Ids, Ids]], ragged: list[ClassGrid], held: Mask
    ) -> tuple[float, int]:
        """Grain after a cut, then units of the grid itself."""
        uneven = [*ragged, grid] if cut is None else ragged
        width = grid.cells.size if cut is None else grid.cells.shape[cut]
        return self.units(pairs + self.cut_pairs(grid, cut), uneven, held | self.kept_planes(grid, cut)).grain, width

    def units(self, pairs: Sequence[tuple[Ids, Ids]], ragged: Sequence[ClassGrid], held: Mask) -> Mode:
        """Units under some ties and grids that have to stay balanced."""
        count, of_class = components(self.local.size, pairs)
        usable = np.zeros(count, np.bool_)
        usable[of_class[self.is_cell]] = True
        usable[of_class[held]] = False
        order = np.argsort(of_class, kind="stable")
        parts = np.split(self.local[order], np.flatnonzero(np.diff(of_class[order])) + 1)
        chosen = np.flatnonzero(usable)
        units = [parts[k] for k in chosen]
        unit_of = np.full(count, -1, np.int64)
        unit_of[chosen] = np.arange(chosen.size)
        tables = [t for t in (self.row_counts(g, unit_of[of_class]) for g in ragged) if t.units.size]
        if not tables or not units:
            return Mode(False, units, [])
        uneven = np.unique(np.concatenate([t.uneven() for t in tables]))
        columns = _columns(units, uneven, tables) if uneven.size else []
        even = np.setdiff1d(np.arange(len(units)), uneven, assume_unique=True)
        return Mode(False, [units[k] for k in even], columns)

    def row_counts(self, grid: ClassGrid, unit_of: NDArray[np.int64]) -> RowCounts:
        """How many cells of each row of a grid the units take."""
        rows = grid.cells.size // grid.cells.shape[-1]
        cells = unit_of[self.position[grid.cells.reshape(rows, -1)]]
        keys = (cells * rows + np.arange(rows)[:, None])[cells >= 0]
        found, counts = np.unique(keys, return_counts=True)
        return RowCounts(found // rows, found % rows, counts, rows)


@dataclass
class RowCounts:
    """Sparse table: unit `units[i]` takes `counts[i]` cells of row `rows[i]`, out of `size` rows."""

    units: NDArray[np.int64]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    size: int

    def uneven(self) -> NDArray[np.int64]:
        """Units that do not take equally many cells from every row."""
        ids, start, touched = np.unique(self.units, return_index=True, return_counts=True)
        most, least = np.maximum.reduceat(self.counts, start), np.minimum.reduceat(self.counts, start)
        return np.asarray(ids[(touched < self.size) | (most != least)])


def _columns(units: list[Ids], uneven: NDArray[np.int64], tables: Sequence[RowCounts]) -> list[list[list[Ids]]]:
    """Buckets of units that take the same cells per row; sets of buckets that are balanced together.

    Two buckets belong together when one grid needs both: every row of it has to lose as many cells.
    """
    rng = np.random.default_rng(0)
    signature = np.zeros(len(units), np.uint64)
    for table in tables:  # units with equal counts in all rows have equal sums of random numbers
        keys = rng.integers(0, 2**63, table.size, dtype=np.uint64)
        np.add.at(signature, table.units, keys[table.rows] * table.counts.astype(np.uint64))
    _, first, bucket_of = np.unique(signature[uneven], return_index=True, return_inverse=True)
    bucket_of = bucket_of.ravel()
    speakers = uneven[first]
    profiles = [[_profile(t, int(u)) for t in tables] for u in speakers]
    touched = [(b, g) for b, profile in enumerate(profiles) for g, (rows, _) in enumerate(profile) if rows.size]
    pairs = np.array(touched, np.int32).reshape(-1, 2)
    _, linked = components(len(speakers) + len(tables), [(pairs[:, 0], pairs[:, 1] + np.int32(len(speakers)))])
    result = []
    for one in np.unique(linked[: len(speakers)]):
        chosen = np.flatnonzero(linked[: len(speakers)] == one).tolist()
        pure = [b for b in chosen if all(np.unique(counts).size <= 1 for _, counts in profiles[b])]
        balanced = next((c for c in (chosen, pure) if c and _balanced(c, profiles, tables)), None)
        if balanced is not None:
            result.append([[units[k] for k in uneven[bucket_of == b]] for b in balanced])
    return result


def _profile(table: RowCounts, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that one unit touches, and how many cells of each."""
    a, b = np.searchsorted(table.units, [unit, unit + 1])
    return table.rows[a:b], table.counts[a:b]


def _balanced(
    buckets: Sequence[int],
    profiles: Sequence[Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]],
    tables: Sequence[RowCounts],
) -> bool:
    """One unit of each bucket takes equally many cells from every row of every grid."""
    for g, table in enumerate(tables):
        total = np.zeros(table.size, np.int64)
        for b in buckets:
            rows, counts = profiles[b][g]
            total[rows] += counts
        if (total != total[0]).any():
            return False
    return True


class Ties:
    """Union-find over arrays."""

    def __init__(self, size: int) -> None:
        self.parent: Ids = np.arange(size, dtype=np.int32)

    def find(self, ids: Ids) -> Ids:
        """The root of each."""
        roots = self.parent[ids]
        while not np.array_equal(above := self.parent[roots], roots):
            roots = above
        self.parent[ids] = roots
        return np.asarray(roots)

    def add(self, a: Ids, b: Ids) -> None:
        """Unites two arrays position by position."""
        known, places = np.unique(np.concatenate([self.find(a.ravel()), self.find(b.ravel())]), return_inverse=True)
        half = places.size // 2
        count, of_known = components(known.size, [(places[:half].astype(np.int32), places[half:].astype(np.int32))])
        roots = np.zeros(count, np.int32)
        roots[of_known] = known
        self.parent[known] = roots[of_known]


def _connected_order(grids: list[ClassGrid]) -> list[ClassGrid]:
    """Each grid shares classes with one before it; the first that does comes first."""
    holders: dict[int, list[int]] = {}
    classes = [np.unique(g.everything) for g in grids]
    for k, ids in enumerate(classes):
        for c in ids.tolist():
            holders.setdefault(c, []).append(k)
    order: list[int] = []
    waiting, seen = [0], {0}
    while waiting:
        k = heapq.heappop(waiting)
        order.append(k)
        for c in classes[k].tolist():
            for other in holders.pop(c, ()):
                if other not in seen:
                    seen.add(other)
                    heapq.heappush(waiting, other)
    return [grids[k] for k in order]
