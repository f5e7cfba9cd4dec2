"""What the pruned model is worth, for people: scores, likeness of outputs, worst samples and worst groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.metrics.score import Change, Score
from onnxprune.report.tables import Note, percent, plural

if TYPE_CHECKING:
    from onnxprune.bench.timing import Times
    from onnxprune.report.evaluation import Evaluation
    from onnxprune.report.fidelity import Fidelity
    from onnxprune.report.losses import GroupLoss
    from onnxprune.report.report import Report

_GROUPS = 10
_VECTOR = 8  # channels in a register of a usual CPU, and in a block of ONNX Runtime's own layout
_LESS_WORK, _IN_STEP = 1.15, 0.7  # MACs by MACs from which on the speed-up should be most of it
Row = tuple[str, str, str, str]


def score_rows(evaluation: Evaluation) -> list[Row]:
    """Rows of the result table: the figure, and the interval of its change."""
    before, after, change = evaluation.before, evaluation.after, evaluation.change
    if after is None or change is None:
        return [(before.title, figure(before), "", "not evaluated")]
    points = " points" if before.unit == "percent" else ""
    rows = [(before.title, figure(before), figure(after), _change(before, change.value) + points)]
    if change.interval:
        ends = f"{_change(before, change.interval.low)} to {_change(before, change.interval.high)}"
        rows.append(("  95 % interval", "", "", ends))
    return rows


def figure(score: Score) -> str:
    """The figure in its unit."""
    return f"{score.value:.2f} %" if score.unit == "percent" else f"{score.value:.4g}"


def _change(before: Score, value: float) -> str:
    """In points, in percent of an error, or as it is."""
    if before.unit == "percent":
        return f"{value:+.2f}"
    if before.value > 0 and not before.higher_is_better:
        return percent(before.value, before.value + value)
    return f"{value:+.3g}"


def evaluation_notes(evaluation: Evaluation | None) -> list[Note]:
    """What the scores are of, and what they are worth."""
    if evaluation is None:
        return []
    before, change = evaluation.before, evaluation.change
    notes = [Note("evaluated", f"{evaluation.origin}: {_subject(before)}")]
    if evaluation.note:
        notes.append(Note("", evaluation.note))
    if change is None:
        notes.append(Note("not scored", evaluation.failed, "bold red"))
    else:
        notes.append(Note("change", _worth(before, change)))
    shown = any(f.output == before.compared[0] and f.agreement is not None for f in evaluation.fidelity)
    if change is not None and change.agreement is not None and change.agreement_interval is not None and not shown:
        ends = change.agreement_interval
        text = f"same top-1 class on {change.agreement:.1f} % (95 % interval {ends.low:.1f} to {ends.high:.1f} %)"
        notes.append(Note("agreement", text))
    if evaluation.seen:
        text = f"{evaluation.seen:,} of {plural(before.samples, 'sample')} were used for calibration: the figures flatter"
        notes.append(Note("not held out", text, "bold yellow"))
    return notes


def speed_notes(report: Report, latency: tuple[Times, Times], round_to: int) -> list[Note]:
    """What may help where less work saves little time: widths that fill no vector cost as much as the next that does.

    Args:
        report: of one pruning.
        latency: before and after.
        round_to: of what the number of channels that stay is a multiple.
    """
    less = report.macs_before / max(report.macs_after, 1)
    faster = latency[0].p50 / latency[1].p50
    if less < _LESS_WORK or faster >= _IN_STEP * less or any(t.quantity == "latency" for t in report.targets):
        return []
    rounded = f"--round-to {_VECTOR} keeps widths that fill vectors, " if round_to % _VECTOR else ""
    text = f"MACs went down {less:.2f}x and latency did not follow: {rounded}--target latency=N measures which widths pay"
    return [Note("speed", text, "bold yellow")]


def _subject(score: Score) -> str:
    output, against = score.compared
    better = "higher is better" if score.higher_is_better else "lower is better"
    return f"{score.title} of output {output!r} against {against!r}, {better}" if output else f"{score.title}, {better}"


def _worth(score: Score, change: Change) -> str:
    if change.interval is None:
        few = "there is only one sample" if score.totals.size == 1 else "it is one figure for the whole run"
        return f"no interval: {few}"
    if change.within_noise:
        verdict = "within noise: its interval contains 0"
    else:
        worse = (change.value < 0) == score.higher_is_better
        verdict = f"{'worse' if worse else 'better'} beyond noise: its interval does not contain 0"
    p = "" if change.p_value is None else f"; McNemar p = {change.p_value:.2g}"
    return f"{verdict} ({change.interval.method}{p})"


def outcome_tables(report: Report, evaluation: Evaluation | None, *, verbose: bool) -> Iterator[Table]:
    """Likeness of outputs on calibration and evaluation samples; with `verbose` the worst samples and the worst groups."""
    rows = [("calibration", f) for f in report.fidelity]
    rows += [("evaluation", f) for f in (evaluation.fidelity if evaluation else [])]
    if rows:
        yield fidelity_table(rows)
    if verbose and rows:
        yield worst_table(rows)
    if verbose and report.losses:
        yield losses_table(report.losses)


def fidelity_table(rows: Sequence[tuple[str, Fidelity]]) -> Table:
    """One row for each output on each set of samples."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("likeness on", no_wrap=True)
    table.add_column("output", overflow="fold")
    classes = any(f.agreement is not None for _, f in rows)
    for name in ("error", "cosine", *(["same top-1 (95 %)"] * classes), "farthest"):
        table.add_column(name, justify="right", no_wrap=True)
    for where, f in rows:
        worst = f"{f.worst[0].sample:,}: {share_text(f.worst[0].error)}" if f.worst else ""
        same = [agreement_text(f.agreement, f.interval)] * classes
        table.add_row(where, Text(f.output), share_text(f.relative_error), f"{f.cosine:.4f}", *same, worst)
    return table


def agreement_text(agreement: float | None, interval: tuple[float, float] | None) -> str:
    """Share of samples with the same largest elements, and its interval, in percent; empty where it was not counted."""
    if agreement is None or interval is None:
        return ""
    low, high = interval
    return f"{share_text(agreement)} ({low * 100:.1f}-{high * 100:.1f})"


def share_text(share: float) -> str:
    """A share 0..1 in percent."""
    return f"{share * 100:.1f} %"


def worst_table(rows: Sequence[tuple[str, Fidelity]]) -> Table:
    """The samples whose outputs are farthest from the source's."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("farthest in", no_wrap=True)
    table.add_column("output", overflow="fold")
    for name in ("sample", "error"):
        table.add_column(name, justify="right")
    files = any(w.file for _, f in rows for w in f.worst)
    if files:
        table.add_column("file", overflow="fold")
    for where, f in rows:
        for w in f.worst:
            table.add_row(where, Text(f.output), f"{w.sample:,}", share_text(w.error), *([Text(w.file)] if files else []))
    return table


def losses_table(losses: Sequence[GroupLoss]) -> Table:
    """Groups behind which most of the output variance is lost after reconstruction."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variance lost", no_wrap=True)
    for name in ("nodes", "fitted", "before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most at", overflow="fold")
    for loss in losses[:_GROUPS]:
        counts = (f"{loss.nodes:,}", f"{loss.fitted:,}", share_text(loss.lost_before), share_text(loss.lost_after))
        table.add_row(loss.group or "downstream", *counts, Text(f"{loss.worst}: {share_text(loss.worst_after)}"))
    if len(losses) > _GROUPS:
        table.add_row(f"and {len(losses) - _GROUPS:,} more", "", "", "", "", "")
    return table
