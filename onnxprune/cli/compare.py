"""`onnxprune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from onnxprune.cli import options, values
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from onnxprune.comparison.result import Comparison

_DATA, _FILES = options.DATA, options.FILES
_GATE, _SEARCH = "What has to hold (exit code 3 where it does not)", "Search"


def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Model that is compared with.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The other model.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Samples: npz, folder, file.py:function; those of --eval, else random ones ('synthetic') unless given.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Use at most N samples of --data.", rich_help_panel=_DATA)
    ] = 256,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="PATH", help="Score both models on this data, with labels.", rich_help_panel=_DATA),
    ] = None,
    metric: Annotated[str | None, options.metric(rich_help_panel=_DATA)] = None,
    labels: options.Labels = None,
    preprocess: options.Preprocess = None,
    mask: options.Mask = None,
    shape: options.Shape = None,
    seed: options.Seed = 0,
    provider: Annotated[list[str] | None, options.provider(rich_help_panel=_DATA)] = None,
    rtol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X|OUTPUT=X",
            help="Elements may differ by atol + rtol |a|; atol is 1e-5 unless given.",
            rich_help_panel=_GATE,
        ),
    ] = None,
    atol: Annotated[
        list[str] | None,
        typer.Option(metavar="X|OUTPUT=X", help="The same; rtol is 0 unless given.", rich_help_panel=_GATE),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="How much worse the metric may be; in points where it is in percent.",
            rich_help_panel=_GATE,
            show_default=False,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share (0..1) of samples with the same --top-k largest elements.",
            rich_help_panel=_GATE,
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(metavar="K", min=1, help="Of how many largest elements.", rich_help_panel=_GATE)] = 1,
    class_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTPUT=N",
            help="Axis of classes where outputs are not (N, classes), such as logits=2.",
            rich_help_panel=_GATE,
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Find where the models part.", rich_help_panel=_SEARCH)
    ] = True,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="SECOND was pruned by it: compare kept channels too.", rich_help_panel=_SEARCH),
    ] = None,
    memory_budget: Annotated[
        float, typer.Option(metavar="GB", min=0.01, help="Tensors inside that are held at once.", rich_help_panel=_SEARCH)
    ] = 0.25,
    save_worst: Annotated[
        Path | None, typer.Option(metavar="NPZ", help="Write the samples that are farthest apart.", rich_help_panel=_FILES)
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", min=1, help="How many of them.", rich_help_panel=_FILES)] = 5,
    json: options.Json = False,
) -> None:
    """Compare the outputs of two models, find where they part."""
    screen = cast(Screen, context.obj)
    shapes = values.shapes(shape or [])
    rtols, atols = values.tolerances("--rtol", rtol or []), values.tolerances("--atol", atol or [])
    values.check_outputs([first, second, plan, *[Path(p) for p in (data, evaluation, labels) if p]], [save_worst])
    if (metric or labels or max_drop is not None) and evaluation is None:
        raise UsageError("--metric, --labels and --max-drop need data to evaluate on: give --eval PATH")
    if plan is not None and not search:
        raise UsageError("--plan is for the search: leave out --no-search")
    if (preprocess or mask) and data is None and evaluation is None:
        raise UsageError("--preprocess and --mask need samples: give --data PATH or --eval PATH")
    chosen: dict[str, Any] = {
        "samples": samples,
        "evaluation": evaluation,
        "metric": metric,
        "labels": labels,
        "mask": mask,
        "shapes": shapes or None,
        "rtol": rtols or None,
        "atol": atols or None,
        "max_drop": max_drop,
        "min_agreement": min_agreement,
        "top_k": top_k,
        "class_axis": values.axes("--class-axis", class_axis or []),
        "search": search,
        "save_worst": save_worst,
        "worst": worst,
        "memory": int(memory_budget * (1 << 30)),
        "providers": provider or [],
        "seed": seed,
    }
    found = _run(screen, first, second, data, preprocess, plan, chosen)
    if json:
        from onnxprune.report.provenance import provenance

        screen.document({**provenance(), **found.to_dict()})
    else:
        _show(screen, found)
    if not found.passed:
        raise VerificationError("; ".join(found.exceeded))


def _run(
    screen: Screen,
    first: Path,
    second: Path,
    data: str | None,
    preprocess: str | None,
    plan: Path | None,
    options: dict[str, Any],
) -> Comparison:
    from onnxprune.calibrate.preprocess import parse_preprocess
    from onnxprune.comparison.compare import compare as run
    from onnxprune.plan.plan import load_plan

    chosen = parse_preprocess(preprocess) if preprocess else None
    held = load_plan(plan) if plan else None
    with screen.progress() as progress:
        progress("loading", 0.0)
        return run(first, second, data, preprocess=chosen, plan=held, progress=progress, **options)


def _show(screen: Screen, found: Comparison) -> None:
    from rich.text import Text

    from onnxprune.comparison import tables
    from onnxprune.report.tables import notes_table

    screen.show(Text(f"{found.first} and {found.second}", "bold"))
    if found.outputs:
        screen.show(tables.outputs_table(found.outputs))
    if found.evaluation:
        screen.show(tables.score_table(found.evaluation))
    if screen.verbose and any(o.worst for o in found.outputs):
        screen.show(tables.worst_samples_table(found.outputs))
    if screen.verbose and found.trail and found.trail.path:
        screen.show(tables.path_table(found.trail))
    screen.show(notes_table(tables.notes(found, verbose=screen.verbose)))
