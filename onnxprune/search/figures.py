"""Pictures of sensitivities and of fronts, as PNG or SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxprune.report.plot import check_installed
from onnxprune.report.tables import si
from onnxprune.search.sensitivity import GroupCurve, Sensitivity

if TYPE_CHECKING:
    from onnxprune.search.front import Card, Front

_COLUMNS = 5
_PREDICTED, _MEASURED, _METRIC = "#4878a8", "#c44e52", "#55933f"
_FLOOR = 1e-4  # relative errors below it are drawn at it


def sensitivity_plot(found: Sensitivity, title: str, form: str) -> bytes:
    """One small figure for each group: relative error of the outputs by the share of its units that goes.

    Args:
        found: the analysis.
        title: of the figure.
        form: file format, `png` or `svg`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    rows = max(-(-len(found.groups) // _COLUMNS), 1)
    with _figure(form, (12, 1.2 + 1.9 * rows)) as (figure, save):
        figure.suptitle(f"{title}: relative error of the outputs by the share of a group that goes", fontsize=11)
        axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
        for place, own in enumerate(axes.flat):
            own.set_axis_off() if place >= len(found.groups) else _curve(own, found.groups[place])
        if found.metric is not None:
            values = [p.metric for c in found.groups for p in c.points if p.metric is not None]
            bounds = min([*values, found.metric["value"]]), max([*values, found.metric["value"]])
            for own, curve in zip(axes.flat, found.groups, strict=False):
                _figures(own, curve, found.metric, bounds)
        handles = {text: line for own in figure.axes for line, text in zip(*own.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
        return bytes(save())


def _curve(own: Any, curve: GroupCurve) -> None:
    own.set_title(f"{curve.id}  {curve.units} {curve.kind}", fontsize=8)
    own.set_yscale("log")
    own.set_ylim(_FLOOR, 3)
    own.yaxis.set_major_formatter(lambda value, place: f"{value:.3g}")
    own.xaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
    own.set_xlim(0, 1)
    own.tick_params(labelsize=7)
    own.grid(alpha=0.3)
    for name, style, color in (
        ("predicted", "-", _PREDICTED),
        ("error", ":", _MEASURED),
        ("repaired", "o-", _MEASURED),
    ):
        held = [(p.ratio, getattr(p, name)) for p in curve.points if getattr(p, name) is not None]
        if held:
            label = {"error": "measured, as it is", "repaired": "measured, readers make up for it"}.get(name, name)
            own.plot([r for r, _ in held], [max(e, _FLOOR) for _, e in held], style, color=color, ms=3, lw=1.2, label=label)


def _figures(own: Any, curve: GroupCurve, metric: dict[str, Any], bounds: tuple[float, float]) -> None:
    held = [(p.ratio, p.metric) for p in curve.points if p.metric is not None]
    if held:
        other = own.twinx()
        other.plot([r for r, _ in held], [v for _, v in held], "s-", color=_METRIC, ms=3, lw=1.2, label=metric["title"])
        other.axhline(metric["value"], color=_METRIC, lw=0.6, ls="--")
        margin = 0.05 * (bounds[1] - bounds[0]) or 1.0
        other.set_ylim(bounds[0] - margin, bounds[1] + margin)
        other.tick_params(labelsize=7, colors=_METRIC)


def front_plot(front: Front, title: str, form: str) -> bytes:
    """What models are worth by latency, size and multiply-accumulates; dominated ones are hollow.

    Args:
        front: the family.
        title: of the figure.
        form: file format, `png` or `svg`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    models = [front.dense, *front.cards]
    kinds = [
        (name, text)
        for name, text in (("latency", "latency p50 (ms)"), ("size", "size (bytes)"), ("macs", "MACs"))
        if all(c.figures.get(name) is not None for c in models)
    ]
    with _figure(form, (4.6 * len(kinds), 4.2)) as (figure, save):
        figure.suptitle(title, fontsize=11)
        for own, (name, text) in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True).flat, kinds, strict=True):
            _draw_front(own, front, models, name)
            own.set_xlabel(text)
            own.grid(alpha=0.3)
            if name != "latency":
                own.xaxis.set_major_formatter(lambda value, place: si(value))
        figure.axes[0].set_ylabel(front.worth_title)
        return bytes(save())


def _draw_front(own: Any, front: Front, models: Sequence[Card], name: str) -> None:
    shown = [c for c in models if c.worth is not None]
    xs, ys = [c.figures[name] for c in shown], [c.worth for c in shown]
    best = sorted((x, y) for x, y, c in zip(xs, ys, shown, strict=True) if not c.dominated)
    own.plot([x for x, _ in best], [y for _, y in best], "-", color=_PREDICTED, lw=1, alpha=0.6)
    for x, y, card in zip(xs, ys, shown, strict=True):
        full = {"markerfacecolor": "white"} if card.dominated else {}
        own.plot([x], [y], "D" if card is front.dense else "o", color=_PREDICTED, ms=6, **full)
        own.annotate(card.name, (x, y), fontsize=7, xytext=(4, -9), textcoords="offset points")
    if not front.higher_is_better:
        own.invert_yaxis()


@contextmanager
def _figure(form: str, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """An empty figure, and what makes a file of it; the same bytes for the same picture."""
    check_installed()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "onnxprune", "text.parse_math": False}):
        figure = Figure(figsize=size, dpi=110, layout="constrained")

        def save() -> bytes:
            file = io.BytesIO()
            figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
            return file.getvalue()

        yield figure, save
