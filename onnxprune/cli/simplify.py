"""`onnxprune simplify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from onnxprune.cli import values
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError


def simplify(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model (ONNX).", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Simplified model.")],
    passes: Annotated[
        str | None,
        typer.Option("--passes", metavar="NAME,...", help="Run these passes only (`-v` lists all).", show_default=False),
    ] = None,
    skip: Annotated[
        str | None, typer.Option("--skip", metavar="NAME,...", help="Don't run these passes.", show_default=False)
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Raise the model to this opset first, for operators only it has.", show_default=False
        ),
    ] = None,
    size_threshold: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            min=0,
            help="The file may grow by this for each constant that replaces nodes; not at all unless given.",
            show_default=False,
        ),
    ] = None,
    keep_defaults: Annotated[
        bool, typer.Option("--keep-defaults", help="Inputs that have an initializer are fed: treat them as no constants.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare with the source on random inputs.")] = True,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N,N,...", help="Shape of an input, for the check. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Rewrite a model as the smallest graph that computes the same."""
    screen = cast(Screen, context.obj)
    shapes = values.shapes(shape or [])
    chosen = None if passes is None else _names("--passes", passes)
    skipped = () if skip is None else _names("--skip", skip)
    values.check_outputs([source], [output])
    from rich.text import Text

    from onnxprune.cleanup.simplify import simplify as run
    from onnxprune.report.provenance import provenance
    from onnxprune.report.simplification import operators_table, passes_table, simplify_notes
    from onnxprune.report.tables import notes_table

    with screen.progress() as progress:
        result = run(
            source,
            passes=chosen,
            skip=skipped,
            opset=opset,
            size_threshold=size_threshold,
            keep_defaults=keep_defaults,
            check=check,
            shapes=shapes or None,
            seed=seed,
            progress=progress,
        )
        result.save(output, source_path=source)
    report = result.report
    if json:
        screen.document({"source": str(source), "output": str(output), **provenance(), **report.to_dict()})
        return
    screen.show(Text(f"{source} -> {output}"), operators_table(report, verbose=screen.verbose))
    if report.changed or screen.verbose:
        screen.show(passes_table(report, verbose=screen.verbose))
    screen.show(notes_table(simplify_notes(report, verbose=screen.verbose)))


def _names(option: str, text: str) -> list[str]:
    names = [n.strip() for n in text.split(",")]
    if not all(names):
        raise UsageError(f"{option} {text!r}: needs names of passes with commas between them")
    return names
