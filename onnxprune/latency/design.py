"""Which widths are sampled: first far apart, then close to multiples, where times jump.

Far apart: every group goes through the same shares of its width, each in an order of its own, so that the two sides of a
layer are sampled at many pairs of widths (a Latin hypercube; McKay, Beckman & Conover 1979). Widths there are multiples of a
power of two, as large a one as the group allows. Close by: all groups a little below such a width, by 32, 16 ... 1 slices;
where little of the time is saved, multiples of so few slices don't pay. Narrow: all groups at less than the first multiple
that pays, 8, 4, 2 or 1 slices, say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.groups.group import Group

OFFSETS = (32, 16, 8, 4, 2, 1)
"""Slices below a coarse width, from the largest on."""
LOWER = -1
"""Instead of an offset: the next coarse width below."""
COARSE = 12
"""The most samples far apart."""
_LARGEST = 64
_LEAST = 0.125  # share of a width
_PARTS = 2  # a group has at least so many coarse widths


@dataclass(frozen=True)
class Grid:
    """The coarse widths of one group.

    Attributes:
        group: the group.
        step: slices between them, a power of two: the largest with at least two widths of whole units.
    """

    group: Group
    step: int

    @classmethod
    def of(cls, group: Group) -> Grid:
        """The grid of a group."""
        step = _LARGEST
        while step > 1 and step // math.gcd(step, group.width) * _PARTS > group.units:
            step //= 2
        return cls(group, step)

    @property
    def units(self) -> int:
        """Units between them."""
        return self.step // math.gcd(self.step, self.group.width)

    def near(self, share: float) -> int:
        """The coarse width next to a share of the group, in units."""
        if share >= 1:
            return self.group.units
        count = max(round(share * self.group.units / self.units), 1) * self.units
        return min(count, self.group.units)

    @property
    def base(self) -> int:
        """Where widths close by are tried: half of the group, or less of a wide one, for there a slice counts for more.

        It has a coarse width below, unless the group has one only.
        """
        share = max(_LEAST, min(0.5, 2 * _LARGEST / (self.group.units * self.group.width)))
        return max(self.near(share), min(2 * self.units, self.group.units))

    def below(self, offset: int) -> int | None:
        """A width so many slices below the base; None where that is no width, or a multiple of more slices."""
        if offset >= self.step or offset % self.group.width or self.base <= self.units:
            return None
        return self.base - offset // self.group.width


def far_apart(grids: Sequence[Grid], seed: int) -> list[dict[str, int]]:
    """Units that are gone at each sample, by group id; the whole model first, then equal shares, then mixed ones."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(_LEAST, 1, COARSE - 3)
    orders = [rng.permutation(len(shares)) for _ in grids]
    found = [_gone(grids, [share] * len(grids)) for share in (1.0, 0.5, 0.25)]
    for k in range(len(shares)):
        found.append(_gone(grids, [float(shares[order[k]]) for order in orders]))
    return found


def _gone(grids: Sequence[Grid], shares: Sequence[float]) -> dict[str, int]:
    return {g.group.id: g.group.units - g.near(s) for g, s in zip(grids, shares, strict=True)}


def close_by(grids: Sequence[Grid]) -> dict[int, dict[str, int]]:
    """Units that are gone with every group so many slices below its base, where it can be, by these slices.

    The base itself is 0, and the multiple below it, between which the others lie, `LOWER`.
    """
    widths = {0: {g.group.id: g.base for g in grids}}
    widths[LOWER] = {g.group.id: max(g.base - g.units, min(g.units, g.base)) for g in grids}
    for offset in OFFSETS:
        below = {g.group.id: g.below(offset) for g in grids}
        if any(n is not None for n in below.values()):
            widths[offset] = {g.group.id: below[g.group.id] or g.base for g in grids}
    units = {g.group.id: g.group.units for g in grids}
    return {offset: {g: units[g] - n for g, n in own.items()} for offset, own in widths.items()}


def narrow(grids: Sequence[Grid], steps: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """Units that are gone, by slices, with all groups that wide which can be (`is_narrow`), and others at their base."""
    found = {}
    for slices in OFFSETS:
        own = {g.group.id: slices // g.group.width for g in grids if is_narrow(g, slices, steps[g.group.id])}
        if own:
            found[slices] = {g.group.id: g.group.units - own.get(g.group.id, g.base) for g in grids}
    return found


def is_narrow(grid: Grid, slices: int, step: int) -> bool:
    """A group can be so many slices wide, and this is less than the least width that pays.

    Args:
        grid: of the group.
        slices: a power of two.
        step: units between the widths that pay.
    """
    return slices % grid.group.width == 0 and slices < min(step, grid.group.units) * grid.group.width


def alignment(slices: int) -> int:
    """The largest power of two that divides a number of slices, of those that are told apart."""
    return math.gcd(slices, _LARGEST)
