"""The library: prune, analyze, apply, verify, evaluate. Models that are given are never changed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.labels import with_labels
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.rebatch import rebatch
from onnxprune.errors import ModelError, NothingToPruneError, PlanError, UsageError, VerificationError
from onnxprune.groups.build import build
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Journal
from onnxprune.io.load import load_model, model_size, sha256_model
from onnxprune.io.share import share_initializers
from onnxprune.io.surgeon import import_graph
from onnxprune.lossless.find import edited, find_lossless, verify_lossless
from onnxprune.metrics.data import load_data
from onnxprune.metrics.score import Score
from onnxprune.plan.plan import Plan, alive_of, make_plan
from onnxprune.prepare.prepare import Prepared, prepare
from onnxprune.proof.check import Checker, alive_after, default_tolerance
from onnxprune.proof.oracle import Verification
from onnxprune.recover.factors import match_zeros
from onnxprune.recover.merge import merge_channels
from onnxprune.recover.normalization import at_home, brought_back
from onnxprune.recover.reconstruct import reconstruct as fit
from onnxprune.recover.solve import Mode
from onnxprune.report.effort import effort
from onnxprune.report.evaluate import evaluate as run_evaluation
from onnxprune.report.fidelity import fidelity
from onnxprune.report.losses import group_losses, input_axes
from onnxprune.report.report import Report, count_params, rows, total_macs
from onnxprune.select.allocate import Attention, Options, Ranking, candidates, choose
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import find, score
from onnxprune.select.target import Quantity, choose_to_target
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.expected import Expected, expected_statistics
from onnxprune.statistics.gate_gradients import gate_gradients
from onnxprune.statistics.providers import parse_providers
from onnxprune.statistics.sensitivity import output_sensitivity
from onnxprune.statistics.stream import at_hand
from onnxprune.surgery.apply import apply_alive
from onnxprune.trace.tracer import trace

Source = str | os.PathLike[str] | onnx.ModelProto
Progress = Callable[[str, float], None]
_DRAWN = 4  # random inputs for normalizations
_SHARES = {"select": (0.3, 0.4), "surgery": (0.4, 0.9), "report": (0.9, 1.0)}  # of a run without data
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
    target: Mapping[Quantity, float] | None = None,
    ratios: Mapping[str, float] | None = None,
    criterion: str | None = None,
    ranking: Ranking = "local",
    round_to: int = 1,
    min_channels: int = 1,
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
    memory: int = 2 << 30,
    providers: Sequence[str] = (),
    resume: str | os.PathLike[str] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    check: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> PruneResult:
    """Removes the least important units of every group, proves the surgery, and makes up for what went.

    Args:
        model: path or model; not changed.
        ratio: share of each group's units that goes, 0 <= ratio < 1; 0.5 where neither it nor a target is given.
        target: what stays of `macs` or `params`, a share below 1 or a number; the least ratio that reaches it is taken.
        ratios: the same for groups that match a glob (of group id, initializer or node); the last match counts.
        criterion: name of a registered criterion; `obs` with data and reconstruction, or with `merge`, else `l2`, where not
            given.
        ranking: `local` takes the share from each group, `global` from all of them together; with data what counts then
            is the error of the model's output, measured forward.
        round_to: kept widths are multiples of this where the group is wide enough.
        min_channels: units that stay in each group.
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
        memory: bytes of activations that are held; what goes beyond lies in temporary files.
        providers: ONNX Runtime's execution providers that calibration samples run on, in order of preference: `cpu`,
            `cuda:device_id=1`; the CPU where none is given.
        resume: folder for finished statistics and fits. A second call with the same inputs and the same folder goes on from
            there, with the same result; what other calls left there is not looked at.
        shapes: concrete shapes of inputs with symbolic dimensions; chosen where not given.
        check: verify with random inputs, and put back groups that fail.
        seed: of the random inputs.
        progress: called with the stage and the share that is done, 0..1.

    Raises:
        ModelError: the model can't be read or is not valid.
        UsageError: an option is out of range, a glob matches nothing, a provider is absent, or `resume` can't be written to.
        BudgetError: the target can't be reached.
        NothingToPruneError: no unit can go.
    """
    if ratio is not None and target:
        raise UsageError("ratio and target exclude each other: the target finds the ratio")
    if lossless and data is not None:
        raise UsageError("lossless removes what provably does nothing: there is nothing to learn from data")
    if lossless and merge:
        raise UsageError("lossless removes what provably does nothing: there is nothing to merge")
    if reconstruct not in (None, *get_args(Mode)):
        raise UsageError(f"reconstruct {reconstruct!r} is none of {', '.join(get_args(Mode))}")
    name = criterion or ("l2" if not merge and (data is None or reconstruct == "none") else "obs")
    share = 0.5 if ratio is None else ratio
    options = Options(
        share, dict(ratios or {}), name, ranking, round_to, min_channels, tuple(ignore), tuple(only), attention
    )
    run_on = parse_providers(providers)
    journal = None if resume is None else Journal(resume)
    tell = progress or (lambda stage, done: None)
    clock = _Clock()
    tell("load", 0.0)
    source = _model(model)
    clock("load")
    tell("trace", 0.0)
    prepared, groups = _analyze(source, width, shapes)
    clock("trace")
    found = None if data is None else at_hand(_samples(data, source, samples, mask, shapes, seed, labels), memory // 4)
    expected, gradients, sensitivity = None, None, {}
    found = found and rebatch(found, source, groups.trace.values, memory // 16)
    at_samples = found is not None and found.synthetic and not merge  # merging scales to the statistics that are stored
    home = at_home(prepared.model, found, memory // 2) if found is not None and at_samples else None
    reference = prepared if home is None else replace(prepared, model=home.model)
    shares, needed, ranked = _SHARES, merge or find(name).needs_data, ranking == "global" and find(name).needs_data
    judged = find(name).needs_gradients and not lossless
    if found is not None:
        asked = reconstruct != "none"
        work = effort(prepared, groups, found, statistics=needed, gradients=judged, sensitivity=ranked, reconstruction=asked)
        shares = work.bounds(sum(clock.seconds.values()))
    if found is not None and judged:
        inner = _part(tell, *shares["gradients"])
        gradients = gate_gradients(
            reference.model, groups, found, seed=seed, budget=memory // 2, journal=journal, progress=inner
        )
        clock("gradients")
    if found is not None and needed:
        inner = _part(tell, *shares["statistics"])
        expected = Expected(
            channel_statistics(
                reference.model, groups, found, budget=memory // 2, providers=run_on, journal=journal, progress=inner
            )
        )
        clock("statistics")
        if ranked:
            inner = _part(tell, *shares["sensitivity"])
            sensitivity = output_sensitivity(
                reference.model,
                groups,
                found,
                only=candidates(groups, options),
                providers=run_on,
                journal=journal,
                progress=inner,
            )
            clock("sensitivity")
    elif merge:
        expected = expected_statistics(prepared.model, groups)
        clock("statistics")
    tell("select", shares["select"][0])
    traced, proven = prepared, None
    if lossless:
        proven = find_lossless(prepared, groups)
        choices = [c for c in proven.choices if c.count]
        traced = replace(prepared, model=edited(prepared.model, proven))
    else:
        scores = score(ScoreContext(groups, expected.statistics if expected else None, seed, sensitivity, gradients), name)
        if target:
            choices, reached = choose_to_target(groups, options, scores, target)
            options = replace(options, ratio=reached)
        else:
            choices = choose(groups, options, scores)
        choices = [c for c in choices if c.count]
    expected = expected if merge else None
    if not choices:
        raise NothingToPruneError(_nothing(groups, options) if proven is None else "every channel does something")
    clock("select")
    tell("surgery", shares["surgery"][0])
    checker = Checker(traced, groups, seed, default_tolerance(groups), shapes)
    if check:
        pruned, choices, verification = checker.prune(choices, _part(tell, *shares["surgery"]))
    else:
        pruned, verification = apply_alive(traced.model, groups, alive_after(groups, choices)), None
    clock("surgery and verification" if check else "surgery")
    if not choices:
        raise NothingToPruneError(f"no group passed its check: {checker.put_back[0].reason}")
    if check and proven is not None and verification is not None and verification.passed:
        verification = verify_lossless(prepared, groups, pruned, seed=seed)
    alive = alive_after(groups, choices)
    merging = None
    shared: dict[str, str] = {}
    if expected is not None:
        merging = merge_channels(prepared, groups, alive, pruned, expected.statistics, unknown=expected.unknown)
        pruned, expected = merging.model, None
        clock("merging")
    recovery = None
    compared = prepared.model, pruned
    if found is not None and reconstruct != "none":
        mode = reconstruct or "lsq"
        inner = _part(tell, *shares["reconstruction"])
        start = pruned if home is None else apply_alive(reference.model, groups, alive)
        recovery = fit(
            reference,
            groups,
            alive,
            start,
            found,
            mode=mode,
            budget=memory // 4,
            providers=run_on,
            journal=journal,
            progress=inner,
        )
        compared = reference.model, recovery.model
        pruned = recovery.model if home is None else brought_back(recovery.model, pruned)
        clock("reconstruction")
    elif found is None and reconstruct is None and not all(c.group.exact for c in choices):
        pruned = _match_zeros(prepared, groups, alive, pruned, source, shapes, seed)
        clock("factors of normalizations")
    if merge:
        known = {t.name for t in prepared.model.graph.initializer}
        pruned, shared = share_initializers(pruned, keep={t.name for t in pruned.graph.initializer} - known)
    changed = recovery is not None or merge
    if changed and check and verification is not None and all(c.group.exact for c in choices):
        verification = checker.verify(pruned, alive) or verification
        clock("verification of the result")
    tell("comparing outputs", shares["report"][0])
    likeness = [] if found is None else fidelity(*compared, found, providers=run_on)
    plan = make_plan(sha256_model(source), groups, choices, alive)
    report = Report(
        count_params(groups),
        count_params(groups, alive),
        total_macs(groups, prepared.graph),
        total_macs(groups, import_graph(pruned), alive),
        model_size(source),
        model_size(pruned),
        rows(groups, choices),
        groups.frozen,
        groups.trace.unknown,
        groups.trace.failures,
        checker.put_back,
        verification,
        checker.unverified if check else "not asked for",
        dict(prepared.shapes),
        clock.seconds,
        "" if found is None else "; ".join(t for t in (found.origin, "" if home is None else home.text) if t),
        name,
        [] if recovery is None else recovery.fits,
        likeness,
        None if proven is None else {g: {str(k): n for k, n in kinds.items()} for g, kinds in proven.counts().items()},
        merges=None if merging is None else merging.merges,
        shared=shared,
        gradients="" if gradients is None else gradients.backend,
    )
    if recovery is not None:
        members = {c.group.id: c.group.members for c in choices}
        report.losses = group_losses(recovery.fits, members, input_axes(prepared.model, groups.trace.shape_of))
    report.resumed = "" if journal is None else str(journal)
    clock("report")
    tell("done", 1.0)
    return PruneResult(pruned, plan, report)


def analyze(model: Source, *, width: bool = False, shapes: Mapping[str, Sequence[int]] | None = None) -> Groups:
    """Groups of units that can go, and what can't go and why.

    Args:
        model: path or model; not changed.
        width: include inexact groups.
        shapes: concrete shapes of inputs with symbolic dimensions.

    Raises:
        ModelError: the model can't be read or is not valid.
    """
    return _analyze(_model(model), width, shapes)[1]


def apply(model: Source, plan: Plan, *, shapes: Mapping[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """Replays a plan.

    Raises:
        ModelError: the model can't be read or is not valid.
        PlanError: the plan is for another model, or not legal for this one.
    """
    source = _model(model)
    prepared, groups, alive = _resolve(source, plan, shapes)
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
    prepared, groups, alive = _resolve(dense, plan, shapes)
    bound = default_tolerance(groups) if tolerance is None else tolerance
    checker = Checker(prepared, groups, seed, bound, shapes)
    result = checker.verify(small, alive)
    if result is None:
        raise VerificationError(checker.unverified)
    return result


def _match_zeros(
    prepared: Prepared,
    groups: Groups,
    alive: Mask,
    pruned: onnx.ModelProto,
    source: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> onnx.ModelProto:
    """Normalizations over a pruned width, without data; as they were where the model can't be run."""
    try:
        return match_zeros(prepared, groups, alive, pruned, _samples("synthetic", source, _DRAWN, None, shapes, seed))
    except ModelError:
        return pruned


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self.last
        self.last = now


