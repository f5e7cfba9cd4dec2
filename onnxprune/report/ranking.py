"""Rankings: which channels of every group, and of every initializer by itself, matter least and most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Group, Groups
from onnxprune.report.report import count_params
from onnxprune.report.tables import Note, plural
from onnxprune.select.context import Curve, Floats, ScoreContext, Scores

NEAR_ZERO = 1e-3
_LARGEST = 20


@dataclass(frozen=True)
class GroupRanking:
    """One group.

    Attributes:
        id: of the group.
        kind: of its units.
        exact: removing a unit equals putting zeros into its weights.
        units: how many there are.
        members: (weight, axis) that its units touch.
        params: share of the model's parameters that its units hold.
        scores: importances, per bucket.
        names: of the elements, per bucket: the index on the first axis of the group, for units of several slices the
            number of the unit; `bucket/element` where that says nothing.
        curve: what is lost as units go, from criteria that know it.
    """

    id: str
    kind: str
    exact: bool
    units: int
    members: list[tuple[str, int]]
    params: float
    scores: list[Floats]
    names: list[list[str]]
    curve: Curve | None

    @property
    def ranked(self) -> list[str]:
        """Names of all elements, the least important first."""
        names = [name for bucket in self.names for name in bucket]
        return [names[k] for k in np.argsort(np.concatenate(self.scores), kind="stable")]

    @property
    def spread(self) -> tuple[float, float, float]:
        """Lowest, median and highest score."""
        every = np.concatenate(self.scores)
        return float(every.min()), float(np.median(every)), float(every.max())


@dataclass(frozen=True)
class InitializerRanking:
    """One initializer, judged by itself.

    Attributes:
        name: tensor name.
        shape: its shape.
        axis: the axis of its channels: the one it writes, else the first one that is labelled.
        params: share of the model's parameters.
        rms: its Euclidean norm per element: ||W|| / sqrt(elements).
        near_zero: share of elements of at most 1e-3 of its largest magnitude.
        norms: Euclidean norm of each slice of the axis.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    params: float
    rms: float
    near_zero: float
    norms: Floats

    @property
    def ranked(self) -> list[str]:
        """Indices of the slices, the smallest first."""
        return [str(k) for k in np.argsort(self.norms, kind="stable")]


def rank_groups(context: ScoreContext, scores: Scores) -> list[GroupRanking]:
    """All groups, in their order."""
    total = count_params(context.groups) or 1
    return [
        GroupRanking(
            group.id,
            group.kind,
            group.exact,
            group.units,
            group.members,
            group.units * group.unit_params / total,
            own,
            _names(context.groups, group),
            scores.curves.get(group.id),
        )
        for group, own in zip(context.groups.groups, scores, strict=True)
    ]


def _names(groups: Groups, group: Group) -> list[list[str]]:
    weight, axis = group.members[0]
    classes = groups.classes.of_label[groups.trace.weights[weight].labels[axis].ravel()]
    places: dict[int, list[int]] = {}
    for k, c in enumerate(classes.tolist()):
        places.setdefault(c, []).append(k)

    def name(b: int, k: int, unit: Ids) -> str:
        own = [place for c in np.unique(unit).tolist() for place in places.get(c, ())]
        return str(own[0]) if len(own) == 1 else f"{b}/{k}" if len(group.buckets) > 1 else str(k)

    return [[name(b, k, unit) for k, unit in enumerate(bucket)] for b, bucket in enumerate(group.buckets)]


def rank_initializers(context: ScoreContext) -> list[InitializerRanking]:
    """All weights of the file that have channels, the largest first."""
    total = count_params(context.groups) or 1
    clones = context.groups.trace.clones
    rows = []
    for weight, array in context.arrays(lambda w: bool(w.labels) and w.name not in clones):
        axis = min(weight.labels, key=lambda a: (context.use(weight.name, a).role != "writes", a))
        squares = np.square(array)
        norms = np.sqrt(squares.sum(axis=tuple(a for a in range(array.ndim) if a != axis)))
        magnitude = np.abs(array)
        near = float((magnitude <= NEAR_ZERO * magnitude.max()).mean())
        rms = math.sqrt(float(squares.mean()))
        rows.append(InitializerRanking(weight.name, weight.shape, axis, array.size / total, rms, near, norms))
    return sorted(rows, key=lambda row: -row.params)


def groups_ranking_table(rows: Iterable[GroupRanking], top: int) -> Table:
    """One row for each group; lowest and highest score as multiples of the median."""
    table = _table("group", "units", ("params", "lowest", "highest"), top)
    for row in rows:
        low, middle, high = row.spread
        kind = f"{row.units:,} {row.kind}{'' if row.exact else ' *'}"
        table.add_row(row.id, kind, _share(row.params), _times(low, middle), _times(high, middle), *_ends(row.ranked, top))
    return table


def initializers_ranking_table(rows: Sequence[InitializerRanking], top: int, *, verbose: bool) -> Table:
    """One row for each initializer, the largest only unless `verbose`."""
    table = _table("tensor:axis", "slices", ("params", "rms", "near 0"), top, folded=True)
    for row in rows if verbose else rows[:_LARGEST]:
        figures = (_share(row.params), f"{row.rms:.3g}", _share(row.near_zero))
        table.add_row(Text(f"{row.name}:{row.axis}"), f"{row.norms.size:,}", *figures, *_ends(row.ranked, top))
    return table


def ranking_notes(
    groups: Sequence[GroupRanking], initializers: Sequence[InitializerRanking], *, verbose: bool
) -> list[Note]:
    """What the columns mean."""
    notes = []
    if not groups:
        notes.append(Note("groups", "none: nothing can be removed"))
    else:
        notes.append(Note("scores", "lowest and highest of the group, as multiples of its median"))
        numbers = "indices on the first axis of the group; of units of several slices their number"
        notes.append(Note("least, most", f"important: {numbers}"))
    notes.append(Note("rms", "Euclidean norm per element of the tensor; its slices are ranked by their norm"))
    notes.append(Note("near 0", f"elements of at most {NEAR_ZERO:g} of the largest magnitude"))
    if len(initializers) > _LARGEST and not verbose:
        notes.append(Note("", f"{plural(len(initializers) - _LARGEST, 'smaller initializer')} not shown (-v lists them)"))
    return notes


def _table(name: str, count: str, figures: Sequence[str], top: int, *, folded: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(name, no_wrap=not folded, overflow="fold", ratio=2 if folded else None)
    table.add_column(count, justify="right" if folded else "left", no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    if top:
        table.add_column("least", overflow="fold")
        table.add_column("most", overflow="fold")
    return table


def _ends(ranked: Sequence[str], top: int) -> list[str]:
    """The first and the last ones, the extremes first."""
    return [", ".join(ranked[:top]), ", ".join(ranked[::-1][:top])] if top else []


def _share(part: float) -> str:
    return f"{part * 100:.1f} %"


def _times(value: float, middle: float) -> str:
    if not middle:
        return "0" if not value else f"{value:.2g}"
    times = value / middle
    return f"{times:.2f}x" if times < 100 else f"{times:.2g}x"
