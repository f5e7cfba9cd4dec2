"""`onnxprune search`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from onnxprune.cli import options, study, values
from onnxprune.cli.data import Data
from onnxprune.cli.screen import Screen, to_json
from onnxprune.errors import ModelError, UsageError, VerificationError

if TYPE_CHECKING:
    from onnxprune.budget.targets import Quantity
    from onnxprune.pipeline.stages import Progress
    from onnxprune.search.front import Front

_CHOICE, _DATA, _FILES = options.CHOICE, options.DATA, options.FILES


def search(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to prune; stays as it is.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for models, plans and cards.", rich_help_panel=_FILES),
    ],
    points: Annotated[int, typer.Option(metavar="N", min=1, help="Pruned models to make.", rich_help_panel=_CHOICE)] = 8,
    target: Annotated[
        str,
        typer.Option(
            metavar="QUANTITY",
            help="What models differ in: macs, params, size, memory, latency.",
            rich_help_panel=_CHOICE,
        ),
    ] = "macs",
    least: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the source, that the smallest model has.", rich_help_panel=_CHOICE)
    ] = 0.3,
    candidates: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Allocations to run for each model, around that of the knapsack; 0 takes the knapsack's.",
            rich_help_panel=_CHOICE,
        ),
    ] = 0,
    round_to: options.RoundTo = None,
    min_channels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep at least N units of a group.", rich_help_panel=_CHOICE)
    ] = 1,
    ignore: options.Ignore = None,
    only: options.Only = None,
    attention: options.Attention = "heads",
    width: options.Width = False,
    data: options.Data = None,
    samples: options.Samples = None,
    preprocess: options.Preprocess = None,
    mask: options.Mask = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="PATH", help="Score models on this data.", rich_help_panel=_DATA),
    ] = None,
    metric: options.Metric = None,
    labels: options.Labels = None,
    shape: options.Shape = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of all that is random.", rich_help_panel=_CHOICE)] = 0,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time the models.", rich_help_panel=options.LATENCY)
    ] = True,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Threads of a model; 0: as ORT chooses.", rich_help_panel=options.LATENCY),
    ] = 0,
    latency_cache: options.LatencyCache = None,
    memory_budget: options.MemoryBudget = 2.0,
    workers: options.Workers = None,
    backend: options.Backend = "processes",
    address: options.Address = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is finished in DIR.", rich_help_panel=_FILES)
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG|SVG", help="Another figure than DIR/front.svg.", rich_help_panel=_FILES),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the index instead of tables.", rich_help_panel=_FILES)] = False,
) -> None:
    """Make a family of pruned models of falling size."""
    from onnxprune.latency.timing import Timing

    screen, start = cast(Screen, context.obj), time.monotonic()
    samples_given = Data(data, samples, preprocess, mask, values.shapes(shape or []), seed, evaluation, metric, labels)
    given = study.Given(
        source, samples_given, attention, width, ignore or [], only or [], memory_budget, round_to, min_channels,
        timing=Timing(threads, cache=latency_cache),
    )  # fmt: skip
    given.check()
    quantity = _quantity(target)
    if latency_cache and quantity != "latency":
        raise UsageError("--latency-cache is about times by widths: give --target latency")
    if threads and not latency and quantity != "latency":
        raise UsageError("--threads is about times, and none are taken: leave out --no-latency")
    if quantity == "latency" and round_to is None:  # the table of latencies says what pays
        given = replace(given, round_to=1)
    values.check_outputs([source, *samples_given.files], [plot])
    values.check_plot(plot)
    from onnxprune.search.family import shares

    shares(points, least)
    with ExitStack() as held:
        opened_workers = held.enter_context(study.workers(backend, workers, address))
        _prepare(output, resume=resume)
        progress = held.enter_context(screen.progress())
        front, untimed = _searched(
            given, output, quantity, points, least, candidates, opened_workers, progress, latency=latency
        )
    front = replace(front, details={**front.details, "seconds": round(time.monotonic() - start, 1)})
    _save(front, output, plot, source)
    if json:
        screen.document(front.to_dict())
    else:
        _show(screen, front, output, untimed)
    failed = [c for c in front.cards if c.failed]
    if failed:
        raise VerificationError(f"{len(failed)} of {len(front.cards)} models failed: {failed[0].name}: {failed[0].failed}")


def _quantity(text: str) -> Quantity:
    from onnxprune.budget.targets import Quantity

    known = [q for q in get_args(Quantity) if q != "drop"]
    values.check_choice("--target", text, known)
    return cast("Quantity", text)


def _prepare(folder: Path, *, resume: bool) -> None:
    """The folder is there and can be written to, and holds no search, or one that goes on.

    Raises:
        UsageError: not so.
    """
    from onnxprune.search.family import LOG

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is no folder; choose another one for the models")
    if (folder / LOG).exists() and not resume:
        raise UsageError(f"{folder}: holds a search already; go on with it (--resume), or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: can't be made ({error.strerror}); choose another folder") from None
    values.check_outputs([], [folder / "index.json"])


def _searched(
    given: study.Given,
    folder: Path,
    quantity: Quantity,
    points: int,
    least: float,
    candidates: int,
    workers: Any,
    progress: Progress,
    *,
    latency: bool,
) -> tuple[Front, str]:
    """The family, and why it was not timed, if it should have been."""
    from onnxprune.jobs.log import Log
    from onnxprune.pipeline.stages import part
    from onnxprune.search.family import LOG, STATISTICS, Family, goals, timed

    with Log(folder / LOG) as log:
        opened = study.open_study(given, folder / STATISTICS, part(progress, (0.0, 0.3)))
        wanted = goals(opened.study, quantity, points, least)
        cluster, scored = workers(), opened.evaluator
        metric = None if scored is None else given.data.metric or scored.before.metric
        shared = opened.study.shared(opened.evaluation, metric, workers=cluster.workers)
        family = Family(opened.study, shared, cluster, folder, log, None if scored is None else scored.before)
        said: dict[str, dict[str, Any]] = {}
        if candidates:
            wanted, said = family.searched(wanted, candidates, part(progress, (0.3, 0.5)))
        cards = family.made(wanted, said, part(progress, (0.5, 0.95)))
    front = replace(family.front(cards, quantity), details=_details(given, opened, family, candidates))
    if not latency:
        return front, ""
    progress("timing all models", 0.95)
    try:
        from onnxprune.bench.inputs import of_one_run

        threads = given.timing.threads if given.timing else 0
        feeds = of_one_run(opened.model, 1, given.data.shapes, opened.study.samples)
        return timed(front, given.source, folder, feeds, threads=threads), ""
    except ModelError as error:
        return front, str(error)


def _details(given: study.Given, opened: study.Opened, family: Any, candidates: int) -> dict[str, Any]:
    """What the index says of the study."""
    from onnxprune.report.provenance import provenance

    scored = opened.evaluator
    return {
        **provenance(),
        "source": {"file": str(given.source), "sha256": opened.study.sha256},
        "calibration": opened.study.held.origin,
        "evaluation": None
        if scored is None
        else {
            "data": scored.data.samples.origin,
            "metric": scored.before.metric,
            "samples": scored.before.samples,
            "samples_used_for_calibration": scored.overlap(opened.study.held),
        },
        "candidates": candidates,
        "seed": given.data.seed,
        "threads": given.timing.threads if given.timing else 0,
        "resumed": family.repeated,
    }


def _save(front: Front, folder: Path, plot: Path | None, source: Path) -> None:
    from onnxprune.errors import UsageError
    from onnxprune.io.save import save_bytes
    from onnxprune.report.plot import check_installed
    from onnxprune.search.family import save_front
    from onnxprune.search.figures import front_plot

    save_front(front, folder, to_json)
    try:
        check_installed()
    except UsageError:
        return  # the family does not fail for the lack of a picture
    save_bytes(front_plot(front, source.name, "svg"), folder / "front.svg")
    if plot is not None:
        save_bytes(front_plot(front, source.name, values.form_of(plot)), plot)


def _show(screen: Screen, front: Front, folder: Path, untimed: str) -> None:
    from rich.text import Text

    from onnxprune.report.tables import notes_table
    from onnxprune.search.tables import front_notes, front_table

    title = Text(f"{front.details['source']['file']} -> {folder}", "bold")
    screen.show(title, front_table(front), notes_table(front_notes(front, untimed)))
