"""From the analysis of a model to that of the same model with other nodes written as two.

Weights that both models have carry the labels over: classes of the one are classes of the other where they count the same
slices of the same weight. The two weights of a pair stand for the axes of the one that they are the product of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Group, Groups
from onnxprune.lowrank.factor import Pair
from onnxprune.select.allocate import Options, candidates, floor_of, matches, ratio_of
from onnxprune.select.context import Floats, Scores

_INNER = -1
Slices = Mapping[tuple[str, int], Ids]


@dataclass(frozen=True)
class Side:
    """A model with some nodes written as two.

    Attributes:
        groups: its analysis.
        pairs: those nodes.
    """

    groups: Groups
    pairs: Sequence[Pair] = ()

    def slices(self) -> Slices:
        """Classes of the slices of each axis of each weight, the inner axis of a pair by the name of their product."""
        named = {}
        for pair in self.pairs:
            (k, inner), (_, m) = pair.axes
            named[pair.first, k] = pair.weight, pair.wide.inputs
            named[pair.first, inner] = pair.weight, _INNER
            named[pair.second, m] = pair.weight, pair.wide.outputs
        of_label = self.groups.classes.of_label
        return {
            named.get((w.name, axis), (w.name, axis)): of_label[labels].ravel()
            for w in self.groups.trace.weights.values()
            for axis, labels in w.labels.items()
        }

    def inner_group(self, pair: Pair) -> Group | None:
        """The group of the inner channels of a pair, None where they can't go."""
        member = pair.first, pair.axes[0][1]
        return next((g for g in self.groups.groups if member in g.members), None)


@dataclass(frozen=True)
class Transfer:
    """From one analysis to another.

    Attributes:
        start: the one.
        end: the other.
    """

    start: Side
    end: Side

    def __post_init__(self) -> None:
        to = np.full(self.start.groups.classes.count, -1, np.int64)
        end = self.end.slices()
        for key, classes in self.start.slices().items():
            other = end.get(key)
            if other is not None and other.size == classes.size:
                to[classes] = other
        object.__setattr__(self, "_to", to)

    def elements(self, group: Group) -> dict[int, tuple[int, int]]:
        """Class in the other model -> bucket and element, of a group of this one."""
        to = self._to  # type: ignore[attr-defined]
        return {
            int(c): (b, k)
            for b, bucket in enumerate(group.buckets)
            for k, unit in enumerate(bucket)
            for c in to[unit].tolist()
            if c >= 0
        }

    def partners(self) -> dict[str, Group]:
        """Group id in the other model -> the same group of this one."""
        known = [(g, self.elements(g)) for g in self.start.groups.groups]
        found = {}
        for other in self.end.groups.groups:
            first = other.buckets[0][0].tolist()
            for g, elements in known:
                if g.kind == other.kind and g.units == other.units and any(c in elements for c in first):
                    found[other.id] = g
                    break
        return found

    def scores(self, scores: Scores) -> Scores:
        """Importances and error curves for the other model; units that this one does not have are worth nothing."""
        index = {g.id: k for k, g in enumerate(self.start.groups.groups)}
        partners = self.partners()
        values: list[list[Floats]] = []
        curves = {}
        for other in self.end.groups.groups:
            own = partners.get(other.id)
            if own is None:
                values.append([np.zeros(len(bucket)) for bucket in other.buckets])
                continue
            elements, held = self.elements(own), scores[index[own.id]]
            values.append([np.array([_of(unit, elements, held) for unit in bucket]) for bucket in other.buckets])
            if own.id in scores.curves:
                curves[other.id] = replace(scores.curves[own.id], group=other.id)
        return Scores(values, curves)

    def options(self, options: Options) -> Options:
        """What may go, by ids of the other model; inner channels of pairs may."""
        partners = self.partners()
        wanted = {g.id for g in candidates(self.start.groups, options)}
        only = [i for i, g in partners.items() if g.id in wanted]
        inner = [g.id for pair in self.end.pairs if (g := self.end.inner_group(pair)) is not None]
        ratios = {i: ratio_of(g, options) for i, g in partners.items() if any(matches(g, p) for p in options.ratios)}
        floors = {i: floor_of(g, options) for i, g in partners.items() if any(matches(g, p) for p in options.floors)}
        return replace(options, ignore=(), only=tuple(only + inner), ratios=ratios, floors=floors)


def _of(unit: Ids, elements: Mapping[int, tuple[int, int]], held: Sequence[Floats]) -> float:
    place = next((elements[c] for c in unit.tolist() if c in elements), None)
    return 0.0 if place is None else float(held[place[0]][place[1]])
