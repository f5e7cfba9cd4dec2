"""Levels that cost no less than wider ones."""

import numpy as np
import pytest

from onnxprune.budget.allocation import Limit, OutOfReachError, allocate_within
from onnxprune.budget.levels import paying

LEVELS = {"a": np.array([4, 8, 16, 32, 64]), "b": np.array([1, 2])}


class Priced:
    """Each group costs by itself what is written down."""

    name, unit = "latency", "ms"

    def __init__(self, prices, tolerance=0.03):
        self.prices, self.tolerance = prices, tolerance

    def total(self, widths):
        return sum(self.prices[g][widths.get(g, int(LEVELS[g][-1]))] for g in LEVELS)

    def table(self, widths, levels):
        return {g: np.array([self.total({**widths, g: int(n)}) for n in own]) for g, own in levels.items()}


@pytest.fixture
def narrow_ones_are_dear():
    return Priced({"a": {4: 32.0, 8: 22.0, 16: 16.0, 32: 32.0, 64: 64.0}, "b": {1: 1.0, 2: 1.0}})


def test_a_level_as_dear_as_a_wider_one_is_none(narrow_ones_are_dear):
    found = paying(LEVELS, [Limit(narrow_ones_are_dear, 20.0)])
    assert {g: own.tolist() for g, own in found.items()} == {"a": [16, 32, 64], "b": [2]}


def test_what_is_counted_keeps_all_levels(narrow_ones_are_dear):
    counted = Priced(narrow_ones_are_dear.prices, tolerance=0.0)
    for limits in ([Limit(counted, 20.0)], [Limit(counted, 20.0), Limit(narrow_ones_are_dear, 20.0)]):
        assert all(np.array_equal(own, LEVELS[g]) for g, own in paying(LEVELS, limits).items())


def test_a_target_between_the_narrowest_and_the_cheapest_is_within_reach(narrow_ones_are_dear):
    limits = [Limit(narrow_ones_are_dear, 20.0)]
    losses = {"a": np.linspace(0, 1, 64), "b": np.array([0.0, 0.1])}
    with pytest.raises(OutOfReachError):
        allocate_within(losses, LEVELS, limits)
    assert allocate_within(losses, paying(LEVELS, limits), limits).widths == {"a": 16, "b": 2}
