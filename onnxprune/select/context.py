"""What a criterion sees: the units, slices of weights and what they do, statistics of activations, a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError
from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Groups
from onnxprune.io.constants import constant_array
from onnxprune.select.roles import Role, Roles, Use
from onnxprune.surgery.apply import stored_weights
from onnxprune.trace.tracer import Weight

if TYPE_CHECKING:
    from onnxprune.statistics.channels import ChannelStatistics
    from onnxprune.statistics.gate_gradients import GateGradients

Floats = NDArray[np.float64]
SliceFunction = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Curve:
    """What the readers of a group lose as its units go, the least important first, if they make up for it linearly.

    Attributes:
        group: its id.
        cost: `cost[n]` is the output variance that is lost once n units are gone, summed over readers; `cost[0] == 0`,
            never falling, one entry for each of 0 .. units - 1.
        total: output variance of those readers.
        covered: share of the group's elements that any reader's statistics know; the others count as free.
        sensitivity: relative squared error of the model's output for each share of the total that is lost, one number or one
            by the units that go; 1 where it was not measured.
    """

    group: str
    cost: Floats
    total: float
    covered: float
    sensitivity: float | Floats = 1.0

    @property
    def relative(self) -> Floats:
        """The cost as a share of the total."""
        return np.asarray(self.cost / self.total) if self.total > 0 else np.zeros_like(self.cost)

    @property
    def effect(self) -> Floats:
        """The relative cost times the sensitivity: what groups have in common."""
        return np.asarray(self.relative * self.sensitivity)


class Scores(list[list[Floats]]):
    """Importances: `scores[i][j][k]` is that of element k of bucket j of `groups.groups[i]`.

    Attributes:
        curves: error curves by group id, from criteria that know them.
    """

    def __init__(self, values: Iterable[list[Floats]] = (), curves: Mapping[str, Curve] | None = None) -> None:
        super().__init__(values)
        self.curves: dict[str, Curve] = dict(curves or {})


@dataclass(frozen=True)
class Slices:
    """Slices of one axis of a weight, or of one block of it where each block has channels of its own.

    Attributes:
        weight: tensor name.
        axis: the axis.
        role: `writes` the channels, `reads` them, or holds one or more `parameter`s of each.
        reader: operator that reads the weight.
        slot: at which input.
        classes: class of each slice `(n,)`.
        values: `(n, elements)`.
    """

    weight: str
    axis: int
    role: Role
    reader: str
    slot: int
    classes: Ids
    values: Floats


@dataclass
class ScoreContext:
    """Everything that importances can be computed from.

    Attributes:
        groups: result of `analyze`.
        statistics: of activations that linear nodes read; None where there is no data.
        seed: of random choices.
        sensitivity: by group id, see `onnxprune.statistics.sensitivity`; empty where it was not measured.
        gradients: of the loss with respect to gates of units; None where the criterion does not need them.
    """

    groups: Groups
    statistics: Sequence[ChannelStatistics] | None = None
    seed: int = 0
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    gradients: GateGradients | None = None

    @property
    def rng(self) -> np.random.Generator:
        """A generator at its start."""
        return np.random.default_rng(self.seed)

    @cached_property
    def prunable(self) -> Mask:
        """For each class whether it is in a unit."""
        found = np.zeros(self.groups.classes.count, np.bool_)
        for group in self.groups.groups:
            for bucket in group.buckets:
                for unit in bucket:
                    found[unit] = True
        return found

    @cached_property
    def _roles(self) -> Roles:
        return Roles(self.groups.trace.graph)

    def use(self, weight: str, axis: int) -> Use:
        """What an axis of a weight does, at the first node that reads it."""
        return self._roles.of(weight, axis)

    def arrays(self, wanted: Callable[[Weight], bool] = lambda weight: True) -> Iterator[tuple[Weight, Floats]]:
        """Stored weights in float64, one at a time."""
        constants = stored_weights(self.groups.trace.graph)
        for weight in self.groups.trace.weights.values():
            if weight.stored and wanted(weight):
                yield weight, np.asarray(constant_array(constants[weight.name]), np.float64)

    def slices(self) -> Iterator[Slices]:
        """Slices of all axes that can shrink."""
        of_label = self.groups.classes.of_label

        def shrinks(labels: NDArray[np.int32]) -> bool:
            return bool(self.prunable[of_label[labels]].any())

        for weight, array in self.arrays(lambda w: any(shrinks(x) for x in w.labels.values())):
            for axis, labels in weight.labels.items():
                if not shrinks(labels):
                    continue
                use = self.use(weight.name, axis)
                blocks = 1 if labels.ndim == 1 else len(labels)
                for part, own in zip(np.split(array, blocks, axis=0), np.atleast_2d(labels), strict=True):
                    values = np.moveaxis(part, axis, 0).reshape(own.size, -1)
                    yield Slices(weight.name, axis, use.role, use.reader, use.slot, of_label[own], values)

    # ---- from slices and classes to units ----

    def gather(self, values: Floats) -> Scores:
        """Sums over the classes of each element; `values` has one number per class."""
        return Scores([[_sums(values, bucket) for bucket in group.buckets] for group in self.groups.groups])

    def touched(self, classes: Iterable[Ids]) -> list[list[Mask]]:
        """For each element whether it has one of these classes."""
        marks = np.zeros(self.groups.classes.count)
        for ids in classes:
            marks[ids] = 1
        return [[bucket > 0 for bucket in group] for group in self.gather(marks)]

    def sum_slices(self, function: SliceFunction, roles: tuple[Role, ...] = ("writes", "reads", "parameter")) -> Scores:
        """Importances that add up over weights.

        Args:
            function: from slices `(n, elements)` to importances `(n,)`.
            roles: of the weights that count. An element without such a weight is judged by all it has.

        Raises:
            UsageError: the function returns another shape.
        """
        own, every = np.zeros(self.groups.classes.count), np.zeros(self.groups.classes.count)
        seen: list[Ids] = []
        for part in self.slices():
            values = np.asarray(function(part.values), np.float64)
            if values.shape != part.classes.shape:
                name, n = getattr(function, "__name__", "a criterion"), len(part.classes)
                raise UsageError(f"{name} gives shape {values.shape} for slices {part.values.shape}; it has to be ({n},)")
            np.add.at(every, part.classes, values)
            if part.role in roles:
                np.add.at(own, part.classes, values)
                seen.append(part.classes)
        known = self.touched(seen)
        return merged(self.gather(own), known, self.gather(every))

    @cached_property
    def _squares(self) -> Floats:
        total = np.zeros(self.groups.classes.count)
        for part in self.slices():
            np.add.at(total, part.classes, np.einsum("ij,ij->i", part.values, part.values))
        return total

    @property
    def l2(self) -> Scores:
        """Sums of squares over all coupled weights: what other criteria fall back to."""
        return self.gather(self._squares)

    def completed(self, scores: Scores, known: Sequence[Sequence[Mask]]) -> Scores:
        """Elements that a criterion does not know get their l2 score, scaled to be comparable within the group.

        The factor is (sum of the known scores) / (sum of the l2 scores of the same elements), so that both have the same
        mean where both are known. A group of which nothing is known keeps its l2 scores as they are.
        """
        filled = self.l2
        for own, fallback, here in zip(scores, filled, known, strict=True):
            judged = sum(float(s[k].sum()) for s, k in zip(own, here, strict=True))
            norm = sum(float(s[k].sum()) for s, k in zip(fallback, here, strict=True))
            factor = judged / norm if judged > 0 and norm > 0 else 1.0
            fallback[:] = [s * factor for s in fallback]
        return merged(scores, known, filled)


def merged(scores: Scores, known: Sequence[Sequence[Mask]], others: Scores) -> Scores:
    """Scores where they are known, others elsewhere."""
    rows = zip(scores, known, others, strict=True)
    return Scores([[np.where(k, s, o) for s, k, o in zip(*row, strict=True)] for row in rows], scores.curves)


def _sums(values: Floats, bucket: Sequence[Ids]) -> Floats:
    if not bucket:
        return np.zeros(0)
    starts = np.cumsum([0, *[unit.size for unit in bucket[:-1]]])
    return np.add.reduceat(values[np.concatenate(bucket)], starts)
