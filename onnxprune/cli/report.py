"""`onnxprune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from onnxprune.cli import values
from onnxprune.cli.screen import Screen


def report(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="JSON...",
            help="Results of prune --report-out, bench -o, profile --json, compare --json, search; told by their content.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Report: .html, .md, .csv, or its plots: .png, .svg.", show_default=False
        ),
    ],
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Title; names of the models unless given.", show_default=False)
    ] = "",
) -> None:
    """Write results as a page, Markdown, CSV or pictures."""
    from onnxprune.document.write import check_suffix, write_report
    from onnxprune.report.provenance import command_line

    screen = cast(Screen, context.obj)
    check_suffix(output)
    values.check_outputs(files, [output])
    found = write_report(files, output, title=title, command=command_line())
    from rich.text import Text

    screen.show(Text(f"{output}: {found.title}"), *(Text(note.text) for note in found.findings))
