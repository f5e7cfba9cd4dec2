"""Solves the ties: classes of labels, which of them can go, and the grids in terms of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.trace.labels import LabelSpace

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]
Cut = int | None  # the axis whose hyperplanes are units; None: single cells of the last axis, ragged


def components(count: int, pairs: Iterable[tuple[Ids, Ids]]) -> tuple[int, Ids]:
    """Connected components of `count` nodes: how many, and the component of each."""
    a, b = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for x, y in pairs:
        a.append(np.asarray(x, np.int32).ravel())
        b.append(np.asarray(y, np.int32).ravel())
    rows, columns = np.concatenate(a), np.concatenate(b)
    graph = coo_array((np.ones(rows.size, np.int8), (rows, columns)), shape=(count, count))
    n, ids = connected_components(graph, directed=False)
    return int(n), ids.astype(np.int32)


@dataclass
class ClassGrid:
    """A grid in terms of classes; see `onnxprune.trace.labels.Grid`.

    Attributes:
        ragged: the last axis may lose different cells in different rows: no operator needs it alone, and no tensor holds
            the cells in another order of axes (a channel shuffle does).
    """

    cells: Ids
    axis_classes: list[Ids | None]
    attention: bool
    ragged: bool

    @cached_property
    def everything(self) -> Ids:
        """Cells and labels of hyperplanes."""
        return np.concatenate([self.cells.ravel(), *[own for own in self.axis_classes if own is not None]])

    @property
    def row_cuts(self) -> list[Cut]:
        """All axes but the last."""
        return list(range(self.cells.ndim - 1))

    @property
    def column_cut(self) -> Cut:
        """The last axis, ragged where it may be."""
        return None if self.ragged else self.cells.ndim - 1

    def cuts(self, heads: bool | None) -> list[Cut]:
        """Ways to cut it; along rows (`heads`) or columns only where it is a grid of attention."""
        if heads is None or not self.attention:
            return [*self.row_cuts, self.column_cut]
        return self.row_cuts if heads else [self.column_cut]

    def kept_by(self, heads: bool | None) -> list[Ids]:
        """Labels of hyperplanes that stay whichever of these cuts is taken."""
        taken = {self.cells.ndim - 1 if c is None else c for c in self.cuts(heads)}
        return [own for axis, own in enumerate(self.axis_classes) if own is not None and axis not in taken]

    def plane_pairs(self, axis: int) -> Iterable[tuple[Ids, Ids]]:
        """Ties that let whole hyperplanes of one axis go only."""
        planes = np.moveaxis(self.cells, axis, 0).reshape(self.cells.shape[axis], -1)
        yield np.repeat(planes[:, 0], planes.shape[1]), planes
        own = self.axis_classes[axis]
        if own is not None:
            yield own, planes[:, 0]


@dataclass
class Classes:
    """Classes of labels that are removed together.

    Attributes:
        of_label: class of each label.
        count: number of classes.
        frozen: class -> index of the reason in `reasons`, -1 where it can go.
        inexact: the same for classes that can go only inexactly.
        reasons: texts.
        grids: the distinct grids.
    """

    of_label: Ids
    count: int
    frozen: Ids
    inexact: Ids
    reasons: list[str] = field(default_factory=list)
    grids: list[ClassGrid] = field(default_factory=list)

    def reason(self, classes: Ids) -> str | None:
        """Why some of these classes can't go; None where all can."""
        held = self.frozen[classes]
        held = held[held >= 0]
        return self.reasons[held[0]] if held.size else None


def solve(space: LabelSpace) -> Classes:
    """Union-find over all ties; equal grids share the labels of their hyperplanes."""
    ties: list[tuple[Ids, Ids]] = list(space.ties)
    while True:
        count, of_label = components(space.size, ties)
        merged: dict[tuple[object, ...], tuple[NDArray[np.int32], list[Ids | None], bool]] = {}
        added = 0
        for grid in space.grids.values():
            cells = of_label[grid.cells]
            key = (cells.shape, cells.tobytes())
            if key not in merged:
                merged[key] = (cells, list(grid.axis_labels), grid.attention)
                continue
            _, axes, attention = merged[key]
            for k, (old, new) in enumerate(zip(axes, grid.axis_labels, strict=True)):
                if old is None:
                    axes[k] = new
                elif new is not None and not np.array_equal(of_label[old], of_label[new]):
                    ties.append((old, new))
                    added += 1
            merged[key] = (cells, axes, attention or grid.attention)
        if not added:
            break
    classes = Classes(of_label, count, np.full(count, -1, np.int32), np.full(count, -1, np.int32))
    for cells, axes, attention in merged.values():
        turned = False
        for perm in list(permutations(range(cells.ndim)))[1:]:
            other = cells.transpose(perm)
            turned |= (other.shape, other.tobytes()) in merged
        resolved = [None if a is None else of_label[a] for a in axes]
        classes.grids.append(ClassGrid(cells, resolved, attention, not turned and axes[-1] is None))
    _mark(classes, classes.frozen, space.frozen)
    _mark(classes, classes.inexact, space.inexact)
    return classes


def _mark(classes: Classes, target: Ids, facts: Sequence[tuple[Ids, str]]) -> None:
    """The first reason given for a class is the one that is kept."""
    for labels, reason in reversed(facts):
        target[classes.of_label[labels]] = len(classes.reasons)
        classes.reasons.append(reason)
