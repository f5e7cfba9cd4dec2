"""Tables of sensitivities and of fronts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from onnxprune.latency.figures import table_notes
from onnxprune.report.tables import Note, plural, si
from onnxprune.search.front import Card, Front
from onnxprune.search.pays import by_worth
from onnxprune.search.sensitivity import GroupCurve, Point, Sensitivity

_SHOWN = (0.25, 0.5, 0.75)


def sensitivity_table(found: Sensitivity, kind: str, *, verbose: bool = False) -> Table:
    """One row for each group, a column for each share that goes.

    Args:
        found: the analysis.
        kind: `predicted`, `error` or `repaired` (relative errors of the outputs), or `metric`.
        verbose: all shares.
    """
    places = _places(found.ratios, verbose=verbose)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group")
    table.add_column("kind")
    table.add_column("units", justify="right")
    table.add_column("without half: MACs", justify="right")
    for k in places:
        table.add_column(f"{found.ratios[k]:.0%}", justify="right")
    for curve in found.groups:
        cells = [_cell(curve, curve.points[k], kind, found) for k in places]
        table.add_row(curve.id, curve.kind, str(curve.units), _saved(curve, found), *cells)
    return table


def latency_table(found: Sensitivity, *, verbose: bool = False) -> Table:
    """One row for each group, those that are worth most first: what it is worth, and the time by the share that goes."""
    places = _places(found.ratios, verbose=verbose)
    steps = {} if found.latency_table is None else found.latency_table.steps
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group")
    table.add_column("kind")
    for title in ("units", "step", "goes", "time"):
        table.add_column(title, justify="right")
    for k in places:
        table.add_column(f"{found.ratios[k]:.0%}", justify="right")
    for curve in by_worth(found):
        own = ["?", "?"]
        if curve.worth is not None:
            own = [str(curve.worth.removed), f"{-curve.worth.saved:+.1%}" if curve.worth.removed else ""]
        shares = [curve.points[k].latency_share for k in places]
        cells = ["?" if share is None else f"{share - 1:+.1%}" for share in shares]
        table.add_row(curve.id, curve.kind, str(curve.units), str(steps.get(curve.id, "?")), *own, *cells)
    return table


def worth_text(error: float) -> str:
    """An error that groups are compared at, such as `5 %` or `0.02 %`."""
    return f"{error * 100:.3g} %"


def _places(ratios: Sequence[float], *, verbose: bool) -> list[int]:
    if verbose or len(ratios) <= len(_SHOWN):
        return list(range(len(ratios)))
    return sorted({min(range(len(ratios)), key=lambda k: abs(ratios[k] - wanted)) for wanted in _SHOWN})


def _saved(curve: GroupCurve, found: Sensitivity) -> str:
    nearest = min(curve.points, key=lambda p: abs(p.ratio - 0.5))
    return f"{nearest.macs / found.macs - 1:+.1%}" if found.macs else ""


def _cell(curve: GroupCurve, point: Point, kind: str, found: Sensitivity) -> str:
    value = getattr(point, kind)
    if value is None:
        return "failed" if curve.failed and kind != "predicted" else "?"
    if kind == "metric":
        percent = found.metric is not None and found.metric["unit"] == "percent"
        return f"{value:.2f} %" if percent else f"{value:.4g}"
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}" if value < 9.995 else "> 999 %"


def sensitivity_notes(found: Sensitivity, *, measured: bool) -> list[Note]:
    """What the figures are."""
    text = "of one group alone, before any fit; readers make up for what went. Errors of several groups do not add up"
    notes = [Note("calibration", found.calibration), Note("predicted", text)]
    if measured:
        text = "outputs of the model without these units, all other groups whole; the prediction is about the last errors"
        notes.append(Note("measured", text))
    if found.latency_table is not None:
        notes += table_notes(found.latency_table)
        if found.worth_error is not None:
            text = f"units that may go at {worth_text(found.worth_error)} of predicted error, where most time is saved"
            notes.append(Note("goes, time", f"{text}, all others whole; widths that kernels like are multiples of `step`"))
    unknown = [c.id for c in found.groups if all(p.predicted is None for p in c.points)]
    if unknown:
        text = f"no linear node reads {plural(len(unknown), 'group')}: {', '.join(unknown[:8])}"
        notes.append(Note("not predicted", text + (" ..." if len(unknown) > 8 else "")))
    for curve in found.groups:
        if curve.failed:
            notes.append(Note("failed", f"{curve.id}: {curve.failed}", "bold red"))
    if found.metric is not None:
        title, data = found.metric["title"], found.metric["data"]
        text = f"{title} {found.metric['value']:.4g}{' %' if found.metric['unit'] == 'percent' else ''} whole; {data}"
        notes.append(Note("evaluated", text))
    return notes


def front_table(front: Front) -> Table:
    """One row for each model, the whole one first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("MACs", "parameters", "size", "latency", front.worth_title, "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for card in (front.dense, *front.cards):
        table.add_row(*_row(card, front))
    return table


def _row(card: Card, front: Front) -> list[str]:
    def share(name: str, text: Callable[[float], str]) -> str:
        own, dense = card.figures.get(name), front.dense.figures.get(name)
        if own is None:
            return ""
        return text(own) if card is front.dense or not dense else f"{text(own)}  {own / dense:4.0%}"

    if card.failed:
        return [card.name, "", "", "", "", "", "", f"failed: {card.failed}"]
    worth = "" if card.worth is None else front.worth_text(card.worth)
    interval = "" if card.interval is None else f"{card.interval[0]:+.2f} to {card.interval[1]:+.2f}"
    return [
        card.name,
        share("macs", si),
        share("params", si),
        share("size", lambda n: f"{si(n)}B"),
        share("latency", lambda ms: f"{ms:.3g} ms"),
        worth,
        interval,
        "dominated" if card.dominated else "",
    ]


def front_notes(front: Front, untimed: str) -> list[Note]:
    """What the figures are."""
    details = front.details
    notes = [Note("calibration", details["calibration"])]
    evaluation = details["evaluation"]
    if evaluation is not None:
        notes.append(Note("evaluated", f"{evaluation['data']}: {front.worth_title}; intervals are of the change"))
        if evaluation["samples_used_for_calibration"]:
            text = f"{evaluation['samples_used_for_calibration']:,} of them were used for calibration: the figures flatter"
            notes.append(Note("not held out", text, "bold yellow"))
    else:
        notes.append(Note(front.worth_title, "of the outputs on the calibration samples, next to the source: it flatters"))
    searched = [c for c in front.cards if c.details.get("search")]
    if searched:
        gains = [c.details["search"]["best_error"] / (c.details["search"]["knapsack_error"] or 1.0) for c in searched]
        text = f"{details['candidates']} for each model; error before the fit {min(gains) - 1:+.0%} to {max(gains) - 1:+.0%}"
        notes.append(Note("candidates", text))
    if untimed:
        notes.append(Note("not timed", untimed, "bold yellow"))
    elif front.dense.figures.get("latency") is not None:
        threads = front.details.get("threads", 0)
        where = f"ONNX Runtime on this CPU{', ' + plural(threads, 'thread') if threads else ''}"
        notes.append(Note("latency", f"median, all models in turn, one sample, {where}"))
    proofs = [c.details["verification"] for c in front.cards if not c.failed]
    proven = [v for v in proofs if v is not None]
    if proven:
        text = f"{len(proven)} of {len(front.cards)}; largest relative error {max(v['error'] for v in proven):.1e}"
        notes.append(Note("verified", text))
    if len(proven) < len(proofs):
        reason = next(c.details["unverified"] for c in front.cards if not c.failed and c.details["verification"] is None)
        notes.append(Note("not verified", reason or "a statistic runs over what went", "bold yellow"))
    if details["resumed"]:
        notes.append(Note("resumed", f"{plural(details['resumed'], 'model')} of an earlier run"))
    return notes