def _samples(
    data: Data,
    source: onnx.ModelProto,
    samples: int,
    mask: str | None,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
    labels: Sequence[int] | None = None,
) -> Samples:
    if isinstance(data, Samples):
        return data if labels is None else with_labels(data, labels)
    from onnxprune.calibrate.read import read_samples

    given = None if isinstance(data, str) and data == "synthetic" else data
    return read_samples(given, source, samples=samples, mask=mask, labels=labels, shapes=shapes, seed=seed)


def _part(tell: Progress, start: float, stop: float) -> Progress:
    """Progress of a part of the whole."""
    return lambda stage, done: tell(stage, start + (stop - start) * done)


def _model(model: Source) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else load_model(model)


def _analyze(source: onnx.ModelProto, width: bool, shapes: Mapping[str, Sequence[int]] | None) -> tuple[Prepared, Groups]:
    prepared = prepare(source, shapes)
    traced = trace(prepared.graph, prepared.shapes, prepared.inferred)
    traced.clones = prepared.clones
    return prepared, build(traced, width=width)


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


def _resolve(
    source: onnx.ModelProto, plan: Plan, shapes: Mapping[str, Sequence[int]] | None
) -> tuple[Prepared, Groups, Mask]:
    found = sha256_model(source)
    if found != plan.sha256:
        raise PlanError(f"the plan is for the model with hash {plan.sha256[:12]}..., this one has {found[:12]}...")
    prepared, groups = _analyze(source, True, shapes)
    return prepared, groups, alive_of(plan, groups)


def _nothing(groups: Groups, options: Options) -> str:
    """Why no unit goes."""
    if groups.groups:
        return f"at ratio {options.ratio:g} with these options no group loses a unit ({len(groups.groups)} groups could)"
    if not groups.frozen:
        return "the model has no weights"
    sizes = {name: math.prod(weight.shape) for name, weight in groups.trace.weights.items()}
    channels = [f for f in groups.frozen if f.axis < 2] or groups.frozen  # not the taps of a kernel
    held = max(channels, key=lambda f: (f.inexact, sizes[f.weight]))
    hint = "; `width` prunes such axes too" if held.inexact else ""
    return f"no group can be pruned; for example axis {held.axis} of {held.weight!r}: {held.reason}{hint}"
