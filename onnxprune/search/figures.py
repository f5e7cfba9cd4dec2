"""Pictures of sensitivities and of fronts, as PNG or SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxprune.report.plot import check_installed
from onnxprune.report.tables import si
from onnxprune.search.pays import by_worth
from onnxprune.search.sensitivity import GroupCurve, Sensitivity

if TYPE_CHECKING:
    from onnxprune.search.front import Card, Front

_COLUMNS = 5
_PREDICTED, _MEASURED, _METRIC = "#4878a8", "#c44e52", "#55933f"
_TIME, _OTHERS = "#dd8452", "#b0b0b0"
_ABOVE = 4.2  # inches
_NAMED = 8  # groups that have a colour
_BARS = 16
_FLOOR = 1e-4  # relative errors below it are drawn at it


def sensitivity_plot(found: Sensitivity, title: str, form: str) -> bytes:
    """One small figure for each group: relative error of the outputs by the share of its units that goes.

    Where times are known, there is a strip for them below each; above all, groups by the time that they save, and what each
    saves at the same error.

    Args:
        found: the analysis.
        title: of the figure.
        form: file format, `png` or `svg`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    rows = max(-(-len(found.groups) // _COLUMNS), 1)
    timed = found.latency is not None
    below = 1.2 + (2.7 if timed else 1.9) * rows
    with _figure(form, (12, below + _ABOVE * timed)) as (whole, save):
        figure = whole
        if timed:
            upper, figure = whole.subfigures(2, 1, height_ratios=(_ABOVE, below))
            _pays(upper, found, title)
        shown = "relative error of the outputs, and time," if timed else "relative error of the outputs"
        figure.suptitle(f"{title}: {shown} by the share of a group that goes", fontsize=11)
        heights = (1.0, 0.45) if timed else (1.0,)
        every = figure.subplots(len(heights) * rows, _COLUMNS, squeeze=False, sharex=True, height_ratios=heights * rows)
        axes = every[:: len(heights)]
        for place, own in enumerate(axes.flat):
            own.set_axis_off() if place >= len(found.groups) else _curve(own, found.groups[place])
        if timed:
            _times(every[1::2], found)
        for own in every[:, 1:].flat:
            own.tick_params(labelleft=False)
        if found.metric is not None:
            values = [p.metric for c in found.groups for p in c.points if p.metric is not None]
            bounds = min([*values, found.metric["value"]]), max([*values, found.metric["value"]])
            for own, curve in zip(axes.flat, found.groups, strict=False):
                _figures(own, curve, found.metric, bounds)
        handles = {text: line for own in figure.axes for line, text in zip(*own.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
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


def _times(axes: Any, found: Sensitivity) -> None:
    """A strip below each figure: time of the model as a share of the source's."""
    shares = [p.latency_share for c in found.groups for p in c.points if p.latency_share is not None]
    margin = 0.1 * (max(1.0, *shares) - min(1.0, *shares)) or 0.05
    for place, own in enumerate(axes.flat):
        if place >= len(found.groups):
            own.set_axis_off()
            continue
        held = [(p.ratio, p.latency_share) for p in found.groups[place].points if p.latency_share is not None]
        own.plot([r for r, _ in held], [s for _, s in held], "o-", color=_TIME, ms=3, lw=1.2, label="time of the model")
        own.axhline(1, color=_TIME, lw=0.6, ls="--")
        own.set_ylim(min(1.0, *shares) - margin, max(1.0, *shares) + margin)
        own.yaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
        own.tick_params(labelsize=7)
        own.grid(alpha=0.3)


def _figures(own: Any, curve: GroupCurve, metric: dict[str, Any], bounds: tuple[float, float]) -> None:
    held = [(p.ratio, p.metric) for p in curve.points if p.metric is not None]
    if held:
        other = own.twinx()
        other.plot([r for r, _ in held], [v for _, v in held], "s-", color=_METRIC, ms=3, lw=1.2, label=metric["title"])
        other.axhline(metric["value"], color=_METRIC, lw=0.6, ls="--")
        margin = 0.05 * (bounds[1] - bounds[0]) or 1.0
        other.set_ylim(bounds[0] - margin, bounds[1] + margin)
        other.tick_params(labelsize=7, colors=_METRIC)


def _pays(figure: Any, found: Sensitivity, title: str) -> None:
    """Error by the time that goes, a line for each group; beside it what each group saves at the same error."""
    from matplotlib.ticker import LogLocator

    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    ranked = by_worth(found)
    best = [c for c in ranked if c.worth is not None and c.worth.removed][:_NAMED]
    for curve in reversed(ranked):
        named = curve in best
        _saves(left, curve, f"C{best.index(curve)}" if named else _OTHERS, named=named)
    left.set_title(f"{title}: predicted error by the time saved, at widths that pay", fontsize=9)
    left.set_xlabel("share of the source's time that is saved, by the table of latencies", fontsize=8)
    left.set_ylabel("relative error of the outputs", fontsize=8)
    left.set_yscale("log", subs=())  # a range below a decade would get labels of minor ticks, as formulas
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.set_xlim(left=0)
    left.yaxis.set_major_formatter(lambda value, place: f"{value:.3g}")
    shown = [c for c in ranked if c.worth is not None][:_BARS]
    names, shares = [c.id for c in shown], [0.0 if c.worth is None else c.worth.saved for c in shown]
    colors = [f"C{k}" if k < len(best) else _OTHERS for k in range(len(shown))]
    right.barh(range(len(shown)), shares, color=colors)
    right.set_yticks(range(len(shown)), names)
    right.invert_yaxis()
    if found.worth_error is not None:
        left.axhline(found.worth_error, color="black", lw=0.8, ls="--")
        right.set_title(f"time that each group saves at {found.worth_error * 100:.3g} % of predicted error", fontsize=9)
        for k, curve in enumerate(shown):
            if curve.worth is not None and curve.worth.removed:
                text = f" {curve.worth.removed} of {curve.units}"
                right.annotate(text, (curve.worth.saved, k), va="center", fontsize=7)
        right.set_xlim(0, 1.25 * max(shares) if any(shares) else 1)
    for own in (left, right):
        own.xaxis.set_major_formatter(lambda value, place: f"{value * 100:.3g} %")
        own.tick_params(labelsize=7)
        own.grid(alpha=0.3, axis="both" if own is left else "x")


def _saves(own: Any, curve: GroupCurve, color: str, *, named: bool) -> None:
    if not curve.paying:
        return
    xs, ys = [w.saved for w in curve.paying], [max(w.predicted, _FLOOR) for w in curve.paying]
    style = {"lw": 1.4, "ms": 3.5, "zorder": 3} if named else {"lw": 0.8, "ms": 2, "zorder": 2}
    own.plot(xs, ys, "o-", color=color, **style)
    if named:
        own.annotate(curve.id, (xs[-1], ys[-1]), color=color, fontsize=8, xytext=(4, -2), textcoords="offset points")


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
