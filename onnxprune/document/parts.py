"""What a document consists of, as plain data: every form of it is written from this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NOT_MEASURED = "not measured"

Tone = Literal["plain", "good", "bad", "warning"]  # the text beside it says the same


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what people read.
        value: what it is sorted by, and what CSV holds; the text where it is no number.
        code: a name from a model or a file, which is set apart from words.
        bars: lengths 0..1, one for each of the compared models; None for a model without.
    """

    text: str
    value: float | None = None
    code: bool = False
    bars: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Column:
    """Its title; figures stand at the right."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        name: short, different for each table: for CSV and anchors.
        caption: what it shows, in units.
        columns: of the rows.
        rows: one cell for each column.
        folded: shown on demand, being long.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Fact:
    """One figure of the summary.

    Attributes:
        title: what it is.
        value: the figure, large.
        detail: before and after, or the interval.
    """

    title: str
    value: str
    detail: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Point:
    """A model in a trade-off.

    Attributes:
        name: of the model.
        x: what it costs.
        y: what it is worth.
        low: lower end of the interval of `y`.
        high: upper end.
        size: what the area of its mark stands for, in bytes.
        best: no other model is better in something and no worse in anything, in quantities that are not drawn too.
    """

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    size: float | None = None
    best: bool = True


@dataclass(frozen=True)
class Tradeoff:
    """A plot of points.

    Attributes:
        name: short, different for each chart.
        title: what it shows.
        x: label with unit.
        y: label with unit.
        points: the source first.
        higher: a larger `y` is better.
        notes: what marks and lines mean.
    """

    name: str
    title: str
    x: str
    y: str
    points: tuple[Point, ...]
    higher: bool = True
    notes: tuple[str, ...] = ()

    @property
    def front(self) -> tuple[Point, ...]:
        """Points that no other beats in this plot, from the left; none where there are only two points."""
        if len(self.points) < 3:
            return ()
        sign = 1.0 if self.higher else -1.0
        kept: list[Point] = []
        for p in sorted(self.points, key=lambda p: (p.x, -sign * p.y)):
            if not kept or sign * p.y > sign * kept[-1].y:
                kept.append(p)
        return tuple(kept)

    @property
    def description(self) -> str:
        """The plot in words, for those who do not see it."""
        told = "; ".join(f"{p.name}: {self.x} {p.x:.4g}, {self.y} {p.y:.4g}" for p in self.points)
        return f"{self.title}. {told}."


@dataclass(frozen=True)
class Spread:
    """Durations of all runs of one model, in ms."""

    name: str
    ms: NDArray[np.float64] = field(repr=False)

    def quantile(self, share: float) -> float:
        """In ms."""
        return float(np.quantile(self.ms, share))


@dataclass(frozen=True)
class Spreads:
    """Histograms above each other, on one axis."""

    name: str
    title: str
    rows: tuple[Spread, ...]
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The plot in words."""
        told = "; ".join(
            f"{r.name}: p50 {r.quantile(0.5):.4g} ms, p90 {r.quantile(0.9):.4g} ms, p99 {r.quantile(0.99):.4g} ms"
            for r in self.rows
        )
        return f"{self.title}. {told}."


@dataclass(frozen=True)
class Command:
    """A line for a shell, and what it makes."""

    title: str
    text: str


Block = Table | Note | Tradeoff | Spreads | Command


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it. `brief` sections also go into short forms, unfolded."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    brief: bool = False


@dataclass(frozen=True)
class Document:
    """Everything.

    Attributes:
        title: of the document.
        subtitle: when, and by what.
        facts: the figures that matter most.
        findings: what they mean, in sentences.
        sections: in order.
        models: names of the compared models, for the legend of bars.
    """

    title: str
    subtitle: str
    facts: tuple[Fact, ...]
    findings: tuple[Note, ...]
    sections: tuple[Section, ...]
    models: tuple[str, ...]

    @property
    def charts(self) -> tuple[Tradeoff | Spreads, ...]:
        """All plots, in order."""
        return tuple(b for s in self.sections for b in s.blocks if isinstance(b, Tradeoff | Spreads))

    @property
    def tables(self) -> tuple[tuple[Section, Table], ...]:
        """All tables with their sections, in order."""
        return tuple((s, b) for s in self.sections for b in s.blocks if isinstance(b, Table))


def upper(words: str) -> str:
    """With a capital letter, as a sentence begins."""
    return words[:1].upper() + words[1:]


def text(value: str) -> Cell:
    """Words."""
    return Cell(value)


def name(value: str) -> Cell:
    """A name from a model or a file."""
    return Cell(value, code=True)


def number(value: float | None, shown: str) -> Cell:
    """A figure, or that there is none."""
    return Cell(NOT_MEASURED) if value is None else Cell(shown, float(value))
