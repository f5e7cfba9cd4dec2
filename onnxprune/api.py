"""The library: prune, analyze, apply, verify, evaluate. Models that are given are never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from onnxprune.budget.targets import Quantity, Target, read_targets
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.depth.replay import Replay
from onnxprune.errors import PlanError, UsageError, VerificationError
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.load import load_model
from onnxprune.io.structure import sha256_model
from onnxprune.latency.timing import Timing
from onnxprune.metrics.data import EvalData, load_data
from onnxprune.metrics.score import Score
from onnxprune.pipeline.drop import Scorer
from onnxprune.pipeline.low_rank import prune_low_rank
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, analysed
from onnxprune.plan.plan import Plan, alive_of
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.check import Checker, default_tolerance
from onnxprune.proof.oracle import Verification
from onnxprune.recover.solve import Mode
from onnxprune.report.evaluate import evaluate as run_evaluation
from onnxprune.report.report import Report
from onnxprune.select.allocate import Attention, Options, Ranking
from onnxprune.select.criteria import knows_losses
from onnxprune.surgery.apply import apply_alive

Source = str | os.PathLike[str] | onnx.ModelProto
Progress = Callable[[str, float], None]
Data = Any  # whatever `onnxprune.calibrate.read.read_samples` takes


@dataclass
class PruneResult:
    """Result of `prune`.

    Attributes:
        model: the pruned model.
        plan: what went, replayable with `apply`.
        report: figures, reasons and the verification.
    """

    model: onnx.ModelProto
    plan: Plan
    report: Report


def prune(
    model: Source,
    *,
    ratio: float | None = None,
    target: Mapping[Quantity, float | str] | Sequence[str | Target] | None = None,
    closest: bool = False,
    evaluation: Data = None,
    metric: str | None = None,
    ratios: Mapping[str, float] | None = None,
    criterion: str | None = None,
    ranking: Ranking | None = None,
    round_to: int | None = None,
    min_channels: int | Mapping[str, int] = 1,
    ignore: Sequence[str] = (),
    only: Sequence[str] = (),
    attention: Attention = "heads",
    width: bool = False,
    data: Data = None,
    samples: int = 512,
    mask: str | None = None,
    labels: Sequence[int] | None = None,
    reconstruct: Mode | None = None,
    merge: bool = False,
    lossless: bool = False,
    simplify: bool = False,
    depth: bool = False,
    low_rank: bool = False,
    memory: int = 2 << 30,
    providers: Sequence[str] = (),
    resume: str | os.PathLike[str] | None = None,
    timing: Timing | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    check: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> PruneResult:
    """Removes the least important units of every group, proves the surgery, and makes up for what went.

    Args:
        model: path or model; not changed.
        ratio: share of each group's units that goes, 0 <= ratio < 1; 0.5 where neither it nor a target is given.
        target: what may stay of `macs`, `params`, `size` (bytes of the file) or `memory` (peak of activations), by quantity
            or as texts: a share of the source below 1, or a number such as `10MB`; `drop` is what the metric may lose (of a
            figure in percent, `1%` is a point), at the least multiply-accumulates if it is alone. All hold at once.
        closest: where the targets can't be met, prune as near to them as the options let; `report.unmet` says why.
        evaluation: labelled samples for the target `drop`, in any form that `evaluate` takes.
        metric: for it; by what the samples hold where not given.
        ratios: the same for groups that match a glob (of group id, initializer or node); the last match counts.
        criterion: name of a registered criterion; `obs` with data and reconstruction, or with `merge`, else `l2`, where not
            given.
        ranking: `local` takes the share from each group, `global` from all of them together, `isomorphic` from those of the
            same structure, `knapsack` spends a target where the error of the model's output, measured forward, grows least.
            Where not given: `knapsack` for a target with data and a criterion that knows the loss of each width (`obs`,
            `fisher`), else `local`.
        round_to: kept widths are multiples of this where the group is wide enough. Where not given: any width for a ratio;
            for a target, widths that a table of latencies says pay, or multiples of 8, 4 or 2 channels (any with `local`,
            where all groups take the same step).
        min_channels: units that stay in each group, or by glob in those that match it, `*` for all others.
        ignore: globs of groups, initializers or nodes that stay.
        only: globs of what may go; all else stays.
        attention: what goes of attention: `heads`, `head-dim`, `both` or `off`.
        width: prune inexact groups too (the width of residual streams with normalization over channels).
        data: unlabelled calibration samples in any form that `onnxprune.calibrate.read.read_samples` knows; `synthetic` for
            seeded random ones of the kinds that the model seems to take.
        samples: how many of them.
        mask: input whose zeros mark padding.
        labels: classes of the samples, for criteria that judge gradients; drawn from the model's outputs where not given.
        reconstruct: how far the remaining weights are fitted to what the source computes: `none`, `bias`, `affine`,
            `channel` or `lsq` (all weights); `lsq` with data where not given.
        merge: fold removed channels into those that stay, by what samples or, without data, the weights say about their
            correlations; equal initializers of the result are stored once. Criteria that look at activations then work
            without data, too.
        lossless: remove only what provably does nothing: dead and constant channels, duplicates, positive multiples, what
            nobody reads; `ratio`, `criterion` and the like do not count then.
        simplify: rewrite the result as the smallest graph that computes the same; `verify` and plans name initializers that
            may be folded into others by that.
        depth: the knapsack may drop whole blocks too: a branch of a sum becomes its mean over the samples, and what only it
            needed goes. Needs a target and samples.
        low_rank: wide matrix products and convolutions may become two of a lower rank, where the knapsack finds that this
            loses less than other widths do; needs a target and data. `apply` can't replay such a plan.
        memory: bytes of activations that are held; what goes beyond lies in temporary files.
        providers: ONNX Runtime's execution providers that calibration samples run on, in order of preference: `cpu`,
            `cuda:device_id=1`; the CPU where none is given.
        resume: folder for finished statistics and fits. A second call with the same inputs and the same folder goes on from
            there, with the same result; what other calls left there is not looked at.
        timing: threads, batch and cache folder for a latency target; one sample with ONNX Runtime's own number of threads
            where not given. Inputs are as large as those of `data` usually are, unless `shapes` asks for others.
        shapes: concrete shapes of inputs with symbolic dimensions; chosen where not given.
        check: verify with random inputs, and put back groups that fail.
        seed: of the random inputs.
        progress: called with the stage and the share that is done, 0..1.

    Raises:
        ModelError: the model can't be read or is not valid.
        UsageError: an option is out of range, a glob matches nothing, a provider is absent, or `resume` can't be written to.
        BudgetError: the targets can't be met.
        NothingToPruneError: no unit can go.
        VerificationError: the simplified result does not compute what the pruned model does.
    """
    if ratio is not None and target:
        raise UsageError("ratio and target exclude each other: the target finds the ratio")
    name = criterion or ("l2" if not merge and (data is None or reconstruct == "none") else "obs")
    share = 0.5 if ratio is None else ratio
    targets = read_targets(target or {})
    spends = bool(targets) and data is not None and knows_losses(name)
    together = ranking or ("knapsack" if spends else "local")
    floors = {"*": min_channels} if isinstance(min_channels, int) else dict(min_channels)
    least = floors.pop("*", 1)
    if round_to is None and (not targets or together == "local" or any(t.quantity == "latency" for t in targets)):
        round_to = 1
    options = Options(
        share, dict(ratios or {}), name, together, round_to, least, floors, tuple(ignore), tuple(only), attention
    )
    tell = progress or (lambda stage, done: None)
    clock = Clock()
    tell("load", 0.0)
    source = _model(model)
    clock("load")
    request = Request(
        options,
        targets,
        width,
        data,
        samples,
        mask,
        labels,
        reconstruct,
        merge,
        lossless,
        memory,
        providers,
        resume,
        shapes,
        check,
        seed,
        closest,
        None if evaluation is None else _scorer(source, evaluation, metric),
        timing or Timing(),
        depth,
        low_rank,
    )
    found = prune_low_rank(source, request, tell, clock) if low_rank else Pruning(source, request, tell, clock).run()
    result = PruneResult(*found)
    return _simplified(result, request, clock) if simplify else result


def _simplified(result: PruneResult, request: Request, clock: Clock) -> PruneResult:
    """The last stage: removal and fits are done and proven, and nothing has to be found by its name any more.

    Raises:
        VerificationError: the smaller graph does not compute the same.
    """
    from onnxprune.cleanup.simplify import simplify

    done = simplify(result.model, check=request.check, shapes=request.shapes, seed=request.seed)
    clock("simplify")
    report = replace(result.report, simplified=done.report, bytes_after=done.report.bytes_after)
    return PruneResult(done.model, result.plan, report)


def analyze(model: Source, *, width: bool = False, shapes: Mapping[str, Sequence[int]] | None = None) -> Groups:
    """Groups of units that can go, and what can't go and why.

    Args:
        model: path or model; not changed.
        width: include inexact groups.
        shapes: concrete shapes of inputs with symbolic dimensions.

    Raises:
        ModelError: the model can't be read or is not valid.
    """
    return analysed(_model(model), width=width, shapes=shapes)[1]


def apply(model: Source, plan: Plan, *, shapes: Mapping[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """Replays a plan.

    Raises:
        ModelError: the model can't be read or is not valid.
        PlanError: the plan is for another model, or not legal for this one.
    """
    source = _model(model)
    prepared, groups, alive, _ = _resolve(source, plan, shapes)
    return apply_alive(prepared.model, groups, alive)


def verify(
    source: Source,
    pruned: Source,
    plan: Plan,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> Verification:
    """Proves that a pruned model is its source without what the plan removes, whatever its weights are now.

    Args:
        source: path or model.
        pruned: path or model.
        plan: what was removed.
        shapes: concrete shapes of inputs with symbolic dimensions.
        seed: of the random inputs.
        tolerance: largest relative error that passes; by the type of the weights where not given.

    Raises:
        ModelError: a model can't be read or is not valid.
        PlanError: the plan is for another source.
        VerificationError: ONNX Runtime can't run the source, so that nothing can be said.
    """
    dense, small = _model(source), _model(pruned)
    prepared, groups, alive, shorter = _resolve(dense, plan, shapes)
    bound = default_tolerance(groups) if tolerance is None else tolerance
    checker = Checker(prepared, groups, seed, bound, shapes)
    result = checker.verify(small, alive)
    if shorter is not None:
        result = shorter.proven(result, seed=seed, tolerance=bound, shapes=shapes)
    if result is None:
        raise VerificationError(checker.unverified or "ONNX Runtime can't run the source")
    return result


def _model(model: Source) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else load_model(model)


def evaluate(
    model: Source,
    data: Data,
    *,
    metric: str | None = None,
    labels: Any = None,
    preprocess: Preprocess | None = None,
    mask: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Score:
    """What a model reaches on data; `before.change(after)` of two scores tells what lies between them.

    Args:
        model: path or model.
        data: samples in any form that `prune` takes, with labels or targets; all of them are used.
        metric: `accuracy`, `top5`, `perplexity`, `mse`, `cosine`, the name of a registered one, or `file.py:function`;
            chosen by what the data holds where not given.
        labels: file of integer labels (npy, npz, csv, txt), name of an array of the data, or an array `(N, ...)`.
        preprocess: for images.
        mask: input whose zeros mark padding.
        shapes: concrete shapes of inputs with symbolic dimensions.

    Raises:
        ModelError: the model or the data can't be read, they don't fit each other, or an output holds NaN.
        UsageError: there is no such metric, or an option is missing.
    """
    source = _model(model)
    found = load_data(data, source, metric=metric, labels=labels, preprocess=preprocess, mask=mask, shapes=shapes)
    return run_evaluation(source, found, "model" if isinstance(model, onnx.ModelProto) else os.fspath(model))


def _scorer(source: onnx.ModelProto, data: Data, metric: str | None) -> Scorer:
    """Scores models on one set of samples."""
    found = data if isinstance(data, EvalData) else load_data(data, source, metric=metric)
    return lambda model: run_evaluation(model, found, "model")


def _resolve(
    source: onnx.ModelProto, plan: Plan, shapes: Mapping[str, Sequence[int]] | None
) -> tuple[Prepared, Groups, Mask, Replay | None]:
    """The model that a plan slices, its analysis, what stays, and how it came from the source where blocks went."""
    found = sha256_model(source)
    if plan.low_rank:
        names = ", ".join(repr(row["node"]) for row in plan.low_rank[:3]) + (" ..." if len(plan.low_rank) > 3 else "")
        raise PlanError(
            f"the plan writes {len(plan.low_rank)} nodes as two ({names}) by weights that it does not hold: "
            "it can't be replayed; prune the model again with the same samples"
        )
    if found != plan.sha256:
        raise PlanError(f"the plan is for the model with hash {plan.sha256[:12]}..., this one has {found[:12]}...")
    prepared, groups = analysed(source, width=True, shapes=shapes)
    shorter = Replay(source, prepared, groups, plan.constants) if plan.constants else None
    if shorter is not None:
        prepared, groups = analysed(shorter.model, width=True, shapes=shapes)
    return prepared, groups, alive_of(plan, groups), shorter
