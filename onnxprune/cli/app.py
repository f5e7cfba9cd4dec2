"""The commands and the options they share."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxprune.cli.apply import apply
from onnxprune.cli.bench import BenchCommand, bench
from onnxprune.cli.compare import compare
from onnxprune.cli.inspect import inspect
from onnxprune.cli.profile import profile
from onnxprune.cli.prune import prune
from onnxprune.cli.report import report
from onnxprune.cli.score import score
from onnxprune.cli.screen import Screen
from onnxprune.cli.search import search
from onnxprune.cli.sensitivity import sensitivity
from onnxprune.cli.simplify import simplify
from onnxprune.cli.verify import verify

EXIT_CODES = (
    "Exit codes: 0 ok, 1 bad model or input, 2 usage, 3 verification failed, "
    "4 budget missed, 5 nothing to prune, 70 internal error, 130 interrupted."
)

app = typer.Typer(
    name="onnxprune",
    help="Remove whole channels and heads from ONNX models, provably.",
    epilog=EXIT_CODES,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (prune, simplify, apply, verify, inspect, score, profile, compare, sensitivity, search):
    app.command()(command)
app.command(cls=BenchCommand)(bench)
app.command()(report)


def _version(asked: bool) -> None:
    if asked:
        from onnxprune import __version__

        typer.echo(f"onnxprune {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show all groups and reasons.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options that may stand before or behind the command."""
    context.obj = Screen(verbose=verbose, quiet=quiet)
