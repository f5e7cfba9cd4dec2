"""A profile for people, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.profiling.profile import NodeCost, OpCost, Profile
from onnxprune.report.tables import Note, plural, shapes_text, si

By = Literal["node", "op"]
Sort = Literal["macs", "params", "memory", "traffic"]
_KEYS: dict[Sort, tuple[str, str]] = {
    "macs": ("macs", "moved_bytes"),
    "params": ("params", "macs"),
    "memory": ("output_bytes", "moved_bytes"),
    "traffic": ("moved_bytes", "macs"),
}
_SHOWN = 5


def sorted_costs(profile: Profile, by: By, sort: Sort) -> Sequence[NodeCost | OpCost]:
    """Rows of a table, the most expensive first; what is not known last."""
    first, second = _KEYS[sort]
    rows: Sequence[NodeCost | OpCost] = profile.nodes if by == "node" else profile.by_op()
    return sorted(rows, key=lambda r: (-(getattr(r, first) or 0), -(getattr(r, second) or 0)))


def costs_table(profile: Profile, by: By = "node", sort: Sort = "macs", top: int = 20) -> Table:
    """One row for each node or operator.

    Args:
        profile: of the model.
        by: rows are nodes, or sums over all nodes of an operator.
        sort: by what.
        top: rows to show; 0 for all.
    """
    rows = sorted_costs(profile, by, sort)
    shown = rows[:top] if top else rows
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    if by == "node":
        table.add_column("node", overflow="fold")
        table.add_column("op", overflow="fold")
    else:
        table.add_column("op", no_wrap=True)
        table.add_column("nodes", justify="right")
    for name in ("MACs", "%", "params", "weights", "output", "FLOP/B"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(*_names(row), *_figures(row, profile))
    if len(rows) > len(shown):
        left = rows[len(shown) :]
        macs = sum(r.macs or 0 for r in left)
        cells = (si(macs), _share(macs, profile.macs), "", "", "", "")
        table.add_row(f"and {len(left):,} more", "", *cells)
    return table


def _names(row: NodeCost | OpCost) -> tuple[Text, Text]:
    if isinstance(row, OpCost):
        return Text(row.op), Text(f"{row.nodes:,}")
    times = f" x{row.times:,}" if row.times != 1 else ""
    return Text(f"{row.path} {row.name}".strip()), Text(f"{row.op}{times}")


def _figures(row: NodeCost | OpCost, profile: Profile) -> tuple[str, ...]:
    return (
        "?" if row.macs is None else si(row.macs) if row.macs else "",
        "" if row.macs is None else _share(row.macs, profile.macs),
        f"{row.params:,}" if row.params else "",
        f"{si(row.weight_bytes)}B" if row.weight_bytes else "",
        "?" if row.output_bytes is None else f"{si(row.output_bytes)}B",
        f"{row.intensity:.3g}" if row.intensity else "",
    )


def _share(macs: int, of: int) -> str:
    return f"{macs / of * 100:.1f}" if macs and of else ""


def totals_notes(profile: Profile, *, verbose: bool = False) -> list[Note]:
    """Sums over the model, and what could not be counted."""
    peak = profile.peak
    largest = ", ".join(f"{name!r} {si(size)}B" for name, size in peak.tensors[: _SHOWN if verbose else 2])
    ratio = "" if profile.intensity is None else f"; at least {si(profile.moved_bytes)}B read and written"
    ratio += "" if profile.intensity is None else f", so {profile.intensity:.3g} FLOPs a byte at most"
    notes = [
        Note("MACs", f"{si(profile.macs).strip()} in one run with {shapes_text(profile.shapes)}{ratio}"),
        Note("weights", f"{profile.params:,} parameters, {si(profile.weight_bytes)}B"),
        Note(
            "activations",
            f"{si(profile.activation_bytes)}B made; at most {si(peak.bytes)}B alive at once, at {peak.node!r} ({largest}): "
            "in the order of the file, nothing in place, no workspace",
        ),
    ]
    if profile.once:
        notes.append(
            Note("counted once", f"{_listed(profile.once, verbose)}: data decides how often they run", "bold yellow")
        )
    if profile.unknown:
        text = f"MACs of {plural(len(profile.unknown), 'node')}: {_listed(profile.unknown, verbose)}"
        notes.append(Note("not known", text, "bold yellow"))
    if peak.unknown:
        text = f"shape of {plural(len(peak.unknown), 'tensor')}, which count no memory: {_listed(peak.unknown, verbose)}"
        notes.append(Note("not known", text, "bold yellow"))
    return notes


def _listed(names: Sequence[str], verbose: bool) -> str:
    shown = names if verbose else names[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def csv_text(rows: Sequence[NodeCost | OpCost]) -> str:
    """Rows as CSV with a header; the columns are named as in the JSON, unknown figures are empty."""
    out = io.StringIO()
    kind: Any = type(rows[0]) if rows else NodeCost
    names = [f.name for f in fields(kind)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "flops_per_byte"])
    for row in rows:
        ratio = row.intensity
        writer.writerow([getattr(row, n) for n in names] + ["" if ratio is None else f"{ratio:.6g}"])
    return out.getvalue()
