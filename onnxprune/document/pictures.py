"""The plots of a document as one picture, PNG or SVG, by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxprune.document.parts import Document, Spreads, Table, Tradeoff
from onnxprune.document.svg import axis_of, tick_text
from onnxprune.errors import ModelError
from onnxprune.report.plot import check_installed
from onnxprune.report.tables import si

COLOURS = ("#6b7480", "#0072b2", "#c25a00", "#00805e", "#a8457f", "#7a6a00", "#3a4fb8", "#8c2d19")
_BARS = 16  # layers in a picture
_NAME = 48  # characters of a name


def to_picture(document: Document, form: str) -> bytes:
    """All plots below each other: trade-off, distributions, layers.

    Args:
        document: of `build`.
        form: `png` or `svg`.

    Raises:
        UsageError: matplotlib is not installed.
        ModelError: no file tells anything that could be drawn.
    """
    check_installed()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _panels(document)
    if not panels:
        raise ModelError("there is nothing to draw: add files of onnxprune bench or of onnxprune prune with --eval")
    with rc_context({"svg.hashsalt": "onnxprune", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(9, sum(h for h, _ in panels) + 0.5), dpi=120, layout="constrained")
        figure.suptitle(document.title)
        axes = figure.subplots(len(panels), 1, height_ratios=[h for h, _ in panels], squeeze=False)[:, 0]
        for place, (_, paint) in zip(axes, panels, strict=True):
            paint(place)
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


def _panels(document: Document) -> list[tuple[float, Callable[[Any], None]]]:
    """Heights in inches, and what paints."""
    found: list[tuple[float, Callable[[Any], None]]] = []
    for chart in document.charts:
        if isinstance(chart, Tradeoff):
            found.append((4.0, lambda axes, c=chart: _tradeoff(axes, c)))  # type: ignore[misc]
        else:
            found.append((1.1 + 0.7 * len(chart.rows), lambda axes, c=chart: _spreads(axes, c)))  # type: ignore[misc]
    for _, table in document.tables:
        if table.columns[0].title == "layer" and not table.folded:
            rows = min(len(table.rows), _BARS)
            found.append((1.0 + 0.28 * rows, lambda axes, t=table: _layers(axes, t)))  # type: ignore[misc]
    return found


def _tradeoff(axes: Any, chart: Tradeoff) -> None:
    axes.set_title(chart.title, loc="left", fontsize=10)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(alpha=0.3)
    axes.margins(0.15)
    largest = max((p.size for p in chart.points if p.size is not None), default=0.0) or 1.0
    axes.plot([p.x for p in chart.front], [p.y for p in chart.front], "--", color="#888888", linewidth=1, zorder=1)
    for k, p in enumerate(chart.points):
        colour = COLOURS[k % 8]
        if p.low is not None and p.high is not None:
            axes.plot([p.x, p.x], [p.low, p.high], "_-", color=colour, linewidth=1.5, zorder=2)
        area = 120.0 if p.size is None else max(40.0, 260.0 * p.size / largest)
        face = colour if p.best else "white"
        axes.scatter([p.x], [p.y], s=area, color=[face], edgecolors=colour, zorder=3, label=f"{k + 1}  {p.name}")
        offset = (math.sqrt(area) / 2 + 4, -3)
        axes.annotate(str(k + 1), (p.x, p.y), offset, textcoords="offset points", fontweight="bold")
    if len(chart.points) <= 12:
        axes.legend(loc="best", fontsize=8, markerscale=0.6)


def _spreads(axes: Any, chart: Spreads) -> None:
    axes.set_title(chart.title, loc="left", fontsize=10)
    axis = axis_of(chart)
    for k, row in enumerate(chart.rows):
        edges = axis.edges
        counts, _ = np.histogram(row.ms, bins=edges)
        base, colour = float(len(chart.rows) - 1 - k), COLOURS[k % 8]
        axes.bar(
            edges[:-1], 0.7 * counts / (counts.max() or 1), np.diff(edges), base, align="edge", color=colour, alpha=0.55
        )
        for share, style in ((0.5, "-"), (0.9, "--"), (0.99, ":")):
            axes.plot([row.quantile(share)] * 2, [base, base + 0.75], style, color=colour)
    axes.set_yticks([len(chart.rows) - 1 - k + 0.35 for k in range(len(chart.rows))], [_short(r.name) for r in chart.rows])
    axes.tick_params(left=False)
    if axis.log:
        axes.set_xscale("log")
    axes.set_xticks(axis.ticks(8), [tick_text(tick) for tick in axis.ticks(8)])
    axes.minorticks_off()
    axes.set_xlim(axis.low, axis.high)
    axes.set_xlabel(f"{axis.label}; lines at p50, p90 and p99")


def _layers(axes: Any, table: Table) -> None:
    axes.set_title(table.caption.removesuffix("."), loc="left", fontsize=10)
    rows = table.rows[:_BARS]
    models = [c.title for c in table.columns[1:] if c.title != "change"]
    height = 0.8 / len(models)
    for k, model in enumerate(models):
        values = [row[1 + k].value or 0.0 for row in rows]
        places = [i + (k - (len(models) - 1) / 2) * height for i in range(len(rows))]
        axes.barh(places, values, height, color=COLOURS[k % 8], label=model)
    axes.set_yticks(range(len(rows)), [_short(row[0].text) for row in rows])
    axes.xaxis.set_major_formatter(lambda value, position: si(value).strip() if value >= 1 else tick_text(value))
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)


def _short(name: str) -> str:
    """Both ends of a long name: layers often differ in the middle, and begin or end alike."""
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[-(_NAME // 2) + 1 :]}"
