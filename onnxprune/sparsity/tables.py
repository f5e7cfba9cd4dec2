"""Sparsity for people."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table
from rich.text import Text

from onnxprune.report.tables import Note, plural
from onnxprune.sparsity.measure import ModelSparsity

_SHOWN = 12


def sparsity_table(found: ModelSparsity, *, verbose: bool = False) -> Table:
    """One row for each node, those that lose most first, and one for all of them together.

    Args:
        found: the figures.
        verbose: all nodes instead of the worst.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", overflow="fold")
    table.add_column("elements", justify="right", no_wrap=True)
    for pattern in found.patterns:
        table.add_column(pattern, justify="right", no_wrap=True)
        table.add_column("magnitude", justify="right", no_wrap=True)
    nodes = sorted((n for n in found.nodes if not n.reason), key=lambda n: -max(n.reconstructed, default=0.0))
    total = sum(n.elements for n in nodes)
    table.add_row("all, outputs of the model", f"{total:,}", *_cells(found.reconstructed, found.magnitude), style="bold")
    for node in nodes if verbose else nodes[:_SHOWN]:
        table.add_row(Text(node.node), f"{node.elements:,}", *_cells(node.reconstructed, node.magnitude))
    if len(nodes) > _SHOWN and not verbose:
        table.add_row(f"and {len(nodes) - _SHOWN:,} more (-v)", "", *[""] * (2 * len(found.patterns)))
    return table


def _cells(reconstructed: list[float], magnitude: list[float]) -> list[str]:
    return [f"{error:.1%}" for pair in zip(reconstructed, magnitude, strict=True) for error in pair]


def sparsity_notes(found: ModelSparsity) -> list[Note]:
    """What the figures are, and what they are worth."""
    text = (
        "relative error of a node's output, of the model's where all are sparse; first where the elements that stay make up "
        "for the zeros (SparseGPT), then where they do not; weights of recurrent nodes and tables stay whole"
    )
    notes = [Note("sparsity", text), Note("told, not done", found.worth, "bold yellow")]
    for reason, count in Counter(n.reason for n in found.nodes if n.reason).most_common():
        notes.append(Note("left out", f"{plural(count, 'node')}: {reason}"))
    return notes
