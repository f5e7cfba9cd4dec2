"""Charts as marks with places: what a template writes as SVG, at any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxprune.document.parts import Point, Spreads, Tradeoff
from onnxprune.document.scores import share_text
from onnxprune.report.tables import si

Floats = NDArray[np.float64]

_ROW, _BINS, _BAR = 74.0, 48, 36.0  # of a histogram: height of a row, number of bars, height of the highest
_LOG = 8.0  # times the fastest run, from where on an axis is logarithmic
_CHAR = 7.2  # width of a character of the labels, about


@dataclass(frozen=True)
class Line:
    """From one place to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    style: str


@dataclass(frozen=True)
class Shape:
    """A path of SVG, with a title that pointers show."""

    path: str
    style: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    """Text; `anchor` is `start`, `middle` or `end`. `turn` is in degrees around its place."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    style: str = "label"
    turn: int = 0


@dataclass
class Picture:
    """Marks on a canvas; lines first, text last."""

    width: float
    height: float
    title: str
    description: str
    lines: list[Line] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def draw(chart: Tradeoff | Spreads, width: float) -> Picture:
    """A chart at a width in CSS pixels; text keeps its size."""
    return _tradeoff(chart, width) if isinstance(chart, Tradeoff) else _spreads(chart, width)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many round numbers within a range, evenly spaced by 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    for exponent in range(math.floor(math.log10(span)) - 2, math.floor(math.log10(span)) + 2):
        for mantissa in (1, 2, 5):
            step = mantissa * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return [k * step for k in range(first, last + 1)]
    return [low, high]


def tick_text(value: float) -> str:
    """Without digits that say nothing."""
    value = float(f"{value:.6g}")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


# ---- trade-off ----


def _tradeoff(chart: Tradeoff, width: float) -> Picture:
    height = 340.0
    left, right, top, bottom = 62.0, width - 18.0, 16.0, height - 50.0
    picture = Picture(width, height, chart.title, chart.description)
    xs = _range([p.x for p in chart.points])
    ys = _range([v for p in chart.points for v in (p.y, p.low, p.high) if v is not None])
    x, y = _scale(xs, (left, right)), _scale(ys, (bottom, top))
    for tick in ticks(*xs, 5 if width < 480 else 7):
        picture.lines.append(Line(x(tick), top, x(tick), bottom, "grid"))
        picture.labels.append(Label(x(tick), bottom + 18, tick_text(tick)))
    for tick in ticks(*ys, 6):
        picture.lines.append(Line(left, y(tick), right, y(tick), "grid"))
        picture.labels.append(Label(left - 8, y(tick) + 4, tick_text(tick), "end"))
    picture.labels.append(Label((left + right) / 2, height - 8, chart.x, style="axis"))
    picture.labels.append(Label(14, (top + bottom) / 2, chart.y, style="axis", turn=-90))
    _front(picture, chart, x, y)
    largest = max((p.size for p in chart.points if p.size is not None), default=0.0)
    marks = []
    for k, p in enumerate(chart.points):
        radius = 8.0 if p.size is None or not largest else max(4.5, 12.0 * math.sqrt(p.size / largest))
        marks.append((x(p.x), y(p.y), radius))
        if p.low is not None and p.high is not None:
            picture.lines.append(Line(x(p.x), y(p.low), x(p.x), y(p.high), f"interval s{k % 8}"))
            for end in (p.low, p.high):
                picture.lines.append(Line(x(p.x) - 5, y(end), x(p.x) + 5, y(end), f"interval s{k % 8}"))
        style = f"mark s{k % 8}" if p.best else f"mark beaten s{k % 8}"
        picture.shapes.append(Shape(_disc(*marks[-1]), style, _told(chart, p)))
    _name_points(picture, marks, (left, right, top, bottom))
    return picture


def _told(chart: Tradeoff, p: Point) -> str:
    size = f", {si(p.size)}B" if p.size is not None else ""
    interval = f" ({p.low:.4g} to {p.high:.4g})" if p.low is not None and p.high is not None else ""
    return f"{p.name}: {chart.x} {p.x:.4g}, {chart.y} {p.y:.4g}{interval}{size}"


def _front(picture: Picture, chart: Tradeoff, x: Callable[[float], float], y: Callable[[float], float]) -> None:
    """Joins the models that no other beats in this plot."""
    for a, b in pairwise(chart.front):
        picture.lines.append(Line(x(a.x), y(a.y), x(b.x), y(b.y), "front"))


def _name_points(
    picture: Picture, marks: Sequence[tuple[float, float, float]], frame: tuple[float, float, float, float]
) -> None:
    """Numbers beside marks, at the first of eight places that is free; the legend has the names."""
    left, right, top, bottom = frame
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in marks]
    for k, (x, y, r) in enumerate(marks):
        text = str(k + 1)
        wide, high = _CHAR * len(text) + 4, 14.0
        far = r + 4  # an interval leaves a mark upwards and downwards, so that its sides are the better places
        places = [(far + wide / 2, 0.0), (-far - wide / 2, 0.0)]
        places += [(s * (far * 0.8 + wide / 2), t * (far * 0.8 + high / 2)) for t in (-1, 1) for s in (1, -1)]
        places += [(0.0, -far - high / 2), (0.0, far + high / 2)]
        boxes = [(x + a - wide / 2, y + b - high / 2, x + a + wide / 2, y + b + high / 2) for a, b in places]
        inside = [b for b in boxes if b[0] >= left and b[2] <= right and b[1] >= top and b[3] <= bottom] or boxes
        box = min(inside, key=lambda b: sum(_overlap(b, t) for t in taken))
        taken.append(box)
        picture.labels.append(Label((box[0] + box[2]) / 2, box[3] - 2.5, text, style="number"))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The range of values and a tenth more on both sides; never empty."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    return max(low - pad, 0.0) if low >= 0 else low - pad, high + pad


def _scale(data: tuple[float, float], place: tuple[float, float]) -> Callable[[float], float]:
    return lambda value: place[0] + (value - data[0]) / (data[1] - data[0]) * (place[1] - place[0])


def _disc(x: float, y: float, r: float) -> str:
    return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"


# ---- distributions ----


@dataclass(frozen=True)
class Axis:
    """The range of durations that is drawn, in ms, and whether by logarithm: runs that were disturbed can take ages."""

    low: float
    high: float
    log: bool

    @property
    def label(self) -> str:
        """Of the axis."""
        return "duration of a run (ms, logarithmic)" if self.log else "duration of a run (ms)"

    def share(self, value: float) -> float:
        """Where on the axis a value lies, 0..1; what is beyond stands at the end."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return min((value - low) / (high - low), 1.0)

    def ticks(self, most: int) -> list[float]:
        """Round numbers."""
        if not self.log:
            return ticks(self.low, self.high, most)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**d for d in decades for m in mantissas if self.low <= m * 10.0**d <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]

    @property
    def edges(self) -> Floats:
        """Of the bars of a histogram."""
        return np.geomspace(self.low, self.high, _BINS + 1) if self.log else np.linspace(self.low, self.high, _BINS + 1)


