"""`onnxprune inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from onnxprune.cli import options, values
from onnxprune.cli.screen import Screen

if TYPE_CHECKING:
    from onnxprune.groups.group import Groups


def inspect(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to look at.", show_default=False)],
    width: Annotated[bool, options.width()] = False,
    shape: Annotated[list[str] | None, options.shape()] = None,
    dot: Annotated[Path | None, typer.Option(metavar="DOT", help="Write a picture as Graphviz text.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="SVG", help="Write a picture (needs Graphviz).")] = None,
    json: Annotated[bool, options.json()] = False,
) -> None:
    """List what can be removed, and what can't and why."""
    screen = cast(Screen, context.obj)
    shapes = values.shapes(shape or [])
    values.check_outputs([source], [dot, svg])
    from onnxprune.api import analyze
    from onnxprune.io.load import load_model

    model = load_model(source)
    with screen.progress() as progress:
        progress("analysing", 0.0)
        groups = analyze(model, width=width, shapes=shapes or None)
    if dot or svg:
        _draw(groups, dot, svg)
    if json:
        screen.document({"model": str(source), **_document(groups)})
    else:
        _show(screen, groups)


def _draw(groups: Groups, dot: Path | None, svg: Path | None) -> None:
    from onnxprune.io.save import save_text
    from onnxprune.report import dot as pictures

    text = pictures.dot(groups)
    if dot:
        save_text(text, dot)
    if svg:
        save_text(pictures.svg(text), svg)


def _show(screen: Screen, groups: Groups) -> None:
    from onnxprune.report.tables import frozen_table, groups_notes, groups_table, notes_table

    if groups.groups:
        screen.show(groups_table(groups, verbose=screen.verbose))
    if screen.verbose and groups.frozen:
        screen.show(frozen_table(groups.frozen))
    screen.show(notes_table(groups_notes(groups, verbose=screen.verbose)))


def _document(groups: Groups) -> dict[str, Any]:
    return {
        "groups": [
            {
                "id": g.id,
                "kind": g.kind,
                "exact": g.exact,
                "units": g.units,
                "unit_params": g.unit_params,
                "unit_macs": g.unit_macs,
                "members": g.members,
                "nodes": g.nodes,
                "note": g.note,
                "alternatives": g.alternatives,
            }
            for g in groups.groups
        ],
        "frozen": [asdict(f) for f in groups.frozen],
        "unknown_ops": groups.trace.unknown,
        "failures": groups.trace.failures,
    }
