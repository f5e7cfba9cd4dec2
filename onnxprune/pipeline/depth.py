"""Blocks as a choice of the knapsack: which go, and the pruning of the model that is left.

The shorter model goes through the ordinary stages, with the targets as numbers. The source stays the teacher: fits and
likeness are to what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.budget.allocation import Limit
from onnxprune.budget.curves import loss_curves
from onnxprune.budget.kinds import Setting
from onnxprune.budget.levels import levels_of
from onnxprune.depth.branches import Branch, find_branches, gone_tensors
from onnxprune.depth.choose import Option, options_of
from onnxprune.depth.losses import BranchLosses
from onnxprune.depth.means import branch_means
from onnxprune.depth.named import left_alone, named_like, still_there
from onnxprune.depth.order import removal_order
from onnxprune.depth.proof import prove_removal, worse
from onnxprune.depth.surgery import without
from onnxprune.errors import BudgetError, UsageError
from onnxprune.io.structure import sha256_model
from onnxprune.pipeline.budget import Budget
from onnxprune.pipeline.stages import Progress, part
from onnxprune.pipeline.ways import best_first
from onnxprune.plan.plan import Plan
from onnxprune.proof.oracle import Verification
from onnxprune.report.blocks import Block, Blocks, Foretold
from onnxprune.report.layers import beside
from onnxprune.report.report import Report
from onnxprune.report.tables import plural
from onnxprune.select.allocate import Choice, candidates, ranked, take
from onnxprune.select.context import Scores
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.removal import removal_effects

if TYPE_CHECKING:
    from onnxprune.pipeline.attempt import Attempt
    from onnxprune.pipeline.pruning import Pruning

Array = NDArray[Any]


@dataclass
class Shorter:
    """A model without some branches, in the middle of its pruning.

    Attributes:
        source: the pruning of the source.
        inner: that of the shorter model.
        constants: by summand what stands for it.
        blocks: for the report.
    """

    source: Pruning
    inner: Pruning
    constants: dict[str, Array]
    blocks: Blocks

    def finished(self, found: Attempt) -> tuple[onnx.ModelProto, Plan, Report]:
        """The model, what went of the source, and figures that compare it with the source."""
        model, plan, report = self.inner.finished(found)
        source = self.source
        report = replace(
            source.beside(report),
            frozen=source.groups.frozen,
            layers=beside(report.layers, source.groups, source.prepared.graph),
            blocks=self.blocks,
            verification=worse(self.blocks.verification, report.verification),
        )
        return model, replace(plan, sha256=sha256_model(source.source), constants=dict(self.constants)), report


class Depth:
    """Chooses branches for budgets of one model.

    Branches are those of the model as it was given. What they compete with are the groups of `pruning`, in which wide nodes
    may be two.

    Args:
        pruning: of the model.
        scores: of its units.
        tell: progress of the shorter model's pruning.

    Raises:
        UsageError: no branch can go, or there are no samples to judge by.
        ModelError: ONNX Runtime can't run the model on the samples.
    """

    def __init__(self, pruning: Pruning, scores: Scores, tell: Progress) -> None:
        self.pruning, self.scores, self.tell = pruning, scores, tell
        self.plain = plain = pruning.plain
        self.branches, self.refused = self._candidates()
        samples = plain.samples
        if samples is None or samples.synthetic:
            raise UsageError("depth judges blocks by what they do to real samples: give some as data")
        self.means = branch_means(
            plain.prepared.model,
            self.branches,
            samples,
            budget=pruning.request.memory // 2,
            providers=pruning.providers,
            progress=part(pruning.tell, pruning.shares["sensitivity"]),
        )
        self.losses = BranchLosses(plain.prepared.model, self.means, samples, pruning.providers)
        self.flow = Flow(lift(pruning.prepared.model))
        self.put_back: dict[str, str] = {}
        self._shorter: dict[tuple[str, ...], tuple[Pruning, Scores]] = {}
        self._gone: dict[frozenset[str], frozenset[str]] = {}
        pruning.clock("blocks")

    def within(self, budget: Budget) -> Attempt:
        """A repaired model within a budget, without the branches that the knapsack takes.

        Raises:
            BudgetError: there is none, and the closest was not asked for.
        """
        counted = self.pruning.counted(budget)
        while True:
            options = self._options(counted)
            within = [o for o in options if o.widths is not None]
            if not within and not counted.closest:
                raise BudgetError(self._why_not(counted, options[-1]))
            best = min(within, key=lambda o: o.loss) if within else options[-1]
            blocks = self._blocks(best, options, counted)
            constants = {t: self.means[t] for t in best.tensors}
            if not constants:
                found = self.pruning.within(budget)
                found.blocks = blocks
                return found
            model = without(self._base(), constants)
            bad = self._proven(best.tensors, model, blocks)
            if not bad:
                break
            self.put_back |= bad
        left = {t.name for t in model.graph.initializer}
        kept = {t: c for t, c in constants.items() if t in left}

        def shorter() -> Attempt:
            inner, scores = self._pruning_of(best.tensors, model, budget.setting.beside or budget.setting)
            own = inner.budget(scores, budget.targets)
            own.closest = budget.closest
            found = inner.within(own)
            found.shorter = Shorter(self.plain, inner, kept, blocks)
            return found

        return shorter() if options[0].widths is None else self._better(shorter, budget, blocks)

    def _better(self, shorter: Callable[[], Attempt], budget: Budget, blocks: Blocks) -> Attempt:
        """An attempt without blocks or one that keeps all of them: what loses less after its repair.

        One that misses a target is the worse one, whatever it loses.
        """
        ways = best_first(self.pruning, [shorter, lambda: self.pruning.within(budget)])
        if len({w.missed for w in ways}) < len(ways) and all(np.isfinite(w.error) for w in ways):
            blocks.repaired = {len(blocks.gone) if w.attempt.shorter else 0: w.error for w in ways}
        best = ways[0].attempt
        if best.shorter is None:
            best.blocks = replace(blocks, gone=[], verification=None)
        return best

    # ---- the choice ----

    def _candidates(self) -> tuple[list[Branch], dict[str, str]]:
        pruning = self.plain
        self.all = find_branches(pruning.prepared.model, pruning.groups)
        stay = {b.tensor: why for b in self.all.found if (why := left_alone(b, pruning.options, pruning.groups))}
        found = [b for b in self.all.found if b.tensor not in stay]
        if not found:
            first = next(iter({**stay, **self.all.refused}.items()), None)
            example = f"; for example {first[0]!r}: {first[1]}" if first else ": it adds no two activations of one shape"
            raise UsageError(f"depth: no block of this model can go{example}")
        return found, self.all.refused | stay

    def _options(self, budget: Budget) -> list[Option]:
        tensors = [b.tensor for b in self.branches if b.tensor not in self.put_back]
        self.pruning.clock("select")
        choices = ranked(self.pruning.groups, self.pruning.options, self.scores)
        options = replace(budget.options, steps=budget.setting.steps([t.quantity for t in budget.targets]))
        dense = budget.limits()

        def limits(gone: Collection[str]) -> list[Limit]:
            return budget.limits(gone)

        def saved(some: Collection[str]) -> float:
            if not some:
                return 0.0
            gone = self._gone_with(some)
            whole = [limit.share({}) - limit.cost.without(gone).total({}) / limit.most for limit in dense]
            return max(whole, default=0.0)

        def together(some: Collection[str], widths: Mapping[str, int]) -> float:
            left = [c for c in choices if c.group.id in widths]
            taken = take(self.pruning.groups, left, [c.group.units - widths[c.group.id] for c in left])
            return self._loss(some, [c for c in taken if c.count])

        found = options_of(
            removal_order(tensors, self.losses, saved, self.all.together),
            self.losses,
            self._gone_with,
            {c.group.id: c.group for c in choices},
            loss_curves(choices, self.scores.curves),
            levels_of(choices, options),
            limits,
            together,
        )
        self.pruning.clock("blocks")
        return found

    def _why_not(self, budget: Budget, last: Option) -> str:
        """Which target is missed most with all blocks gone that can go, and all units."""
        choices = ranked(self.pruning.groups, self.pruning.options, self.scores)
        least = {g: int(own[0]) for g, own in levels_of(choices, budget.options).items()}
        worst = max(budget.limits(self._gone_with(last.tensors)), key=lambda limit: limit.share(least))
        whole = budget.setting.cost(worst.cost.name).total({})
        return (
            f"target {worst.target} can't be met: without {plural(len(last.tensors), 'block')}, and with all units gone "
            f"that these options let go, {worst.cost.total(least) / whole:.1%} of {worst.cost.name} stay"
        )

    def _loss(self, tensors: Collection[str], choices: Sequence[Choice]) -> float:
        """Of branches and units that go at once; infinite where outputs are not finite then."""
        pruning = self.pruning
        assert pruning.samples is not None and pruning.evidence.expected is not None
        if not choices:
            return self.losses(tensors)
        found = removal_effects(
            without(pruning.prepared.model, {t: self.means[t] for t in tensors}),
            pruning.groups,
            pruning.samples,
            pruning.evidence.expected.statistics,
            {"": [np.concatenate([c.classes for c in choices])]},
            against=pruning.prepared.model,
            providers=pruning.providers,
        )
        return found[""][0] if found else np.inf

    def _gone_with(self, tensors: Collection[str]) -> frozenset[str]:
        key = frozenset(tensors)
        if key not in self._gone:
            self._gone[key] = gone_tensors(self.flow, sorted(key))
        return self._gone[key]

    def _proven(self, tensors: tuple[str, ...], model: onnx.ModelProto, blocks: Blocks) -> dict[str, str]:
        """Which branches have to stay as the oracle does not agree, with its reasons."""
        if not self.pruning.request.check:
            return {}
        found = self._proof(tensors, model)
        self.pruning.clock("verification of blocks")
        if isinstance(found, str) or found.passed:
            blocks.verification = None if isinstance(found, str) else found
            return {}
        alone = {t: self._proof((t,), without(self._base(), {t: self.means[t]})) for t in tensors}
        bad = {t: v.message for t, v in alone.items() if isinstance(v, Verification) and not v.passed}
        return bad or {tensors[-1]: found.message}

    def _proof(self, tensors: tuple[str, ...], model: onnx.ModelProto) -> Verification | str:
        pruning = self.plain
        return prove_removal(
            pruning.prepared,
            pruning.groups,
            [b for b in self.branches if b.tensor in tensors],
            self.means,
            model,
            seed=pruning.request.seed,
            tolerance=pruning.checker.tolerance,
            shapes=pruning.request.shapes,
        )

    # ---- the shorter model ----

    def _base(self) -> onnx.ModelProto:
        """What branches are taken from: the source, but for functions of its own, which have to be inlined."""
        return self.plain.prepared.model if self.plain.source.functions else self.plain.source

    def _pruning_of(self, tensors: tuple[str, ...], model: onnx.ModelProto, costs: Setting) -> tuple[Pruning, Scores]:
        """The pruning of the model without some branches, with scores of its own."""
        if tensors not in self._shorter:
            outer = self.plain
            request = replace(outer.request, data=outer.samples, labels=None, resume=None, depth=False)
            whole = type(outer)(model, request, self.tell, outer.clock, teacher=outer.reference)
            whole.journal, whole.costs = outer.journal, costs
            named_like(whole.groups, outer.groups)
            whole.options = still_there(outer.options, whole.groups, candidates(outer.groups, outer.options))
            inner = self.pruning.alike(whole)
            self._shorter = {tensors: (inner, inner.scores())}  # one at a time: covariances are large
        return self._shorter[tensors]

    # ---- the report ----

    def _blocks(self, best: Option, options: list[Option], budget: Budget) -> Blocks:
        by_tensor = {b.tensor: b for b in self.branches}
        costs = {q: budget.setting.cost(q) for q in ("macs", "params")}
        gone = []
        for tensor in best.tensors:
            branch, dead = by_tensor[tensor], self._gone_with([tensor])
            macs, params = (c.total({}) - c.without(dead).total({}) for c in costs.values())
            gone.append(Block(tensor, branch.reader, branch.nodes, self.losses([tensor]), macs, params))
        rows = [Foretold(len(o.tensors), o.branches_lose, o.loss if np.isfinite(o.loss) else None) for o in options]
        return Blocks(gone, len(self.branches), rows, put_back=dict(self.put_back), refused=self.refused)