def axis_of(chart: Spreads) -> Axis:
    """From the fastest run to a little beyond the slowest p99."""
    low = min(float(row.ms.min()) for row in chart.rows)
    high = max(row.quantile(0.99) for row in chart.rows)
    if low > 0 and high > _LOG * low:
        return Axis(low / 1.1, high * 1.1, True)
    pad = (high - low) * 0.04 or high * 0.05 or 1.0
    return Axis(max(low - pad, 0.0), high + pad, False)


def _spreads(chart: Spreads, width: float) -> Picture:
    left, right, top = 12.0, width - 12.0, 8.0
    told = [", ".join(f"p{share} {row.quantile(share / 100):.3g}" for share in (50, 90, 99)) + " ms" for row in chart.rows]
    room = int((right - left) / _CHAR)
    split = any(len(f"{row.name}: {words}") > room for row, words in zip(chart.rows, told, strict=True))
    high = _ROW + (16.0 if split else 0.0)
    bottom = top + high * len(chart.rows)
    picture = Picture(width, bottom + 46, chart.title, chart.description)
    axis = axis_of(chart)

    def x(value: float) -> float:
        return left + axis.share(value) * (right - left)

    for tick in axis.ticks(5 if width < 480 else 8):
        picture.lines.append(Line(x(tick), top, x(tick), bottom, "grid"))
        picture.labels.append(Label(min(max(x(tick), left + 12), right - 12), bottom + 17, tick_text(tick)))
    picture.labels.append(Label((left + right) / 2, bottom + 38, axis.label, style="axis"))
    for k, row in enumerate(chart.rows):
        base = top + high * (k + 1) - 6
        picture.lines.append(Line(left, base, right, base, "base"))
        beyond = float((row.ms > axis.high).mean())
        rest = f"; {share_text(beyond)} of runs lie beyond" if beyond else ""
        picture.shapes.append(Shape(_bars(row.ms, axis.edges, x, base), f"bars s{k % 8}", f"{row.name}: {told[k]}{rest}"))
        for share in (50, 90, 99):
            place = x(row.quantile(share / 100))
            picture.lines.append(Line(place, base - _BAR - 4, place, base, f"quantile q{share} s{k % 8}"))
        lines = (
            [row.name if len(row.name) <= room else f"…{row.name[1 - room :]}", told[k]]
            if split
            else [f"{row.name}: {told[k]}"]
        )
        for line, words in enumerate(reversed(lines)):
            picture.labels.append(Label(left, base - _BAR - 12 - 16 * line, words, "start", "row"))
    return picture


def _bars(ms: Floats, edges: Floats, x: Callable[[float], float], base: float) -> str:
    """A histogram as one path, its highest bar as high as that of others."""
    counts, _ = np.histogram(ms, bins=edges)
    most = counts.max() or 1
    parts = [
        f"M{x(a):.1f} {base:.1f}V{base - _BAR * n / most:.1f}H{x(b):.1f}V{base:.1f}z"
        for n, a, b in zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False)
        if n
    ]
    return "".join(parts)
