"""`onnxprune sensitivity`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from onnxprune.cli import options, study, values
from onnxprune.cli.data import Data
from onnxprune.cli.screen import Screen, to_json
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.latency.timing import Timing
    from onnxprune.pipeline.stages import Progress
    from onnxprune.search.sensitivity import Sensitivity
    from onnxprune.sparsity.patterns import Pattern

_STATISTICS = "statistics"
_LOG = "sensitivity.jsonl"
_CHOICE, _DATA, _FILES = "Groups", options.DATA, options.FILES


def sensitivity(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model to look at.", show_default=False)],
    data: Annotated[str | None, options.data("--data", "--calibration", rich_help_panel=_DATA)] = None,
    samples: options.Samples = None,
    preprocess: options.Preprocess = None,
    mask: options.Mask = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="PATH", help="Score on this data too; implies --measure.", rich_help_panel=_DATA),
    ] = None,
    metric: options.Metric = None,
    labels: options.Labels = None,
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="Share of a group that goes; 0.1, 0.25, 0.5, 0.75 and 0.9 unless given. Repeatable.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N:M|SHARE%",
            help="Also what zeros in weights would cost: 2:4, 50%. Told, not done. Repeatable.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the model without these units, too.", rich_help_panel=_CHOICE)
    ] = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Also what time it saves; that is measured, unless the cache has it.",
            rich_help_panel=options.LATENCY,
        ),
    ] = False,
    threads: options.Threads = 0,
    batch: options.BatchSize = 1,
    latency_cache: options.LatencyCache = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Groups, initializers or nodes to leave out. Repeatable.", rich_help_panel=_CHOICE
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Groups, initializers or nodes to look at. Repeatable.", rich_help_panel=_CHOICE),
    ] = None,
    attention: Annotated[
        str, typer.Option(metavar="heads|head-dim|both|off", help="What of attention.", rich_help_panel=_CHOICE)
    ] = "heads",
    width: Annotated[bool, options.width(rich_help_panel=_CHOICE)] = False,
    shape: options.Shape = None,
    seed: options.Seed = 0,
    memory_budget: options.MemoryBudget = 2.0,
    workers: options.Workers = None,
    backend: options.Backend = "processes",
    address: options.Address = None,
    provider: options.Provider = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep what is finished here; go on from it.", rich_help_panel=_FILES),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="JSON", help="Write all figures.", rich_help_panel=_FILES)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG|SVG", help="Write a figure (needs matplotlib).", rich_help_panel=_FILES)
    ] = None,
    json: options.Json = False,
) -> None:
    """Show what each group costs in error, and saves in time, the more of it goes."""
    screen = cast(Screen, context.obj)
    samples_given = Data(data, samples, preprocess, mask, values.shapes(shape or []), seed, evaluation, metric, labels)
    given = study.Given(
        source, samples_given, attention, width, ignore or [], only or [], memory_budget, provider=provider or []
    )
    given.check()
    runs = measure or evaluation is not None
    if not runs and (workers is not None or address is not None or backend != "processes"):
        raise UsageError("--workers, --backend and --address are about what is measured: give --measure or --eval")
    if (threads or batch != 1 or latency_cache) and not latency:
        raise UsageError("--threads, --batch and --latency-cache are about times that are measured: give --latency")
    values.check_outputs([source, *samples_given.files], [output, plot])
    values.check_plot(plot)
    from onnxprune.latency.timing import Timing
    from onnxprune.report.provenance import provenance
    from onnxprune.search.sensitivity import RATIOS, check_ratios
    from onnxprune.sparsity.patterns import parse_pattern

    shares = check_ratios(ratio or RATIOS)
    patterns = [parse_pattern(text) for text in dict.fromkeys(sparsity or [])]
    with ExitStack() as held:
        opened_workers = held.enter_context(study.workers(backend, workers, address))
        progress = held.enter_context(screen.progress())
        timing = Timing(threads, batch, latency_cache) if latency else None
        found = _analysed(given, shares, patterns, timing, opened_workers if runs else None, resume, progress)
    document = {"model": str(source), **provenance(), **found.to_dict()}
    if output:
        from onnxprune.io.save import save_text

        save_text(to_json(document), output)
    if plot:
        from onnxprune.io.save import save_bytes
        from onnxprune.search.figures import sensitivity_plot

        save_bytes(sensitivity_plot(found, source.name, values.form_of(plot)), plot)
    if json:
        screen.document(document)
    else:
        _show(screen, found, measured=runs)


def _analysed(
    given: study.Given,
    shares: list[float],
    patterns: list[Pattern],
    timing: Timing | None,
    workers: Any,
    resume: Path | None,
    progress: Progress,
) -> Sensitivity:
    from onnxprune.jobs.log import Log
    from onnxprune.search.pays import add_latency
    from onnxprune.search.sensitivity import measure, predicted

    parts = _parts(progress, study=5, sparsity=bool(patterns), latency=4 * (timing is not None), measure=5 * bool(workers))
    opened = study.open_study(given, None if resume is None else resume / _STATISTICS, parts["study"])
    found = predicted(opened.study, shares)
    if patterns:
        found.sparsity = opened.study.sparsity(patterns, parts["sparsity"])
    if timing is not None:
        add_latency(opened.study, found, opened.study.latency(timing, parts["latency"]))
    if opened.evaluator is not None:
        score = opened.evaluator.before
        found.metric = {
            "name": score.metric,
            "title": score.title,
            "unit": score.unit,
            "higher_is_better": score.higher_is_better,
            "value": score.value,
            "samples": score.samples,
            "data": opened.evaluator.data.samples.origin,
        }
    if workers is not None:
        with ExitStack() as held:
            log = None if resume is None else held.enter_context(Log(resume / _LOG))
            metric = found.metric["name"] if found.metric and not given.data.metric else given.data.metric
            evaluation = opened.evaluation
            measure(opened.study, found, workers(), log, evaluation=evaluation, metric=metric, progress=parts["measure"])
    return found


def _parts(progress: Progress, **shares: int) -> dict[str, Progress]:
    """Progress of stages that follow each other, by what share of the whole they are."""
    from onnxprune.pipeline.stages import part

    found, before, total = {}, 0, sum(shares.values())
    for name, share in shares.items():
        found[name] = part(progress, (before / total, (before + share) / total))
        before += share
    return found


def _show(screen: Screen, found: Sensitivity, *, measured: bool) -> None:
    from rich.text import Text

    from onnxprune.report.tables import notes_table
    from onnxprune.search.tables import latency_table, sensitivity_notes, sensitivity_table, worth_text

    titles = {"predicted": "predicted error of the outputs, by the share of a group that goes"}
    if measured:
        titles |= {"error": "measured, weights as they are", "repaired": "measured, where readers make up for it"}
    if found.metric is not None:
        titles["metric"] = f"{found.metric['title']} of that"
    for kind, title in titles.items():
        screen.show(Text(title, "bold"), sensitivity_table(found, kind, verbose=screen.verbose))
    if found.latency is not None:
        title = "time of the model, by the share that goes"
        if found.worth_error is not None:
            title += f"; most saved at {worth_text(found.worth_error)} of error first"
        screen.show(Text(title, "bold"), latency_table(found, verbose=screen.verbose))
    notes = sensitivity_notes(found, measured=measured)
    if found.sparsity is not None:
        from onnxprune.sparsity.tables import sparsity_notes, sparsity_table

        screen.show(Text("sparse weights", "bold"), sparsity_table(found.sparsity, verbose=screen.verbose))
        notes += sparsity_notes(found.sparsity)
    screen.show(notes_table(notes))
