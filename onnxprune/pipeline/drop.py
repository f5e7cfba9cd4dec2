"""The most speed that costs no more of a metric than was allowed, by real evaluations of repaired models.

Without another target the share of the cost that stays is bisected, from half of it on: what a metric loses grows as more
goes, up to noise. Each trial chooses, cuts, fits and evaluates; statistics are those of one run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx

from onnxprune.budget.reached import Trial
from onnxprune.budget.targets import Quantity, Target
from onnxprune.errors import BudgetError
from onnxprune.metrics.score import Score
from onnxprune.pipeline.budget import Budget

if TYPE_CHECKING:
    from onnxprune.pipeline.attempt import Attempt

SPEED: Quantity = "macs"
_TRIALS = 7
_NARROW = 0.01  # difference of shares at which the bisection ends

Scorer = Callable[[onnx.ModelProto], Score]


class Drop:
    """The search.

    Args:
        target: what the metric may lose.
        budget: the other targets.
        attempt: prunes and repairs within a budget.
        scorer: evaluates a model.
        before: score of the source.
    """

    def __init__(
        self, target: Target, budget: Budget, attempt: Callable[[Budget], Attempt], scorer: Scorer, before: Score
    ) -> None:
        self.target, self.budget, self.attempt, self.scorer, self.before = target, budget, attempt, scorer, before
        self.allowed = target.allowed(before.value, percent=before.unit == "percent")
        self.trials: list[Trial] = []

    def run(self) -> Attempt:
        """The result.

        Raises:
            BudgetError: no trial loses as little, and the closest one was not asked for.
            ModelError: a trial can't be evaluated.
        """
        tried = [self._try(self.budget)] if self.budget.targets else self._bisect()
        met = [k for k, trial in enumerate(self.trials) if trial.met]
        best = met[-1] if met else min(range(len(tried)), key=lambda k: self.trials[k].lost)
        if not met:
            trial = self.trials[best]
            reason = (
                f"target {self.target} can't be met: with {trial.target} {self.before.metric} is {trial.figure:.4g} "
                f"instead of {self.before.value:.4g}, and {self.allowed:.4g} less was allowed"
            )
            if not self.budget.closest:
                raise BudgetError(reason)
            within = tried[best].budget
            assert within is not None
            within.unmet = reason
        return tried[best]

    def _bisect(self) -> list[Attempt]:
        """Trials; the last one that is met has the least cost of those."""
        low, high = 0.0, 1.0
        tried: list[Attempt] = []
        narrow: BudgetError | None = None
        for _ in range(_TRIALS):
            share = (low + high) / 2
            try:
                tried.append(self._try(self.budget.within(Target(SPEED, share, share=True))))
            except BudgetError as error:
                low, narrow = share, error
                continue
            if self.trials[-1].met:
                high = share
            else:
                low = share
            if high - low < _NARROW:
                break
        if not tried and narrow is not None:
            raise narrow
        return tried

    def _try(self, budget: Budget) -> Attempt:
        found = self.attempt(budget)
        after = self.scorer(found.repair.model)
        lost = self.before.value - after.value
        lost = lost if self.before.higher_is_better else -lost
        text = ", ".join(str(t) for t in budget.targets)
        self.trials.append(Trial(text, after.value, lost, self.allowed))
        return found
