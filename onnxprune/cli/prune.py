"""`onnxprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import typer

from onnxprune.cli import options, prune_options, values
from onnxprune.cli.data import Data
from onnxprune.cli.prune_request import PruneRequest
from onnxprune.cli.prune_run import PruneRun
from onnxprune.cli.screen import Screen, to_json
from onnxprune.errors import BudgetError, NothingToPruneError


def prune(
    context: typer.Context,
    source: prune_options.Source,
    output: prune_options.Output,
    ratio: prune_options.Ratio = None,
    target: prune_options.Target = None,
    closest: prune_options.Closest = False,
    criterion: prune_options.Criterion = None,
    ranking: prune_options.Ranking = None,
    round_to: options.RoundTo = None,
    min_channels: prune_options.MinChannels = None,
    ignore: options.Ignore = None,
    only: options.Only = None,
    attention: options.Attention = "heads",
    width: options.Width = False,
    depth: prune_options.Depth = False,
    lossless: prune_options.Lossless = False,
    low_rank: prune_options.LowRank = False,
    data: prune_options.Data = None,
    samples: prune_options.Samples = None,
    preprocess: prune_options.Preprocess = None,
    mask: prune_options.Mask = None,
    reconstruct: prune_options.Reconstruct = None,
    merge: prune_options.Merge = False,
    simplify: prune_options.Simplify = False,
    memory_budget: prune_options.MemoryBudget = 2.0,
    provider: prune_options.Provider = None,
    threads: prune_options.Threads = 0,
    batch: prune_options.BatchSize = 1,
    latency_cache: prune_options.LatencyCache = None,
    resume: prune_options.Resume = None,
    shape: prune_options.Shape = None,
    verify: prune_options.Verify = True,
    latency: prune_options.Latency = True,
    evaluation: prune_options.Evaluation = None,
    metric: prune_options.Metric = None,
    labels: prune_options.Labels = None,
    seed: prune_options.Seed = 0,
    plan_out: prune_options.PlanOut = None,
    report_out: prune_options.ReportOut = None,
    copy_if_nothing: prune_options.CopyIfNothing = False,
    json: options.Json = False,
) -> None:
    """Prune a model, verify the result and measure it."""
    from onnxprune.budget.targets import read_targets
    from onnxprune.latency.timing import Timing

    share, by_glob = values.ratios(ratio or [])
    floors = values.floors(min_channels or [])
    given = Data(data, samples, preprocess, mask, values.shapes(shape or []), seed, evaluation, metric, labels)
    request = PruneRequest(
        ratio=share,
        ratios=by_glob,
        target=read_targets(target or []),
        closest=closest,
        criterion=criterion,
        ranking=ranking,
        round_to=round_to,
        min_channels=floors or 1,
        ignore=ignore or [],
        only=only or [],
        attention=attention,
        width=width,
        depth=depth,
        lossless=lossless,
        low_rank=low_rank,
        reconstruct=reconstruct,
        merge=merge,
        simplify=simplify,
        memory=int(memory_budget * (1 << 30)),
        providers=provider or [],
        resume=resume,
        timing=Timing(threads, batch, latency_cache),
        check=verify,
    )
    request.check_choices()
    values.check_outputs([source, *given.files], [output, plan_out, report_out])
    request.check_data(given)
    request.check_target(given)
    run = PruneRun(cast(Screen, context.obj), source, output, request, given)
    _pruned(run, plan_out, report_out, latency=latency, copy_if_nothing=copy_if_nothing, json=json)


def _pruned(
    run: PruneRun, plan_out: Path | None, report_out: Path | None, *, latency: bool, copy_if_nothing: bool, json: bool
) -> None:
    """Prunes, writes, measures and tells.

    Raises:
        OnnxPruneError: see `onnxprune.prune`.
        BudgetError: the closest model was written, and does not meet the targets.
    """
    from onnxprune.io.load import load_model
    from onnxprune.io.save import save_model, save_text

    model = load_model(run.source)
    run.score(model)
    try:
        result = run.prune(model)
    except NothingToPruneError:
        if copy_if_nothing:
            save_model(model, run.output, source_path=run.source)
        raise
    if plan_out:
        save_text(result.plan.to_json(), plan_out)
    save_model(result.model, run.output, source_path=run.source)
    run.measure(model, latency=latency)
    document = run.document(model, result)
    if report_out:
        save_text(to_json(document), report_out)
    if json:
        run.screen.document(document)
    else:
        run.show(result)
    if result.report.unmet:
        raise BudgetError(result.report.unmet)
