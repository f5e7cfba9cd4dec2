"""What a simplification did, as tables for people."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.cleanup.result import SimplifyReport
from onnxprune.report.tables import Note, percent, plural, si, verification_note


def operators_table(report: SimplifyReport, *, verbose: bool) -> Table:
    """Nodes by operator before and after, those that changed first; the others are one row unless `verbose`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    names = sorted(report.before.keys() | report.after.keys())
    rows = [(n, report.before.get(n, 0), report.after.get(n, 0)) for n in names]
    changed = sorted((r for r in rows if r[1] != r[2]), key=lambda r: (r[2] - r[1], r[0]))
    same = [r for r in rows if r[1] == r[2]]
    for name, before, after in (*changed, *(same if verbose else ())):
        table.add_row(Text(name), f"{before:,}", f"{after:,}", _signed(after - before))
    if same and not verbose:
        count = sum(r[1] for r in same)
        table.add_row(Text(plural(len(same), "other operator"), "dim"), f"{count:,}", f"{count:,}", "")
    table.add_section()
    total = report.nodes_before, report.nodes_after
    table.add_row("nodes", f"{total[0]:,}", f"{total[1]:,}", percent(*total))
    table.add_row(
        "size", f"{si(report.bytes_before)}B", f"{si(report.bytes_after)}B", percent(report.bytes_before, report.bytes_after)
    )
    return table


def passes_table(report: SimplifyReport, *, verbose: bool) -> Table:
    """What each pass did; those that did nothing, or need a newer opset, only if `verbose`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("pass", overflow="fold")
    table.add_column("changes", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for name, record in report.passes.items():
        if record.changes or verbose:
            did = f"{record.changes:,}", f"{record.seconds * 1000:.0f} ms"
            table.add_row(Text(name), *(("opset", str(record.needs_opset)) if record.needs_opset else did))
    return table


def simplify_notes(report: SimplifyReport, *, verbose: bool) -> list[Note]:
    """Time, verification, and what was declined and why.

    Args:
        report: of one simplification.
        verbose: all reasons instead of their number.
    """
    notes = [Note("time", f"{report.seconds:.2f} s, check {report.check_seconds:.2f} s")]
    if report.bytes_after > report.bytes_before:
        notes.append(Note("size", "the file grows, as --size-threshold or --opset allows", "bold yellow"))
    declined = [(name, node, why) for name, r in report.passes.items() for node, why in r.declined.items()]
    if declined and not verbose:
        notes.append(Note("declined", f"{plural(len(declined), 'rewrite')}; -v shows why"))
    for k, (name, node, why) in enumerate(declined if verbose else ()):
        notes.append(Note("" if k else "declined", f"{name}: {node!r}: {why}"))
    if report.verification is None:
        return [*notes, Note("not verified", report.unverified, "bold yellow")]
    return [*notes, verification_note(report.verification)]


def _signed(change: int) -> str:
    return f"{change:+,}" if change else ""
