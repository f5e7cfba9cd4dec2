"""Of several ways to meet the same targets, the one that loses least once it is repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.errors import BudgetError, NothingToPruneError, OnnxPruneError
from onnxprune.pipeline.attempt import Attempt
from onnxprune.pipeline.figures import likeness_of

if TYPE_CHECKING:
    from onnxprune.pipeline.pruning import Pruning


@dataclass(frozen=True)
class Way:
    """An attempt that was made.

    Attributes:
        attempt: the model.
        missed: it misses a target.
        error: norm of the outputs' error on the samples over that of the source's outputs, the mean over outputs; infinite
            where they can't be compared.
    """

    attempt: Attempt
    missed: bool
    error: float


def best_first(pruning: Pruning, attempts: Sequence[Callable[[], Attempt]]) -> list[Way]:
    """Those of some attempts that came to an end: the ones that meet their targets first, then by error.

    Args:
        pruning: with the samples and providers of all of them.
        attempts: what to try, in the order that decides between equals.

    Raises:
        BudgetError: of the first attempt, where none came to an end.
        NothingToPruneError: the same.
    """
    found: list[Way] = []
    failed: list[OnnxPruneError] = []
    for attempt in attempts:
        try:
            made = attempt()
        except (BudgetError, NothingToPruneError) as error:
            failed.append(error)
            continue
        missed = made.budget is not None and bool(made.budget.unmet)
        found.append(Way(made, missed, _error(pruning, made)))
    if not found:
        raise failed[0]
    return sorted(found, key=lambda way: (way.missed, way.error))


def _error(pruning: Pruning, found: Attempt) -> float:
    error = float(np.mean([f.relative_error for f in likeness_of(pruning, found)] or [np.inf]))
    return error if np.isfinite(error) else np.inf
