"""The stages of `onnxprune.prune`, in the order in which they run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.rebatch import rebatch
from onnxprune.errors import ModelError, NothingToPruneError
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Journal
from onnxprune.io.load import model_size, sha256_model
from onnxprune.io.share import share_initializers
from onnxprune.io.surgeon import import_graph
from onnxprune.lossless.find import Lossless, edited, find_lossless, verify_lossless
from onnxprune.pipeline.evidence import Evidence, Needs, gather
from onnxprune.pipeline.request import Request, read
from onnxprune.pipeline.stages import Clock, Progress, analysed, part
from onnxprune.plan.plan import Plan, make_plan
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.check import Checker, alive_after, default_tolerance
from onnxprune.proof.oracle import Verification
from onnxprune.recover.factors import match_zeros
from onnxprune.recover.merge import Merging, merge_channels
from onnxprune.recover.normalization import Home, at_home, brought_back
from onnxprune.recover.reconstruct import Reconstruction, reconstruct
from onnxprune.report.effort import effort
from onnxprune.report.fidelity import Likeness, fidelity
from onnxprune.report.losses import group_losses, input_axes
from onnxprune.report.report import Report, count_params, rows, total_macs
from onnxprune.select.allocate import Choice, Options, candidates, choose
from onnxprune.select.criteria import score
from onnxprune.select.target import choose_to_target
from onnxprune.statistics.providers import parse_providers
from onnxprune.statistics.shelf import at_hand
from onnxprune.surgery.apply import apply_alive

_SHARES = {"select": (0.3, 0.4), "surgery": (0.4, 0.9), "report": (0.9, 1.0)}  # of a run without data
_DRAWN = 4  # random inputs for normalizations


@dataclass
class _Repair:
    """What was done to the weights that stay.

    Attributes:
        before: the source as samples saw it.
        after: the pruned model as samples saw it.
    """

    model: onnx.ModelProto
    before: onnx.ModelProto
    after: onnx.ModelProto
    merging: Merging | None = None
    fits: Reconstruction | None = None
    likeness: Likeness | None = None
    shared: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Weights are not slices of the source's any more."""
        return self.merging is not None or self.fits is not None


