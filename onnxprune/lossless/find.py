"""Finds the units whose removal changes nothing, and folds what was read from them into what stays.

A unit can go where each sum in which one of its channels ends can do without that term (`sinks`). Units are taken one after
the other, with the weights as they are by then, so a channel that took over another one is not 0 any more, and of two equal
ones the second stays. As channels that only removed rows read are read by nobody, the graph is read again until nothing is
found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Group, Groups
from onnxprune.lossless.interpret import Reading
from onnxprune.lossless.sinks import KINDS, Kind, Sink, Term
from onnxprune.lossless.tensors import Array, Tensors, copies
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.check import default_tolerance
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import Verification, compare
from onnxprune.select.allocate import Choice
from onnxprune.surgery.apply import apply_alive
from onnxprune.surgery.inflate import put_in
from onnxprune.surgery.weights import cut, keep_of, neutral_values, put_back

_ROUNDS = 10


@dataclass(frozen=True)
class LosslessUnit:
    """One unit that can go.

    Attributes:
        group: id of its group.
        bucket: see `Group.buckets`.
        index: position in the bucket.
        kind: `unread` (nobody reads it with a weight other than 0), `zero`, `constant`, `duplicate` of another channel, or
            `multiple` of one.
    """

    group: str
    bucket: int
    index: int
    kind: Kind


@dataclass
class Lossless:
    """What can go without a change of any output.

    Attributes:
        choices: what goes of each group.
        edits: new values of stored tensors, to be set before the surgery: what was read from removed units is folded into
            what stays, and their own slices are zeros. The model computes the same with them, whether the units are there
            or not.
        units: the same units with the reason why each can go.
        refused: (group, bucket, index, reason) of units that are constant, duplicates or multiples and stay all the same.
    """

    choices: list[Choice]
    edits: dict[str, Array]
    units: list[LosslessUnit] = field(default_factory=list)
    refused: list[tuple[str, int, int, str]] = field(default_factory=list)

    def counts(self) -> dict[str, dict[Kind, int]]:
        """Units by group and kind."""
        found: dict[str, dict[Kind, int]] = {}
        for unit in self.units:
            row = found.setdefault(unit.group, {})
            row[unit.kind] = row.get(unit.kind, 0) + 1
        return found


def find_lossless(prepared: Prepared, groups: Groups) -> Lossless:
    """Units whose removal changes no output, with the edits of weights that go with it. Nothing is changed.

    One unit of each group stays, and something of every tensor. Inexact groups are left alone.

    Args:
        prepared: the model as it was traced.
        groups: its analysis.
    """
    search = _Search(groups)
    for _ in range(_ROUNDS):
        if not search.round():
            break
    return search.result()


def prune_lossless(prepared: Prepared, groups: Groups) -> tuple[onnx.ModelProto, Lossless]:
    """The model without its lossless units, and what they are; the model itself where there are none."""
    found = find_lossless(prepared, groups)
    if not found.choices:
        return prepared.model, found
    gone = np.concatenate([c.classes for c in found.choices])
    return apply_alive(edited(prepared.model, found), groups, groups.alive_labels(gone)), found


def edited(model: onnx.ModelProto, found: Lossless) -> onnx.ModelProto:
    """The model with the edits, which still has all units."""
    return put_in(model, found.edits) if found.edits else model


def verify_lossless(
    prepared: Prepared, groups: Groups, pruned: onnx.ModelProto, *, seed: int = 0, tolerance: float | None = None
) -> Verification:
    """Compares the outputs of a result with those of its source on random inputs.

    Args:
        prepared: the source as it was traced.
        groups: its analysis.
        pruned: result of `prune_lossless`.
        seed: of the random inputs.
        tolerance: largest relative error that passes; a tenth of that of any other proof where not given.

    Raises:
        SourceError: ONNX Runtime can't run the source.
    """
    bound = default_tolerance(groups) / 10 if tolerance is None else tolerance
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, seed)
    return compare(prepared.model, pruned, prepared.graph, feeds, bound)


@dataclass
class _Search:
    groups: Groups

    def __post_init__(self) -> None:
        trace, classes = self.groups.trace, self.groups.classes
        self.weights = copies(trace)
        self.gone: Mask = np.zeros(classes.count + 1, np.bool_)  # the last one for class -1
        self.units: dict[tuple[str, int, int], Kind] = {}
        self.refused: dict[tuple[str, int, int], str] = {}
        self.taken: set[str] = set()
        self.neutral = neutral_values(trace.space)
        self.floors: dict[int, list[int]] = {}
        self.left = [floor.size for floor in self.groups.floors]
        for k, floor in enumerate(self.groups.floors):
            for c in floor.tolist():
                self.floors.setdefault(c, []).append(k)

    # ---- one reading ----

    def round(self) -> bool:
        """Reads the graph and takes what it finds; False where that is nothing."""
        reading = Reading(self.groups, Tensors(self.groups.trace, self.weights)).run()
        self.held, self.dead = reading.held, reading.dead
        self.sinks = reading.sinks
        self.cells: dict[int, list[tuple[Sink, int, int]]] = {}
        for sink in self.sinks:
            for c, g, k in sink.cells():
                self.cells.setdefault(c, []).append((sink, g, k))
        self.refused.clear()
        before = len(self.units)
        count = -1
        while count != len(self.units):
            count = len(self.units)
            for group in reversed(self.groups.groups):
                if group.exact and not self.taken & set(group.alternatives):
                    self.group(group)
        self.forget()
        return len(self.units) > before

    def group(self, group: Group) -> None:
        """Takes from one group as many of each bucket as the poorest of them can give."""
        if len(group.buckets) == 1:
            found = [self.bucket(group, 0, group.units)]
        elif not all(any(isinstance(self.judge(u), list) for u in b if not self.gone[u].any()) for b in group.buckets):
            return
        else:
            kept = {name: array.copy() for name, array in self.weights.items()}
            state = (self.gone.copy(), list(self.left), dict(self.units))
            limit = min(len(self.bucket(group, b, group.units)) for b in range(len(group.buckets)))
            for name, array in kept.items():
                self.weights[name][...] = array
            self.gone, self.left, self.units = state
            found = [self.bucket(group, b, limit) for b in range(len(group.buckets))] if limit else []
        if any(found):
            self.taken.add(group.id)

    def bucket(self, group: Group, b: int, limit: int) -> list[int]:
        """Takes up to `limit` elements of a bucket, those at the end first; one always stays."""
        found: list[int] = []
        already = sum(key[:2] == (group.id, b) for key in self.units)
        for k in range(len(group.buckets[b]) - 1, -1, -1):
            unit, key = group.buckets[b][k], (group.id, b, k)
            if self.gone[unit].any():
                continue
            if len(found) == limit or already + len(found) + 1 >= group.units:
                break
            answer = self.judge(unit)
            if isinstance(answer, str):
                if answer:
                    self.refused[key] = answer
                continue
            self.refused.pop(key, None)
            self.take(unit, answer)
            default: Kind = "zero" if self.dead & set(unit.tolist()) else "unread"
            self.units[key] = max((default, *(t.kind for _, t in answer)), key=KINDS.index)
            found.append(k)
        return found

    # ---- one unit ----

    def judge(self, unit: Ids) -> list[tuple[Sink, Term]] | str:
        """What becomes of all terms of a unit that is not gone yet, or why it stays; no text where it is just needed."""
        self.gone[unit] = True
        try:
            if any(self.holds(c) for c in unit.tolist()):
                return ""
            terms: list[tuple[Sink, Term]] = []
            for c in unit.tolist():
                for sink, g, k in self.cells.get(c, ()):
                    answer = sink.judge(g, k, self.is_gone)
                    if isinstance(answer, str):
                        return answer
                    terms.append((sink, answer))
        finally:
            self.gone[unit] = False
        taken = [n for c in unit.tolist() for n in self.floors.get(c, ())]
        if any(self.left[n] <= taken.count(n) for n in set(taken)):
            return "it is the last of a tensor"
        return terms

    def holds(self, c: int) -> bool:
        """An operator needs a class, and the slices for which it does stay."""
        needed = self.held.get(c)
        return needed is not None and not (needed and all(self.gone[n] for n in needed))

    def is_gone(self, classes: Ids) -> NDArray[np.bool_]:
        """Which classes are removed; -1 never is."""
        return self.gone[classes]

    def take(self, unit: Ids, terms: Sequence[tuple[Sink, Term]]) -> None:
        """Folds what is read from a unit, and removes it."""
        for sink, term in terms:
            sink.fold(term)
        self.gone[unit] = True
        for c in unit.tolist():
            for n in self.floors.get(c, ()):
                self.left[n] -= 1

    # ---- the result ----

    @property
    def alive(self) -> Mask:
        """For each label whether it stays."""
        return self.groups.alive_labels(np.flatnonzero(self.gone[:-1]).astype(np.int32))

    def forget(self) -> None:
        """Puts zeros, or the neutral value, where slices are removed: what the pruned model computes."""
        alive = self.alive
        for name, array in self.weights.items():
            weight = self.groups.trace.weights.get(name)
            keep = keep_of(weight, alive) if weight is not None else {}
            if keep and weight is not None:
                fill = {a: self.neutral[labels] for a, labels in weight.labels.items() if labels.ndim == 1}
                array[...] = put_back(cut(array, keep), weight.shape, keep, fill)

    def result(self) -> Lossless:
        """Choices in the order of the groups."""
        choices = []
        for group in self.groups.groups:
            removed: list[list[int]] = [[] for _ in group.buckets]
            for name, b, k in self.units:
                if name == group.id:
                    removed[b].append(k)
            if any(removed):
                choices.append(Choice(group, [sorted(r) for r in removed], [np.zeros(len(b)) for b in group.buckets]))
        units = [LosslessUnit(*key, kind) for key, kind in sorted(self.units.items())]
        refused = [(*key, reason) for key, reason in sorted(self.refused.items())]
        source = copies(self.groups.trace)
        edits = {name: array for name, array in self.weights.items() if not np.array_equal(array, source[name])}
        return Lossless(choices, edits, units, refused)
