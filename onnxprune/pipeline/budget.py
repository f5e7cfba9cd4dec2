"""Targets of one pruning: limits before, and what was reached after."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx

from onnxprune.budget.allocation import Limit
from onnxprune.budget.choose import choose_within, narrowest, widths_of
from onnxprune.budget.costs import Cost
from onnxprune.budget.kinds import Setting
from onnxprune.budget.memory import Memory
from onnxprune.budget.reached import Reached
from onnxprune.budget.targets import Target, amount
from onnxprune.errors import BudgetError, UsageError
from onnxprune.groups.classes import Mask
from onnxprune.select.allocate import Choice, Options, ranked
from onnxprune.select.context import Scores

if TYPE_CHECKING:
    from onnxprune.pipeline.attempt import Attempt

ROUNDS = 3


@dataclass
class Budget:
    """Chooses what goes within targets, and once more where the result is off.

    Attributes:
        setting: what costs are made from.
        options: what may go, and the ranking.
        scores: of the criterion.
        targets: of costs.
        closest: where they can't be met, as little as possible stays instead of an error.
        unmet: why they can't be met.
        rounds: how often widths were chosen.
        found: by quantity what the last result has.
    """

    setting: Setting
    options: Options
    scores: Scores
    targets: Sequence[Target]
    closest: bool = False
    unmet: str = ""
    rounds: int = 0
    found: dict[str, Reached] = field(default_factory=dict)
    _tried: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # limits, and what came of them
    _held: set[str] = field(default_factory=set)

    _refused: str = ""  # why the narrowest widths, which are measured now, are too much by what costs are expected
    _expected: dict[str, float] = field(default_factory=dict)  # of what was chosen last, by quantity
    _kept: tuple[Attempt, dict[str, Reached]] | None = None  # the result within the targets that is nearest to them

    def choose(self, *, doubted: bool = False) -> list[Choice]:
        """What goes.

        Args:
            doubted: where only a measurement decides, and what is expected of the narrowest widths is too much, they are
                chosen, for `off` to hold against what they really take.

        Raises:
            BudgetError: no choice is within the targets, and `closest` was not asked for.
        """
        self.rounds += 1
        options = replace(self.options, steps=self.setting.steps([t.quantity for t in self.targets]))
        groups = self.setting.groups
        choices = [c for c in ranked(groups, self.options, self.scores) if c.group.id not in self._held]
        measured = [t.quantity for t in self.targets if self.setting.cost(t.quantity).tolerance]
        limits = self.limits()
        try:
            found = choose_within(groups, choices, options, self.scores, limits)
        except BudgetError as error:
            found = narrowest(groups, choices, options, limits)
            if doubted and measured and not self._tried:
                self._refused = str(error)
            elif not self.closest:
                raise
            else:
                self.unmet = str(error)
        widths = widths_of(found)
        self._expected = {t.quantity: self.setting.cost(t.quantity).total(widths) for t in self.targets}
        return [c for c in found if c.count]

    def limits(self, gone: Collection[str] = ()) -> list[Limit]:
        """The targets, moved by what former results were off; of a model without some tensors."""
        found = []
        other = self.setting.beside is not None
        for target in self.targets:
            most, dense = self._limit(target), self.of_source(target.quantity) if other else None
            whole = self.setting.cost(target.quantity)
            cost = whole.without(gone) if gone else whole
            parts: list[Cost] = [*cost.steps(most)] if isinstance(cost, Memory) else [cost]
            found += [Limit(part, most, str(target), dense) for part in parts]
        return found

    def of_source(self, quantity: str) -> float:
        """What the source costs."""
        return self.setting.of_source(quantity)

    def _limit(self, target: Target) -> float:
        """What to ask for: between the last result and the next one on the other side, the source at the end.

        There it is on the line through the last two results, where that leads in between, else on the line through both
        sides: a result far off would hold the others where they are. Source: Dekker 1969, "Finding a zero by means of
        successive linear interpolation".
        """
        wanted, dense = self._most(target), self.of_source(target.quantity)
        tried = self._tried.get(target.quantity, [])
        if not tried:
            return wanted
        asked, got = tried[-1]
        others = [(dense, dense), *tried[:-1]]
        across = [t for t in others if (t[1] > wanted) != (got > wanted)] or others
        end = min(across, key=lambda t: abs(t[0] - asked))
        even, most = asked * wanted / got, (asked + dense) / 2  # the whole source is no answer
        near = _on_line(tried[-1], others[-1], wanted)
        if near is not None and min(asked, end[0]) < near < max(asked, end[0]):
            return min(near, most)
        line = _on_line(tried[-1], end, wanted)
        return min(even, most) if line is None else min(max(line, 0.5 * even), max(most, wanted))

    def _most(self, target: Target) -> float:
        most = target.most(self.of_source(target.quantity))
        if not most:
            raise UsageError(f"target {target}: the source has no {target.quantity}, so there is no share of it")
        return most

    def off(self, model: onnx.ModelProto, alive: Mask, put_back: Sequence[str] = (), *, counted: bool = False) -> bool:
        """Whether widths have to be chosen again, with limits moved by what the result is off.

        Args:
            model: the pruned model.
            alive: labels that are left in it.
            put_back: groups that failed their check, which stay whole from now on.
            counted: only what is counted is looked at: fitted weights change no time.

        Raises:
            ModelError: it can't be measured.
        """
        targets = [t for t in self.targets if not counted or not self.setting.cost(t.quantity).tolerance]
        rows = self.reached(model, alive, targets)
        self.found |= {r.quantity: r for r in rows}
        if self._refused and not counted:
            self._settle()
        if self.unmet or self.rounds >= ROUNDS:
            return False
        asked: dict[str, float] = {t.quantity: self._limit(t) for t in self.targets}
        found = [r for r in rows if not self._near(r)]
        for r in found:
            self._tried.setdefault(r.quantity, []).append((self._expected.get(r.quantity, asked[r.quantity]), r.after))
        self._held |= set(put_back)
        following: dict[str, float] = {t.quantity: self._limit(t) for t in self.targets}
        return any(not r.met or following[r.quantity] > asked[r.quantity] for r in found)

    def best(self, attempt: Attempt) -> Attempt:
        """The attempt that was measured last, or one before it that is within the targets, where the last one is not.

        Of several that are, the one that is nearest to them.
        """
        if all(r.met for r in self.found.values()):
            known = self._kept
            if known is None or _share(known[1]) < _share(self.found):
                self._kept = attempt, dict(self.found)
        elif self._kept is not None and self.rounds >= ROUNDS:
            attempt, self.found = self._kept
        return attempt

    def forget(self, attempt: Attempt) -> None:
        """What was repaired and is off then is none to come back to."""
        if self._kept is not None and self._kept[0] is attempt:
            self._kept = None

    def _settle(self) -> None:
        """Whether the narrowest widths are too much in truth.

        Raises:
            BudgetError: they are, and `closest` was not asked for.
        """
        refused, self._refused = self._refused, ""
        missed = [r for r in self.found.values() if not r.met]
        if missed:
            self.unmet = f"{refused}; measured: {amount(missed[0].quantity, missed[0].after)}"
            if not self.closest:
                raise BudgetError(self.unmet)
        self.rounds -= 1  # this one was to find out whether there is a point in any

    def _near(self, r: Reached) -> bool:
        """It is met, and a measurement is not far below the limit either, where it was what stopped the removal."""
        if not r.met:
            return False
        tolerance = self.setting.cost(r.quantity).tolerance
        return not tolerance or len(self.targets) > 1 or r.after >= r.limit * (1 - tolerance)

    def judge(self) -> None:
        """What is still missed after the last round.

        Raises:
            BudgetError: a target is, and `closest` was not asked for.
        """
        missed = [r for r in self.found.values() if not r.met]
        if not missed or self.unmet:
            return
        r = missed[0]
        self.unmet = (
            f"target {r.target} is missed: {amount(r.quantity, r.after)} instead of at most {amount(r.quantity, r.limit)}, "
            f"after {self.rounds} rounds"
        )
        if not self.closest:
            raise BudgetError(self.unmet)

    def reached(self, model: onnx.ModelProto, alive: Mask, targets: Sequence[Target]) -> list[Reached]:
        """What a pruned model has of each target."""
        rows = []
        for target in targets:
            cost = self.setting.cost(target.quantity)
            before, most, after = self.of_source(target.quantity), self._most(target), cost.measure(model, alive)
            met = after <= most * (1 + cost.tolerance) + 1e-9 * before
            rows.append(Reached(target.quantity, str(target), cost.unit, before, most, after, met, self.rounds))
        return rows

    def within(self, *targets: Target) -> Budget:
        """The same with further targets, from the beginning, and no result where they can't be met."""
        kept = [t for t in self.targets if all(t.quantity != new.quantity for new in targets)]
        return Budget(self.setting, self.options, self.scores, [*kept, *targets])


def _share(found: Mapping[str, Reached]) -> float:
    """What was reached as a share of the targets."""
    return max((r.after / r.limit for r in found.values()), default=0.0)


def _on_line(one: tuple[float, float], other: tuple[float, float], wanted: float) -> float | None:
    """The limit at which the line through two results is at the wanted one; None where they contradict each other."""
    (limit, found), (last, got) = one, other
    if (found - got) * (limit - last) <= 0:
        return None
    return limit + (wanted - found) * (limit - last) / (found - got)
