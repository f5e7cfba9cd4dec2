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
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.budget.counted import twin_weights
from onnxprune.budget.kinds import Setting
from onnxprune.budget.pairs import Twin
from onnxprune.budget.targets import Target
from onnxprune.calibrate.batch import Samples, splits
from onnxprune.errors import NothingToPruneError, VerificationError
from onnxprune.io.structure import sha256_model
from onnxprune.latency.cost import Latency
from onnxprune.lowrank.candidates import Left, Wide, find_wide
from onnxprune.lowrank.factor import Pair, directions, factorize
from onnxprune.lowrank.figures import Factored, LowRank
from onnxprune.lowrank.transfer import Side, Transfer
from onnxprune.pipeline.attempt import Attempt, nothing
from onnxprune.pipeline.budget import Budget
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, Progress, part
from onnxprune.plan.plan import Plan
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import SourceError, Verification, compare
from onnxprune.recover.target import follow
from onnxprune.report.layers import Layer, layers
from onnxprune.report.report import Report
from onnxprune.select.allocate import Choice, candidates
from onnxprune.select.context import Scores
from onnxprune.statistics.channels import tensor_moments
from onnxprune.statistics.flow import lift
from onnxprune.statistics.stream import Stream
from onnxprune.trace.tracer import Weight

Bases = Mapping[str, NDArray[np.float64]]


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
    shape_of = whole.groups.trace.shape_of
    wides, left = find_wide(stream.flow, shape_of, ignore=request.options.ignore, only=request.options.only)
    if not wides:
        model, plan, report = whole.run()
        report.low_rank = LowRank(0, left=left)
        return model, plan, report
    bases = _bases(whole, stream, wides)
    clock("principal components")
    first = LowRankPruning(_Origin(whole, left, len(wides)), wides, bases)
    return first.run()


def _samples(pruning: Pruning) -> Samples:
    assert pruning.samples is not None  # the request asks for them
    return pruning.samples


def _bases(whole: Pruning, stream: Stream, wides: Sequence[Wide]) -> Bases:
    """Principal directions of the outputs of some nodes."""
    values, flow = whole.groups.trace.values, stream.flow
    keys = {}
    for wide in wides:
        rank = values[wide.linear.y].rank
        axes = wide.linear.form.made_axes(rank)
        keys[wide.linear.y, axes] = wide, rank
    channels = {key: flow.initializers[wide.linear.weight].dims[wide.outputs] for key, (wide, _) in keys.items()}
    tell = part(whole.tell, (0.0, 0.05))
    found = {}
    apart = splits(stream.samples)  # removals are measured on those that are held out
    for key, m in tensor_moments(stream, channels, whole.groups, "outputs", whole.journal, tell, apart=apart):
        wide, rank = keys[key]
        moments = m.covariance
        if follow(flow, wide.linear, key[1], rank, channels[key]).slot is None:  # the mean has no other place
            moments = moments + np.outer(m.mean, m.mean)
        stored = flow.constant(wide.linear.weight)
        assert stored is not None
        found[key[0]] = directions(wide.linear.matrix(stored)[0], moments)
    return found


@dataclass(frozen=True)
class _Origin:
    """Where it began: the pruning of the source, wide nodes that can't be two, and how many can."""

    whole: Pruning
    left: list[Left]
    tried: int

    def dense(self, quantity: str) -> float:
        """What the source costs."""
        return self.latency.dense if quantity == "latency" else self.setting.cost(quantity).total({})

    @cached_property
    def setting(self) -> Setting:
        """Costs of the source, none of whose groups change."""
        whole = self.whole
        asked = whole.request
        return Setting(whole.source, whole.prepared, whole.groups, [], asked.providers, asked.timing, asked.shapes)

    @property
    def latency(self) -> Latency:
        """Of the source, measured."""
        return self.setting.latency


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
        super().__init__(model, replace(whole.request, data=whole.samples, resume=None), whole.tell, whole.clock)
        self.journal = whole.journal
        self.groups.trace.clones = self.prepared.clones = whole.prepared.clones
        self.side = Side(self.groups, self.pairs)
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
        self._owners: list[tuple[Attempt, LowRankPruning]] = []

    def _read(self) -> Samples:
        return _samples(self.origin.whole)

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

    def budget(self, scores: Scores, targets: Sequence[Target]) -> Budget:
        """Limits of costs, as shares of what the source costs."""
        found = super().budget(scores, targets)
        found.dense = {t.quantity: self.origin.dense(t.quantity) for t in targets}
        return found

    def counted(self, budget: Budget) -> Budget:
        """The budget with multiply-accumulates in place of latency, at the same share.

        Two nodes are timed as two, so a table of latencies says nothing about the one that they could be: which pairs there
        are is settled by what can be counted, and their widths by time.
        """
        timed = next((t for t in budget.targets if t.quantity == "latency"), None)
        if timed is None:
            return budget
        share = timed.value if timed.share else timed.value / self.origin.dense("latency")
        limits = [t for t in budget.targets if t.quantity not in ("latency", "macs")]
        limits += [t for t in budget.targets if t.quantity == "macs"] or [Target("macs", min(share, 0.999), share=True)]
        return self.carried(replace(budget, targets=limits), self)

    def within(self, budget: Budget) -> Attempt:
        """A repaired model within a budget, each pair of which pays.

        Raises:
            BudgetError: there is none, and the closest was not asked for.
        """
        counted = self.counted(budget)
        current = self if counted is budget else self.settled(counted)
        while True:
            try:
                found = Pruning.within(current, budget if current is self else self.carried(budget, current))
                break
            except _UnpaidError as error:
                current = current.without(error.weights)
        self._owners.append((found, current))
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
        if any(t.quantity == "latency" for t in budget.targets):
            own.setting.latency.against(self.origin.latency)
        return own

    # ---- the end ----

    def finished(self, found: Attempt) -> tuple[onnx.ModelProto, Plan, Report]:
        """The model, what went, and figures."""
        owner = next((own for attempt, own in self._owners if attempt is found), self)
        model, plan, report = Pruning.finished(owner, found)
        whole = self.origin.whole
        report = whole.beside(report)
        report.layers = _layers(report.layers, whole)
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


def _layers(rows: Sequence[Layer], whole: Pruning) -> list[Layer]:
    """Rows of the result beside what the source had: the first node of a pair was not there."""
    every = np.ones(whole.groups.classes.of_label.size, np.bool_)
    before = {row.name: row for row in layers(whole.groups, whole.prepared.graph, every)}
    found = []
    for row in rows:
        own = before.get(row.name)
        macs, params = (0, 0) if own is None else (own.macs_before, own.params_before)
        found.append(replace(row, macs_before=macs, params_before=params))
    return found


def _most(pair: Pair, weights: Mapping[str, Weight]) -> int:
    """The largest rank at which two whole weights are smaller than their product."""
    inner = pair.axes[0][1]
    first, second = (weights[name].shape for name in (pair.first, pair.second))
    rank = first[inner]
    rows, columns = math.prod(first) // rank, math.prod(second) // rank
    return -(-rows * columns // (rows + columns)) - 1
