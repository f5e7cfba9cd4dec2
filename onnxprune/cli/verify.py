"""`onnxprune verify`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from onnxprune.cli import options, values
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError, VerificationError


def verify(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Model before pruning.", show_default=False)],
    pruned: Annotated[Path, typer.Argument(metavar="PRUNED", help="Model after pruning.", show_default=False)],
    plan_path: Annotated[Path, typer.Option("--plan", metavar="PLAN", help="Plan that led from one to the other.")],
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="X", help="Largest relative error; by element type unless given.", show_default=False),
    ] = None,
    shape: Annotated[list[str] | None, options.shape()] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Compare a pruned model with its source on random inputs."""
    screen = cast(Screen, context.obj)
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"--tolerance {tolerance:g}: has to be 0 or more")
    shapes = values.shapes(shape or [])
    from onnxprune.api import verify as compare
    from onnxprune.io.load import load_model
    from onnxprune.plan.plan import load_plan
    from onnxprune.report.tables import notes_table, verification_note

    plan = load_plan(plan_path)
    models = load_model(source), load_model(pruned)
    with screen.progress() as progress:
        progress("comparing", 0.0)
        found = compare(*models, plan, shapes=shapes or None, seed=seed, tolerance=tolerance)
    if json:
        screen.document({"source": str(source), "pruned": str(pruned), **asdict(found)})
    elif found.passed:
        screen.show(notes_table([verification_note(found)]))
    if not found.passed:
        bound = f" (tolerance {found.tolerance:g})" if math.isfinite(found.error) else ""
        raise VerificationError(f"{pruned}: {found.message or f'differs by {found.error:.2g}'}{bound}")
