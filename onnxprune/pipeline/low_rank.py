"""Pruning with ranks as widths: wide nodes are two, and how many channels lie between them is chosen in the same knapsack.

All nodes that can be two are at first. A whole rank has the cost of the one node (`onnxprune.budget.pairs`), so where the
knapsack leaves it whole, two nodes do not pay. Then the model is made anew without those, scores and curves are
carried over (`onnxprune.lowrank.transfer`), and widths are chosen again, until every pair pays. What
follows knows nothing of pairs: the last model is pruned, proven and fitted like any other.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import onnx

from onnxprune.budget.counted import twin_weights
from onnxprune.budget.kinds import Setting
from onnxprune.budget.pairs import Twin
from onnxprune.budget.targets import Target
from onnxprune.calibrate.batch import Samples
from onnxprune.depth.named import rename
from onnxprune.errors import NothingToPruneError, VerificationError
from onnxprune.io.structure import sha256_model
from onnxprune.lowrank.bases import Bases, bases_of
from onnxprune.lowrank.candidates import Left, Wide, find_wide
from onnxprune.lowrank.factor import Pair, factorize
from onnxprune.lowrank.figures import Factored, LowRank
from onnxprune.lowrank.transfer import Side, Transfer
from onnxprune.pipeline.attempt import Attempt, nothing
from onnxprune.pipeline.budget import Budget
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, Progress, part
from onnxprune.pipeline.ways import best_first
from onnxprune.plan.plan import Plan
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import SourceError, Verification, compare
from onnxprune.report.layers import beside
from onnxprune.report.report import Report
from onnxprune.select.allocate import Choice, candidates
from onnxprune.select.context import Scores
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.stream import Stream
from onnxprune.trace.tracer import Weight


def prune_low_rank(
    source: onnx.ModelProto, request: Request, tell: Progress, clock: Clock
) -> tuple[onnx.ModelProto, Plan, Report]:
    """The pruned model, what went, and figures.

    Raises:
        OnnxPruneError: as `Pruning` does.
        VerificationError: a model with nodes written as two does not compute the same.
    """
    whole = Pruning(source, request, tell, clock)
    candidates(whole.groups, whole.options)  # globs that match nothing are told before any work
    stream = Stream(lift(whole.reference.model), _samples(whole), request.memory // 2, whole.providers)
    wides, left = _wides(whole, stream.flow)
    pruning = whole
    if wides:
        bases = bases_of(stream, wides, whole.groups, whole.journal, part(whole.tell, (0.0, 0.05)))
        clock("principal components")
        pruning = LowRankPruning(_Origin(whole, left, len(wides)), wides, bases)
    model, plan, report = pruning.run()
    report.low_rank = report.low_rank or LowRank(len(wides), left=left)
    return model, plan, report


def _wides(whole: Pruning, flow: Flow) -> tuple[list[Wide], list[Left]]:
    asked = whole.request.options
    return find_wide(flow, whole.groups.trace.shape_of, ignore=asked.ignore, only=asked.only)


def _samples(pruning: Pruning) -> Samples:
    assert pruning.samples is not None  # the request asks for them
    return pruning.samples


@dataclass(frozen=True)
class _Origin:
    """Where it began.

    Attributes:
        whole: the pruning of the source.
        left: wide nodes that can't be two.
        tried: how many can.
        teacher: whose outputs are to be kept, with the same nodes as two, where the source is a part of it already.
    """

    whole: Pruning
    left: list[Left]
    tried: int
    teacher: Prepared | None = None

    @cached_property
    def setting(self) -> Setting:
        """Costs of the source, none of whose groups change."""
        whole = self.whole
        if whole.costs is not None:
            return whole.costs
        asked, samples = whole.request, whole.samples
        return Setting(whole.source, whole.prepared, whole.groups, [], asked.providers, asked.timing, asked.shapes, samples)


class _UnpaidError(Exception):
    """Some pairs cost no less than the node that they were."""

    def __init__(self, weights: Sequence[str]) -> None:
        super().__init__(weights)
        self.weights = set(weights)


class LowRankPruning(Pruning):
    """A pruning with some nodes written as two.

    Args:
        origin: of the source.
        wides: nodes that are two here.
        bases: by their outputs, see `onnxprune.lowrank.factor.directions`.
    """

    def __init__(self, origin: _Origin, wides: Sequence[Wide], bases: Bases) -> None:
        self.origin, self.wides, self.bases = origin, wides, bases
        whole = origin.whole
        model, self.pairs = factorize(whole.prepared.model, wides, bases)
        request = replace(whole.request, data=whole.samples, resume=None)
        super().__init__(model, request, whole.whole, whole.clock, origin.teacher)
        self.costs = origin.setting
        self.journal = whole.journal
        self.groups.trace.clones = self.prepared.clones = whole.prepared.clones
        self.side = Side(self.groups, self.pairs)
        rename(self.groups, self._ids())
        self.twins = self._twins()
        by_id = {g.id: g for g in self.groups.groups}
        for twin in self.twins:
            by_id[twin.group].kind = "rank"
        most = {t.group: _most(p, self.groups.trace.weights) for p, t in zip(self._moving, self.twins, strict=True)}
        own = Transfer(Side(whole.groups), self.side).options(whole.options)
        if not own.only:
            raise NothingToPruneError(nothing(whole.groups, whole.options))
        self.options = replace(own, unless_whole=most)
        self.known = Scores()

    def _read(self) -> Samples:
        return _samples(self.origin.whole)

    def _ids(self) -> dict[str, str]:
        """Groups have the names of those of the source; inner channels are `r0`, `r1`, ..."""
        inner = [g for p in self.pairs if (g := self.side.inner_group(p)) is not None]
        same = Transfer(Side(self.origin.whole.groups), self.side).partners()
        return {g.id: f"r{k}" for k, g in enumerate(inner)} | {i: g.id for i, g in same.items()}

    def _twins(self) -> list[Twin]:
        self._moving = [p for p in self.pairs if self.side.inner_group(p) is not None]
        found = []
        for p in self._moving:
            group = self.side.inner_group(p)
            assert group is not None
            linear = p.wide.linear
            rank = self.groups.trace.values[p.inner].rank
            axis = linear.form.channel_axis(rank)
            found.append(Twin(group.id, p.inner, axis, linear.y, p.first, p.second, p.axes[0][1]))
        return found

    # ---- which pairs pay ----

    def scores(self) -> Scores:
        """Those of the first model; later ones take them over."""
        if not self.known:
            self.known = super().scores()
        return self.known

    def chosen(self, budget: Budget) -> list[Choice]:
        """What goes.

        Raises:
            BudgetError: no choice is within the targets.
            _UnpaidError: some pairs cost no less than one node.
        """
        choices = budget.choose()
        unpaid = self.unpaid(budget, choices)
        if unpaid:
            raise _UnpaidError(unpaid)
        return choices

    def unpaid(self, budget: Budget, choices: Sequence[Choice]) -> list[str]:
        """Weights of pairs that cost no less than their product, at what these choices leave."""
        gone = {c.group.id: c.count for c in choices}
        axes = budget.setting.axes
        paid = {t.first for t in self.twins if twin_weights(self.groups, axes, t).pays(gone)}
        return [p.weight for p in self.pairs if p.first not in paid]

    def without(self, weights: Container[str]) -> LowRankPruning:
        """The same with fewer pairs."""
        wides = [w for w in self.wides if w.linear.weight not in weights]
        smaller = LowRankPruning(self.origin, wides, self.bases)
        smaller.known = Transfer(self.side, smaller.side).scores(self.known)
        return smaller

    # ---- within targets ----

    @property
    def plain(self) -> Pruning:
        """The pruning of the model whose nodes are one."""
        return self.origin.whole

    def alike(self, whole: Pruning) -> Pruning:
        """The pruning of a shorter model with the same nodes as two, in the bases of what the source computes."""
        wides, left = _wides(whole, Flow(lift(whole.prepared.model)))
        wides = [w for w in wides if w.linear.y in self.bases]
        return LowRankPruning(_Origin(whole, left, len(wides), self.reference), wides, self.bases) if wides else whole

    def counted(self, budget: Budget) -> Budget:
        """The budget with multiply-accumulates in place of latency, at the same share.

        Two nodes are timed as two, so a table of latencies says nothing about the one that they could be: which pairs there
        are is settled by what can be counted, and their widths by time. Nothing is refused before it was timed.
        """
        timed = next((t for t in budget.targets if t.quantity == "latency"), None)
        if timed is None:
            return budget
        share = timed.value if timed.share else timed.value / budget.of_source("latency")
        limits = [t for t in budget.targets if t.quantity not in ("latency", "macs")]
        limits += [t for t in budget.targets if t.quantity == "macs"] or [Target("macs", min(share, 0.999), share=True)]
        return self.carried(replace(budget, targets=limits, closest=True), self)

    def within(self, budget: Budget) -> Attempt:
        """A repaired model within a budget, each pair of which pays; where time counts, perhaps one without any.

        Raises:
            BudgetError: there is none, and the closest was not asked for.
        """
        counted = self.counted(budget)
        if counted is budget:
            return self._paid(budget, self)
        settled, plain = self.settled(counted), self.without({p.weight for p in self.pairs})
        starts = [settled, plain] if settled.pairs else [plain]
        return best_first(self, [partial(self._paid, budget, start) for start in starts])[0].attempt

    def _paid(self, budget: Budget, current: LowRankPruning) -> Attempt:
        while True:
            try:
                found = Pruning.within(current, budget if current is self else self.carried(budget, current))
                break
            except _UnpaidError as error:
                current = current.without(error.weights)
        found.pairs = current
        return found

    def settled(self, budget: Budget) -> LowRankPruning:
        """The model of which each pair pays, by costs that are counted."""
        own = self.carried(budget, self)
        unpaid = self.unpaid(own, own.choose())
        return self.without(unpaid).settled(budget) if unpaid else self

    def carried(self, budget: Budget, other: LowRankPruning) -> Budget:
        """The budget of another model with the same targets."""
        own = other.budget(other.known, budget.targets)
        own.closest = budget.closest
        return own

    # ---- the end ----

    def finished(self, found: Attempt) -> tuple[onnx.ModelProto, Plan, Report]:
        """The model, what went, and figures."""
        if found.shorter is not None:
            return super().finished(found)
        owner = found.pairs or self
        model, plan, report = Pruning.finished(owner, found)
        whole = self.origin.whole
        report = whole.beside(report)
        report.layers = beside(report.layers, whole.groups, whole.prepared.graph)
        report.low_rank = owner.figures(model)
        rows = [{"node": f.node, "weight": f.weight, "rank": f.rank} for f in report.low_rank.factored]
        return model, replace(plan, sha256=sha256_model(whole.source), low_rank=rows), report

    def figures(self, model: onnx.ModelProto) -> LowRank:
        """What was written as two.

        Raises:
            VerificationError: the model does not compute the same with pairs of whole rank.
        """
        sizes = {t.name: tuple(t.dims) for t in model.graph.initializer}
        rows = []
        for p in self.pairs:
            first, second = sizes[p.first], sizes[p.second]
            basis = self.bases[p.wide.linear.y]
            reading = p.wide.linear.reading
            before = math.prod(reading.shape)
            op = next(n.op_type for n in model.graph.node if p.wide.linear.y in n.output)
            outputs = len(basis)
            after = math.prod(first) + math.prod(second)
            rows.append(Factored(p.node, p.weight, op, before // outputs, outputs, first[p.axes[0][1]], before, after))
        proof = self.proof() if rows and self.request.check else None
        return LowRank(self.origin.tried, rows, self.origin.left, proof)

    def proof(self) -> Verification | None:
        """Source and model with pairs of whole rank on random inputs; None where the source can't be run.

        Raises:
            VerificationError: they differ.
        """
        whole = self.origin.whole
        prepared, values = whole.prepared, whole.groups.trace.values
        feeds = random_inputs(prepared.graph, prepared.shapes, values, self.request.seed)
        try:
            found = compare(prepared.model, self.source, prepared.graph, feeds, whole.checker.tolerance)
        except SourceError:
            return None
        if not found.passed:
            raise VerificationError(f"with nodes written as two the model computes something else: {found.message}")
        return found


def _most(pair: Pair, weights: Mapping[str, Weight]) -> int:
    """The largest rank at which two whole weights are smaller than their product."""
    inner = pair.axes[0][1]
    first, second = (weights[name].shape for name in (pair.first, pair.second))
    rank = first[inner]
    rows, columns = math.prod(first) // rank, math.prod(second) // rank
    return -(-rows * columns // (rows + columns)) - 1
