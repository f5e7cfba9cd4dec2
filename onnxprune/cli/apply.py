"""`onnxprune apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from onnxprune.cli import values
from onnxprune.cli.screen import Screen


def apply(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model the plan was made for.", show_default=False)],
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan (JSON).", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Pruned model.")],
) -> None:
    """Apply a plan to the model it was made for."""
    screen = cast(Screen, context.obj)
    values.check_outputs([source, plan_path], [output])
    from rich.text import Text

    from onnxprune.api import apply as apply_plan
    from onnxprune.io.load import load_model
    from onnxprune.io.save import save_model
    from onnxprune.io.structure import model_size
    from onnxprune.plan.plan import load_plan
    from onnxprune.report.tables import percent, si

    plan = load_plan(plan_path)
    model = load_model(source)
    with screen.progress() as progress:
        progress("applying the plan", 0.0)
        pruned = apply_plan(model, plan)
    save_model(pruned, output, source_path=source)
    before, after = model_size(model), model_size(pruned)
    screen.show(Text(f"{source} -> {output}: {si(before)}B -> {si(after)}B ({percent(before, after)})"))