class Pruning:
    """One call of `onnxprune.prune`.

    Args:
        source: the model; not changed.
        request: what was asked for.
        tell: called with the stage and the share that is done.
        clock: of the stages so far.

    Raises:
        ModelError: the model is not valid, or ONNX Runtime can't run it on the samples.
        UsageError: a provider is absent, or the folder to resume from can't be written to.
    """

    def __init__(self, source: onnx.ModelProto, request: Request, tell: Progress, clock: Clock) -> None:
        self.source, self.request, self.tell, self.clock = source, request, tell, clock
        self.options = request.options
        self.providers = parse_providers(request.providers)
        self.journal = None if request.resume is None else Journal(request.resume)
        tell("trace", 0.0)
        self.prepared, self.groups = analysed(source, width=request.width, shapes=request.shapes)
        clock("trace")
        self.samples = self._read()
        self.home = self._home()
        self.reference = self.prepared if self.home is None else replace(self.prepared, model=self.home.model)
        self.needs = Needs.of(self.options.criterion, merge=request.merge, ranked=self.options.ranking == "global")
        self.shares = self._bounds()

    def run(self) -> tuple[onnx.ModelProto, Plan, Report]:
        """The pruned model, what went, and figures.

        Raises:
            BudgetError: the target can't be reached.
            NothingToPruneError: no unit can go.
        """
        evidence = Evidence() if self.request.lossless else self._gather()
        self.tell("select", self.shares["select"][0])
        proven = find_lossless(self.prepared, self.groups) if self.request.lossless else None
        choices = self._choose(evidence) if proven is None else [c for c in proven.choices if c.count]
        if not choices:
            raise NothingToPruneError(
                _nothing(self.groups, self.options) if proven is None else "every channel does something"
            )
        if not self.request.merge:
            evidence.expected = None  # covariances are large
        self.clock("select")
        self.tell("surgery", self.shares["surgery"][0])
        traced = self.prepared if proven is None else replace(self.prepared, model=edited(self.prepared.model, proven))
        checker = Checker(traced, self.groups, self.request.seed, default_tolerance(self.groups), self.request.shapes)
        pruned, choices, verification = self._remove(checker, traced, choices, proven)
        alive = alive_after(self.groups, choices)
        exact = all(c.group.exact for c in choices)
        repair = self._repair(pruned, alive, evidence, exact=exact)
        if repair.changed and exact and verification is not None:
            verification = checker.verify(repair.model, alive) or verification
            self.clock("verification of the result")
        plan = make_plan(sha256_model(self.source), self.groups, choices, alive)
        report = self._report(choices, alive, checker, verification, repair, proven, evidence)
        self.tell("done", 1.0)
        return repair.model, plan, report

    # ---- before ----

    def _read(self) -> Samples | None:
        found = self.request.read(self.source)
        if found is None:
            return None
        held = at_hand(found, self.request.memory // 4)
        return rebatch(held, self.source, self.groups.trace.values, self.request.memory // 16)

    def _home(self) -> Home | None:
        """The source with statistics of random samples; merging scales to those that are stored."""
        if self.samples is None or not self.samples.synthetic or self.request.merge:
            return None
        return at_home(self.prepared.model, self.samples, self.request.memory // 2)

    def _bounds(self) -> dict[str, tuple[float, float]]:
        """Share of the whole at which each stage begins and ends."""
        if self.samples is None:
            return _SHARES
        work = effort(
            self.prepared,
            self.groups,
            self.samples,
            statistics=self.needs.statistics,
            gradients=self.needs.gradients,
            sensitivity=self.needs.sensitivity,
            reconstruction=self.request.fits,
        )
        return work.bounds(sum(self.clock.seconds.values()))

    def _gather(self) -> Evidence:
        return gather(
            self.reference,
            self.groups,
            self.samples,
            self.needs if self.samples is not None or self.request.merge else Needs(False, False, False),
            only=candidates(self.groups, self.options) if self.needs.sensitivity else None,
            seed=self.request.seed,
            budget=self.request.memory // 2,
            providers=self.providers,
            journal=self.journal,
            progress=lambda stage: part(self.tell, self.shares[stage]),
            clock=self.clock,
        )

    # ---- the removal ----

    def _choose(self, evidence: Evidence) -> list[Choice]:
        scores = score(evidence.context(self.groups, self.request.seed), self.options.criterion)
        if self.request.target:
            choices, reached = choose_to_target(self.groups, self.options, scores, self.request.target)
            self.options = replace(self.options, ratio=reached)
        else:
            choices = choose(self.groups, self.options, scores)
        return [c for c in choices if c.count]

    def _remove(
        self, checker: Checker, traced: Prepared, choices: list[Choice], proven: Lossless | None
    ) -> tuple[onnx.ModelProto, list[Choice], Verification | None]:
        """Slices the weights; groups that fail their check stay."""
        if not self.request.check:
            pruned = apply_alive(traced.model, self.groups, alive_after(self.groups, choices))
            self.clock("surgery")
            return pruned, choices, None
        pruned, choices, verification = checker.prune(choices, part(self.tell, self.shares["surgery"]))
        self.clock("surgery and verification")
        if not choices:
            raise NothingToPruneError(f"no group passed its check: {checker.put_back[0].reason}")
        if proven is not None and verification is not None and verification.passed:
            verification = verify_lossless(self.prepared, self.groups, pruned, seed=self.request.seed)
        return pruned, choices, verification

    # ---- the repair ----

    def _repair(self, pruned: onnx.ModelProto, alive: Mask, evidence: Evidence, *, exact: bool) -> _Repair:
        repair = _Repair(pruned, self.prepared.model, pruned)
        if self.request.merge and evidence.expected is not None:
            expected, evidence.expected = evidence.expected, None
            repair.merging = merge_channels(
                self.prepared, self.groups, alive, pruned, expected.statistics, unknown=expected.unknown
            )
            repair.model = repair.after = repair.merging.model
            self.clock("merging")
        if self.samples is not None and self.request.fits:
            self._fit(repair, alive, self.samples)
        elif self.samples is None and self.request.reconstruct is None and not exact:
            repair.model = self._match_zeros(repair.model, alive)
            self.clock("factors of normalizations")
        if self.request.merge:
            known = {t.name for t in self.prepared.model.graph.initializer}
            fresh = {t.name for t in repair.model.graph.initializer} - known
            repair.model, repair.shared = share_initializers(repair.model, keep=fresh)
        return repair

    def _fit(self, repair: _Repair, alive: Mask, samples: Samples) -> None:
        start = repair.model if self.home is None else apply_alive(self.reference.model, self.groups, alive)
        repair.likeness = Likeness()
        repair.fits = reconstruct(
            self.reference,
            self.groups,
            alive,
            start,
            samples,
            mode=self.request.reconstruct or "lsq",
            budget=self.request.memory // 4,
            providers=self.providers,
            journal=self.journal,
            progress=part(self.tell, self.shares["reconstruction"]),
            watch=repair.likeness.add,
        )
        repair.before, repair.after = self.reference.model, repair.fits.model
        repair.model = repair.after if self.home is None else brought_back(repair.after, repair.model)
        self.clock("reconstruction")

    def _match_zeros(self, pruned: onnx.ModelProto, alive: Mask) -> onnx.ModelProto:
        """Normalizations over a pruned width, without data; as they were where the model can't be run."""
        try:
            drawn = read("synthetic", self.source, _DRAWN, None, self.request.shapes, self.request.seed)
            return match_zeros(self.prepared, self.groups, alive, pruned, drawn)
        except ModelError:
            return pruned

    # ---- the report ----

    def _report(
        self,
        choices: list[Choice],
        alive: Mask,
        checker: Checker,
        verification: Verification | None,
        repair: _Repair,
        proven: Lossless | None,
        evidence: Evidence,
    ) -> Report:
        groups = self.groups
        self.tell("comparing outputs", self.shares["report"][0])
        likeness = []
        if self.samples is not None:
            likeness = (
                fidelity(repair.before, repair.after, self.samples, providers=self.providers)
                if repair.likeness is None
                else repair.likeness.result(self.samples)
            )
        report = Report(
            count_params(groups),
            count_params(groups, alive),
            total_macs(groups, self.prepared.graph),
            total_macs(groups, import_graph(repair.model), alive),
            model_size(self.source),
            model_size(repair.model),
            rows(groups, choices),
            groups.frozen,
            groups.trace.unknown,
            groups.trace.failures,
            checker.put_back,
            verification,
            checker.unverified if self.request.check else "not asked for",
            dict(self.prepared.shapes),
            self.clock.seconds,
            self._calibration(),
            self.options.criterion,
            [] if repair.fits is None else repair.fits.fits,
            likeness,
            None if proven is None else {g: {str(k): n for k, n in kinds.items()} for g, kinds in proven.counts().items()},
            merges=None if repair.merging is None else repair.merging.merges,
            shared=repair.shared,
            gradients="" if evidence.gradients is None else evidence.gradients.backend,
            resumed="" if self.journal is None else str(self.journal),
        )
        if repair.fits is not None:
            members = {c.group.id: c.group.members for c in choices}
            axes = input_axes(self.prepared.model, groups.trace.shape_of)
            report.losses = group_losses(repair.fits.fits, members, axes)
        self.clock("report")
        return report

    def _calibration(self) -> str:
        texts = [] if self.samples is None else [self.samples.origin, "" if self.home is None else self.home.text]
        return "; ".join(t for t in texts if t)


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
