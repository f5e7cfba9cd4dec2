"""Labels: one integer for one channel of one weight, and what is known about how they live and die together.

A *label* stands for one index of one axis of one weight. Three facts are collected while a graph is traced and solved
once at the end (`onnxprune.groups`):

* **ties**: two labels are removed together or not at all;
* **frozen** labels can't be removed, with a reason a user can act on; **inexact** ones can, but not without changing what
  the remaining channels compute;
* **grids**: where a tensor splits labels over several axes, it has to stay a box.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Field:
    """Which label each slice of a tensor comes from.

    Attributes:
        axes: axes of the tensor, ascending; `labels.ndim == len(axes)`.
        labels: `labels.shape[i]` is the tensor's size on `axes[i]`.
        zero: the slice is exactly 0 wherever the weights of its label are 0.
    """

    axes: tuple[int, ...]
    labels: Labels
    zero: bool

    @property
    def joint(self) -> bool:
        """True where the labels run over more than one axis."""
        return len(self.axes) > 1


@dataclass
class Grid:
    """Labels that some tensor holds over several axes: `cells` has one dimension per axis.

    All axes but the last can lose whole hyperplanes only. The last may lose different cells in different rows, as many in
    each (*ragged*), until an operator needs it alone and gives it labels of its own.

    Attributes:
        cells: label of each cell.
        axis_labels: for each axis the labels of its hyperplanes, dead when all cells of the hyperplane are dead;
            None while no operator needed the axis alone.
        attention: the product of two activations separated it: its rows are heads.
    """

    cells: Labels
    axis_labels: list[Labels | None]
    attention: bool = False


@dataclass
class LabelSpace:
    """All labels of one trace. Rules only add facts; nothing is solved before the trace is complete.

    Attributes:
        size: number of labels.
        ties: arrays of labels that go together, position by position.
        frozen: labels that stay, with the reason.
        inexact: labels whose removal changes a statistic, with the reason.
        fills: labels whose removed slices are neutral at another value than 0.
        grids: by content.
        touched: labels about which something was said at the node under trace: what a rule passes over in silence is
            frozen.
        free: ranges of labels of broadcast axes, which no weight stands behind.
    """

    size: int = 0
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[tuple[Labels, str]] = field(default_factory=list)
    inexact: list[tuple[Labels, str]] = field(default_factory=list)
    fills: list[tuple[Labels, float]] = field(default_factory=list)
    grids: dict[tuple[Any, ...], Grid] = field(default_factory=dict)
    touched: list[Labels] = field(default_factory=list)
    free: list[tuple[int, int]] = field(default_factory=list)

    def fresh(self, *shape: int) -> Labels:
        """New labels in an array of this shape."""
        count = int(np.prod(shape, dtype=np.int64))
        labels = np.arange(self.size, self.size + count, dtype=np.int32).reshape(shape)
        self.size += count
        return labels

    def fresh_free(self, size: int) -> Labels:
        """New labels of a broadcast axis."""
        labels = self.fresh(size)
        self.free.append((int(labels[0]), int(labels[-1])))
        return labels

    def is_free(self, labels: Labels) -> bool:
        """True where all labels are of one broadcast axis."""
        low, high = int(labels.min()), int(labels.max())
        return any(a <= low and high <= b for a, b in self.free)

    def product(self, axes: tuple[int, int], rows: Field, columns: Field) -> Field:
        """Two fields of one axis each as one over both: a cell dies with its row or its column."""
        cells = self.fresh(rows.labels.size, columns.labels.size)
        grid = self.grid(cells)
        grid.axis_labels = [rows.labels, columns.labels]
        self.touched += [rows.labels, columns.labels]
        return Field(axes, cells, rows.zero and columns.zero)

    def tie(self, a: Labels, b: Labels) -> None:
        """Ties labels position by position; the shapes broadcast."""
        if a is b:
            return
        a, b = np.broadcast_arrays(a, b)
        self.touched += [a, b]
        self.ties.append((a.ravel(), b.ravel()))

    def freeze(self, labels: Labels, reason: str) -> None:
        """None of these labels can be removed."""
        self.touched.append(labels)
        if labels.size:
            self.frozen.append((labels.ravel(), reason))

    def mark_inexact(self, labels: Labels, reason: str) -> None:
        """Removing these labels changes a statistic that other channels depend on."""
        self.touched.append(labels)
        if labels.size:
            self.inexact.append((labels.ravel(), reason))

    def end(self, labels: Labels) -> None:
        """Nothing follows for these labels: slices that are not picked, terms of a sum that are 0 once removed."""
        self.touched.append(labels)

    def fill(self, labels: Labels, value: float) -> None:
        """A removed slice of a weight with these labels is neutral at `value`, not at 0 (a divisor, a zero point)."""
        self.fills.append((labels.ravel(), value))

    def grid(self, cells: Labels) -> Grid:
        """The grid of these cells; recorded at the first call, the same object ever after."""
        cells = np.ascontiguousarray(cells)
        key = (cells.shape, hash(cells.tobytes()))
        if key not in self.grids:
            self.grids[key] = Grid(cells, [None] * cells.ndim)
        return self.grids[key]

    def separate(self, f: Field, axis: int, *, attention: bool = False) -> Labels:
        """The labels of one axis of a field alone: its own where it has one axis, else those of the grid's hyperplanes."""
        if not f.joint:
            return f.labels
        grid = self.grid(f.labels)
        grid.attention |= attention
        position = f.axes.index(axis)
        labels = grid.axis_labels[position]
        if labels is None:
            labels = grid.axis_labels[position] = self.fresh(f.labels.shape[position])
        return labels

    def across(self, f: Field, axis: int) -> Labels:
        """The labels of an axis along which an operator compares or mixes slices.

        What it combines has to be at the same place in each slice, so no other axis of the field may be ragged.
        """
        for other in f.axes:
            self.separate(f, other)
        return self.separate(f, axis)
