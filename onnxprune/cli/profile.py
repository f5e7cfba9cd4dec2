"""`onnxprune profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from onnxprune.cli import options, values
from onnxprune.cli.screen import Screen

if TYPE_CHECKING:
    from onnxprune.profiling.tables import By, Sort


def profile(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to look at.", show_default=False)],
    by: Annotated[str, typer.Option(metavar="node|op", help="One row for each node, or each operator.")] = "node",
    sort: Annotated[str, typer.Option(metavar="macs|params|memory|traffic", help="What comes first.")] = "macs",
    top: Annotated[int, typer.Option(metavar="N", min=0, help="Show the first N rows; 0: all.")] = 20,
    shape: Annotated[list[str] | None, options.shape()] = None,
    csv: Annotated[Path | None, typer.Option(metavar="CSV", help="Write all rows.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Count MACs, parameters and memory of every layer."""
    screen = cast(Screen, context.obj)
    shapes = values.shapes(shape or [])
    values.check_choice("--by", by, ("node", "op"))
    values.check_choice("--sort", sort, ("macs", "params", "memory", "traffic"))
    values.check_outputs([source], [csv])
    from onnxprune.io.load import load_model
    from onnxprune.io.save import save_text
    from onnxprune.profiling.count import profile as count
    from onnxprune.profiling.tables import costs_table, csv_text, sorted_costs, totals_notes
    from onnxprune.report.provenance import provenance
    from onnxprune.report.tables import notes_table

    model = load_model(source)
    with screen.progress() as progress:
        progress("counting", 0.0)
        found = count(model, shapes or None)
    rows, order = cast("By", by), cast("Sort", sort)
    if csv:
        save_text(csv_text(sorted_costs(found, rows, order)), csv)
    if json:
        screen.document({"model": str(source), **provenance(), **found.to_dict()})
    else:
        screen.show(costs_table(found, rows, order, top), notes_table(totals_notes(found, verbose=screen.verbose)))
