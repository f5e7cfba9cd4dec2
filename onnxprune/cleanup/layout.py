"""Where the elements of a tensor go: axes as lists of atoms, which Reshape groups anew and Transpose puts in another order.

An atom is (a part of) an axis of the first tensor of a run of moves. Its size may be unknown: then it can be moved as a
whole, but not split. Axes of length 1 hold no atoms, so a Transpose that moves only such axes does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxprune.cleanup.reading import Dim


@dataclass(eq=False)
class Atom:
    """A part of an axis.

    Attributes:
        size: its length, a name for it, or None.
        parts: what it was split into, outer first.
    """

    size: Dim
    parts: list[Atom] = field(default_factory=list)

    def leaves(self) -> list[Atom]:
        """What it consists of now."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]


Axes: TypeAlias = list[list[Atom]]
Wanted: TypeAlias = "int | str | list[Atom] | None"
"""An axis to be made: its length, a name of it, the atoms that it copies, or None for all that is left."""


def atoms(shape: Sequence[Dim]) -> Axes:
    """One atom for each axis that is not 1 long."""
    return [[] if n == 1 else [Atom(n)] for n in shape]


def expand(axes: Axes) -> Axes:
    """The same axes in atoms that are not split."""
    return [[leaf for atom in axis for leaf in atom.leaves()] for axis in axes]


def length(axis: Iterable[Atom]) -> Dim:
    """Length of an axis, as far as it is known."""
    sizes = [a.size for a in axis]
    known = [n for n in sizes if isinstance(n, int)]
    if len(known) == len(sizes):
        return math.prod(known)
    return sizes[0] if len(sizes) == 1 else None


def regroup(axes: Axes, wanted: Sequence[Wanted]) -> Axes | None:
    """What a Reshape makes of the axes; atoms are split where it splits an axis. None where that is not known."""
    queue = [leaf for axis in expand(axes) for leaf in axis]
    items = list(wanted)
    head: Axes = []
    while items and (taken := _take(queue, items[0], first=True)) is not None:
        head.append(taken)
        items.pop(0)
    tail: Axes = []
    while items and (taken := _take(queue, items[-1], first=False)) is not None:
        tail.insert(0, taken)
        items.pop()
    if len(items) > 1 or (not items and queue):
        return None
    return [*head, *([queue] if items else []), *tail]


def _take(queue: list[Atom], wanted: Wanted, *, first: bool) -> list[Atom] | None:
    """Removes the atoms of one axis from an end of the queue; None, and nothing removed, where it is not known which."""
    if wanted is None:
        return None
    end = 0 if first else -1
    if isinstance(wanted, list):
        size = len(wanted)
        found = (queue[:size] if first else queue[len(queue) - size :]) if size else []
        if found != wanted:
            return None
        queue[:] = queue[size:] if first else queue[: len(queue) - size]
        return found
    if isinstance(wanted, str):
        return [queue.pop(end)] if queue and queue[end].size == wanted else None
    return _take_length(queue, wanted, first=first)


def _take_length(queue: list[Atom], wanted: int, *, first: bool) -> list[Atom] | None:
    end = 0 if first else -1
    held, taken = list(queue), []
    while wanted > 1:
        size = queue[end].size if queue else None
        if not isinstance(size, int) or (wanted % size and size % wanted):
            queue[:] = held
            return None
        atom = queue.pop(end)
        if wanted % size:
            inner = [Atom(wanted), Atom(size // wanted)] if first else [Atom(size // wanted), Atom(wanted)]
            atom.parts = inner
            queue.insert(0 if first else len(queue), inner[1 if first else 0])
            held = [leaf for a in held for leaf in a.leaves()]
            atom = inner[end]
            size = wanted
        wanted //= size
        taken.append(atom)
    return taken if first else taken[::-1]


def target(before: Axes, after: Axes) -> list[int] | None:
    """The constant with which a Reshape makes one of the other: 0 copies an axis, -1 is the one that is not known.

    None where two axes would have to be -1, or an axis is empty.
    """
    found: list[int] = []
    unknown = 0
    for index, axis in enumerate(after):
        size = length(axis)
        if isinstance(size, int):
            found.append(size)
        elif index < len(before) and before[index] == axis:
            found.append(0)
        else:
            unknown += 1
            found.append(-1)
    if unknown > 1 or any(length(axis) == 0 for axis in after):
        return None
    copied = [k for k, n in enumerate(found) if n == 0]
    if not unknown and len(copied) == 1:
        found[copied[0]] = -1
    return found


def blocks(before: Axes, after: Axes) -> list[list[Atom]]:
    """Runs of atoms that stay together, in the order of `before`, as long as they can be."""
    old = [a for axis in before for a in axis]
    place = {id(a): k for k, a in enumerate(a for axis in after for a in axis)}
    found: list[list[Atom]] = []
    for k, atom in enumerate(old):
        if k and place[id(atom)] == place[id(old[k - 1])] + 1:
            found[-1].append(atom)
        else:
            found.append([atom])
    return found


def aligned(axes: Axes, runs: list[list[Atom]]) -> bool:
    """No axis holds atoms of two runs."""
    number = {id(a): k for k, run in enumerate(runs) for a in run}
    return all(len({number[id(a)] for a in axis}) < 2 for axis in axes)


def order(axes: Axes, wanted: Axes) -> list[int]:
    """The permutation that puts axes into the order in which their atoms come in `wanted`; empty ones come first."""
    place = {id(a): k for k, a in enumerate(a for axis in wanted for a in axis)}
    return sorted(range(len(axes)), key=lambda k: place[id(axes[k][0])] if axes[k] else -1)
