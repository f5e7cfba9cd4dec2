"""Criteria: how important each unit is. One decorator registers ours and anybody's.

The simple form judges slices of one weight; the importance of a unit is the sum over all its slices:

    from onnxprune import slice_criterion

    @slice_criterion("mean-abs")
    def mean_abs(slices):  # (n, elements) -> (n,)
        return abs(slices).mean(axis=1)

The full form sees everything at once (`ScoreContext`) and returns an importance for every element of every group:

    from onnxprune import criterion

    @criterion("loudness", needs_data=True)
    def loudness(context):
        values = np.zeros(context.groups.classes.count)
        ...
        return context.gather(values)

A package offers its criteria by an entry point in the group `onnxprune.criteria` that names a module which registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.groups.group import Groups
from onnxprune.select.context import Floats, ScoreContext, Scores, SliceFunction

CriterionFunction = Callable[[ScoreContext], Sequence[Sequence[Floats]]]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        function: from the context to importances.
        needs_data: it reads `ScoreContext.statistics`.
        needs_gradients: it reads `ScoreContext.gradients`.
        knows_losses: its scores come with curves: what is lost by how many units go.
    """

    function: CriterionFunction
    needs_data: bool = False
    needs_gradients: bool = False
    knows_losses: bool = False


_criteria: dict[str, Criterion] = {}


def criterion(
    name: str, *, needs_data: bool = False, needs_gradients: bool = False, knows_losses: bool = False
) -> Callable[[CriterionFunction], CriterionFunction]:
    """Registers a criterion: from a `ScoreContext` to one array of importances for each bucket of each group.

    Args:
        name: what users ask for; a later registration replaces an earlier one.
        needs_data: it is only called with statistics of activations.
        needs_gradients: it is only called with gradients of gates, which are made from samples too.
        knows_losses: its scores come with curves: what is lost by how many units go.
    """

    def register(function: CriterionFunction) -> CriterionFunction:
        _criteria[name] = Criterion(function, needs_data, needs_gradients, knows_losses)
        return function

    return register


def slice_criterion(name: str) -> Callable[[SliceFunction], SliceFunction]:
    """Registers a criterion: from slices `(n, elements)` of a weight to an importance `(n,)` that adds up over weights."""

    def register(function: SliceFunction) -> SliceFunction:
        _criteria[name] = Criterion(lambda context: context.sum_slices(function))
        return function

    return register


@cache
def _load() -> None:
    """Loads the criteria of this package, then those of entry points."""
    from importlib import import_module
    from importlib.metadata import entry_points

    registered = dict(_criteria)
    for family in ("weight_criteria", "activation_criteria", "gradient_criteria"):
        import_module(f"onnxprune.select.{family}")
    _criteria.update(registered)  # what a user registered before replaces ours of the same name
    for entry in entry_points(group="onnxprune.criteria"):
        entry.load()


def criteria() -> list[str]:
    """Names of all criteria."""
    _load()
    return sorted(_criteria)


def find(name: str) -> Criterion:
    """The criterion of a name.

    Raises:
        UsageError: there is none.
    """
    _load()
    if name not in _criteria:
        raise UsageError(f"unknown criterion {name!r}; there are {', '.join(criteria())}")
    return _criteria[name]


def knows_losses(name: str) -> bool:
    """Whether a criterion tells what each width of a group loses.

    Raises:
        UsageError: there is no such criterion.
    """
    return find(name).knows_losses


def score(context: ScoreContext, name: str) -> Scores:
    """Importances of all elements of all groups: finite, so that what a criterion can't judge counts as most important.

    Raises:
        UsageError: no such criterion, it needs data and there is none, or it returns something else than importances.
    """
    found = find(name)
    if found.needs_data and context.statistics is None:
        raise UsageError(f"criterion {name!r} judges activations and needs samples of the model's inputs; l2 needs none")
    if found.needs_gradients and context.gradients is None:
        raise UsageError(f"criterion {name!r} judges gradients and needs samples of the model's inputs; l2 needs none")
    raw = found.function(context)
    _check(context.groups, raw, name)
    return Scores([[_finite(bucket) for bucket in group] for group in raw], getattr(raw, "curves", None))


def _check(groups: Groups, raw: Sequence[Sequence[Floats]], name: str) -> None:
    expected = [[(len(bucket),) for bucket in group.buckets] for group in groups.groups]
    try:
        given = [[np.shape(bucket) for bucket in group] for group in raw]
    except TypeError:
        given = []
    if given != expected:
        raise UsageError(
            f"criterion {name!r} does not return one array for each bucket of each group; "
            "a function of slices alone is registered with `slice_criterion`"
        )


def _finite(values: Floats) -> Floats:
    values = np.array(values, np.float64)
    known = np.isfinite(values)
    if not known.all():
        values[~known] = 2 * np.abs(values[known]).max(initial=0.5)
    return values
