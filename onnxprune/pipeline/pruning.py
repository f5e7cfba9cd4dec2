"""The stages of `onnxprune.prune`, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnxprune.budget.curves import SHARES
from onnxprune.budget.kinds import Setting
from onnxprune.budget.pairs import Twin
from onnxprune.budget.reached import Trial
from onnxprune.budget.targets import Target
from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.rebatch import rebatch
from onnxprune.errors import NothingToPruneError, UsageError
from onnxprune.io.journal import Journal
from onnxprune.io.structure import model_size, sha256_model
from onnxprune.lossless.find import edited, find_lossless, verify_lossless
from onnxprune.pipeline.attempt import Attempt, Repair, nothing
from onnxprune.pipeline.budget import Budget
from onnxprune.pipeline.drop import Drop
from onnxprune.pipeline.evidence import Evidence, Needs, gather, measured_curves
from onnxprune.pipeline.figures import report_of
from onnxprune.pipeline.repair import compensate
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, Progress, analysed, part, rising
from onnxprune.plan.plan import Plan, make_plan
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.check import Checker, alive_after, default_tolerance
from onnxprune.proof.oracle import Verification
from onnxprune.recover.normalization import Home, at_home
from onnxprune.report.effort import effort
from onnxprune.report.report import Report, count_params, total_macs
from onnxprune.select.allocate import Choice, candidates, choose, ranked
from onnxprune.select.context import Scores
from onnxprune.select.criteria import score
from onnxprune.statistics.channels import why_unread
from onnxprune.statistics.providers import parse_providers
from onnxprune.statistics.removal import SAMPLES as REMOVED
from onnxprune.statistics.sensitivity import SAMPLES
from onnxprune.statistics.shelf import at_hand
from onnxprune.surgery.apply import apply_alive

_SHARES = {"select": (0.3, 0.4), "table": (0.4, 0.4), "surgery": (0.4, 0.9), "report": (0.9, 1.0)}  # of a run without data
_TIMED_SHARES = {"select": (0.05, 0.1), "table": (0.1, 0.8), "surgery": (0.8, 0.95), "report": (0.95, 1.0)}
_CHOOSING = 0.4  # share of a run that chooses blocks until they are chosen


class Pruning:
    """One call of `onnxprune.prune`.

    Args:
        source: the model; not changed.
        request: what was asked for.
        tell: called with the stage and the share that is done.
        clock: of the stages so far.
        teacher: the model whose outputs are to be kept, where `source` is a part of it already.

    Attributes:
        twins: nodes that may be one or two.
        costs: of the model that `source` was made from; None where nothing was done to it yet.

    Raises:
        ModelError: the model is not valid, or ONNX Runtime can't run it on the samples.
        UsageError: a provider is absent, or the folder to resume from can't be written to.
    """

    twins: Sequence[Twin] = ()
    costs: Setting | None = None

    def __init__(
        self, source: onnx.ModelProto, request: Request, tell: Progress, clock: Clock, teacher: Prepared | None = None
    ) -> None:
        self.source, self.request, self.clock = source, request, clock
        self.whole = rising(tell)
        self.tell = part(self.whole, (0.0, _CHOOSING)) if request.depth else self.whole
        self.options = request.options
        self.providers = parse_providers(request.providers)
        self.journal = None if request.resume is None else Journal(request.resume)
        self.tell("trace", 0.0)
        self.prepared, self.groups = analysed(source, width=request.width, shapes=request.shapes)
        clock("trace")
        self.samples = self._read()
        self.home = self._home()
        self.reference = self.prepared if self.home is None else replace(self.prepared, model=self.home.model)
        self.part_of = teacher is not None
        self.teacher = teacher or self.reference
        self.needs = Needs.of(self.options.criterion, merge=request.merge, ranking=self.options.ranking)
        self.shares = self._bounds()
        self.proven = find_lossless(self.prepared, self.groups) if request.lossless else None
        self.traced = self.prepared
        if self.proven is not None:
            self.traced = replace(self.prepared, model=edited(self.prepared.model, self.proven))
        self.checker = Checker(self.traced, self.groups, request.seed, default_tolerance(self.groups), request.shapes)
        self.evidence = Evidence()

    def run(self) -> tuple[onnx.ModelProto, Plan, Report]:
        """The pruned model, what went, and figures.

        Raises:
            BudgetError: the target can't be reached.
            NothingToPruneError: no unit can go.
        """
        trials: list[Trial] = []
        if self.proven is not None:
            found = self.attempt([c for c in self.proven.choices if c.count])
        else:
            scores = self.scores()
            if self.request.target:
                found, trials = self._to_target(scores)
            else:
                found = self.attempt([c for c in choose(self.groups, self.options, scores) if c.count])
        result = self.finished(found)
        result[2].trials = trials
        return result

    def scores(self) -> Scores:
        """Importances of all units, and loss curves where the criterion knows them; they serve any number of attempts.

        Raises:
            UsageError: the ranking needs curves, and no weight can be read.
        """
        self.evidence = self._gather()
        if not self.needs.removals:
            self.tell("select", self.shares["select"][0])
        scores = score(self.evidence.context(self.groups, self.request.seed), self.options.criterion)
        if self.needs.removals and not scores.curves and (why := why_unread(self.reference.model, self.groups)):
            raise UsageError(
                f"what each width loses can't be told: {why}. Store such weights as initializers, "
                "or prune by a criterion that looks at weights alone (l2)"
            )
        if self.needs.removals and self.samples is not None:
            scores.curves |= measured_curves(
                self.reference,
                self.groups,
                self.samples,
                self.evidence,
                ranked(self.groups, self.options, scores),
                scores.curves,
                providers=self.providers,
                journal=self.journal,
                progress=part(self.tell, self.shares["sensitivity"]),
            )
            self.clock("sensitivity")
        if not (self.request.merge or self.request.depth):
            self.evidence.expected = None  # covariances are large
        return scores

    def budget(self, scores: Scores, targets: Sequence[Target]) -> Budget:
        """Limits of costs, for groups that lose units in the order of these scores."""
        competing = ranked(self.groups, self.options, scores)
        setting = Setting(
            self.source,
            self.prepared,
            self.groups,
            competing,
            self.request.providers,
            self.request.timing,
            self.request.shapes,
            self.samples,
            part(self.tell, self.shares["table"]),
            self.twins,
            self.costs,
        )
        return Budget(setting, self.options, scores, targets, self.request.closest)

    def within(self, budget: Budget) -> Attempt:
        """A repaired model within a budget; widths are chosen again where it is off, at most three times.

        Raises:
            BudgetError: there is none, and the closest was not asked for.
        """
        while True:
            found = self._removed(self.chosen(budget))
            found.budget = budget
            again = budget.off(found.repair.model, found.alive, [p.group for p in self.checker.put_back])
            found = budget.best(found)
            if again:
                continue
            self._repaired(found)
            if not budget.off(found.repair.model, found.alive, counted=True):
                budget.judge()
                return found
            budget.forget(found)

    def counted(self, budget: Budget) -> Budget:
        """The budget by which it is settled which nodes there are."""
        return budget

    @property
    def plain(self) -> Pruning:
        """The pruning of the source as it was given."""
        return self

    def alike(self, whole: Pruning) -> Pruning:
        """The pruning of another model as this one is that of its source."""
        return whole

    def chosen(self, budget: Budget) -> list[Choice]:
        """What goes.

        Raises:
            BudgetError: no choice is within the targets, and the closest was not asked for.
        """
        return budget.choose(doubted=True)

    def attempt(self, choices: list[Choice]) -> Attempt:
        """A repaired model without these units, proven.

        Raises:
            NothingToPruneError: there are none, or none can go.
        """
        found = self._removed(choices)
        self._repaired(found)
        return found

    def finished(self, found: Attempt) -> tuple[onnx.ModelProto, Plan, Report]:
        """The model, what went, and figures."""
        if found.shorter is not None:
            shorter, found.shorter = found.shorter, None
            return shorter.finished(found)
        plan = make_plan(sha256_model(self.source), self.groups, found.choices, found.alive)
        report = report_of(self, found)
        self.tell("done", 1.0)
        return found.repair.model, plan, report

    def beside(self, report: Report) -> Report:
        """The figures of another model's pruning, beside those of this source."""
        return replace(
            report,
            params_before=count_params(self.groups),
            macs_before=total_macs(self.groups, self.prepared.graph),
            bytes_before=model_size(self.source),
        )

    def _to_target(self, scores: Scores) -> tuple[Attempt, list[Trial]]:
        drops = [t for t in self.request.target if t.quantity == "drop"]
        budget = self.budget(scores, [t for t in self.request.target if t.quantity != "drop"])
        within = self.within
        if self.request.depth:
            from onnxprune.pipeline.depth import Depth

            within = Depth(self, scores, part(self.whole, (_CHOOSING, 1.0))).within
        if not drops:
            return within(budget), []
        scorer = self.request.scorer
        assert scorer is not None
        self.tell("evaluating the model", self.shares["select"][0])
        search = Drop(drops[0], budget, within, scorer, scorer(self.source))
        return search.run(), search.trials

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
        timed = any(t.quantity == "latency" for t in self.request.target)
        if self.samples is None:
            return _TIMED_SHARES if timed else _SHARES
        work = effort(
            self.prepared,
            self.groups,
            self.samples,
            statistics=self.needs.statistics,
            gradients=self.needs.gradients,
            passes=SAMPLES * self.needs.sensitivity + REMOVED * len(SHARES) * self.needs.removals,
            reconstruction=self.request.fits,
            table=timed,
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

    # ---- one attempt ----

    def _removed(self, choices: list[Choice]) -> Attempt:
        """Slices the weights; groups that fail their check stay."""
        if not choices and not self.part_of:
            raise NothingToPruneError(self._why_nothing())
        self.clock("select")
        self.tell("surgery", self.shares["surgery"][0])
        pruned, choices, verification = self._cut(choices)
        return Attempt(choices, alive_after(self.groups, choices), verification, Repair(pruned, self.teacher.model, pruned))

    def _why_nothing(self) -> str:
        if self.proven is not None:
            return "every channel does something"
        if self.request.target and self.groups.groups:
            return "the targets are met without removing a unit"
        return nothing(self.groups, self.options)

    def _cut(self, choices: list[Choice]) -> tuple[onnx.ModelProto, list[Choice], Verification | None]:
        if not self.request.check:
            pruned = apply_alive(self.traced.model, self.groups, alive_after(self.groups, choices))
            self.clock("surgery")
            return pruned, choices, None
        pruned, choices, verification = self.checker.prune(choices, part(self.tell, self.shares["surgery"]))
        self.clock("surgery and verification")
        if not choices and not self.part_of:
            raise NothingToPruneError(f"no group passed its check: {self.checker.put_back[0].reason}")
        if self.proven is not None and verification is not None and verification.passed:
            verification = verify_lossless(self.prepared, self.groups, pruned, seed=self.request.seed)
        return pruned, choices, verification

    def _repaired(self, found: Attempt) -> None:
        """Makes up for what went, and proves the result."""
        exact = all(c.group.exact for c in found.choices)
        compensate(self, found.repair, found.alive, exact=exact)
        if found.repair.changed and exact and found.verification is not None:
            found.verification = self.checker.verify(found.repair.model, found.alive) or found.verification
            self.clock("verification of the result")
