"""The order of branches and the number of them follow from measured losses."""

import numpy as np
import pytest

from onnxprune.budget.allocation import Limit
from onnxprune.depth.choose import options_of
from onnxprune.depth.order import removal_order
from onnxprune.groups.group import Group

LOSS = {"a": 4.0, "b": 1.0, "c": 2.0, "d": 9.0}
COST = {"a": 8.0, "b": 1.0, "c": 3.0, "d": 2.0}


def saved(tensors):
    return sum(COST[t] for t in tensors)


def test_the_least_loss_for_what_is_saved_goes_first():
    order = list(removal_order(list(LOSS), lambda some: sum(LOSS[t] for t in some), saved))
    assert order == [("a",), ("a", "c"), ("a", "c", "b"), ("a", "c", "b", "d")]


def test_losses_are_measured_together():
    """Without a, b costs more than all others: it goes last, though it lost least alone."""

    def loss(some):
        return sum(LOSS[t] for t in some) + (50 if {"a", "b"} <= set(some) else 0)

    assert list(removal_order(list(LOSS), loss, saved))[-1] == ("a", "c", "d", "b")


def test_what_saves_nothing_or_can_not_go_along_is_left_out():
    order = list(
        removal_order(
            list(LOSS),
            lambda some: sum(LOSS[t] for t in some),
            lambda some: saved(set(some) - {"d"}),
            lambda some: not {"a", "c"} <= set(some),
        )
    )
    assert order == [("a",), ("a", "b")]


class Widths:
    """Eight units that cost one each, beside branches."""

    name, unit, tolerance = "units", "units", 0.0

    def __init__(self, fixed):
        self.fixed = fixed

    def total(self, widths):
        return self.fixed + widths.get("g0", 8)

    def table(self, widths, levels):
        return {g: self.fixed + own.astype(float) for g, own in levels.items()}


@pytest.mark.parametrize(("weight", "blocks"), [(0.1, 0), (10.0, 2)])
def test_the_number_of_branches_is_the_one_that_loses_least(weight, blocks):
    """Two branches of four units each: they go where units are dear, and stay where units are cheap."""
    names = {"p": 1.0, "q": 3.0}

    def loss(some):
        return sum(names[t] for t in some)

    found = options_of(
        [("p",), ("p", "q")],
        loss,
        lambda some: frozenset(some),
        {"g0": Group("g0", "channel", True, [[np.zeros(1, np.int32)] * 8], [("w", 0)])},
        {"g0": weight * np.arange(8.0)},
        {"g0": np.arange(1, 9)},
        lambda gone: [Limit(Widths(8 - 4 * len(gone)), 9.0)],
        lambda some, widths: loss(some) + weight * (8 - widths.get("g0", 8)),
    )
    best = min(found, key=lambda o: o.loss)
    assert len(best.tensors) == blocks
    assert best.widths["g0"] == 1 + 4 * blocks - (blocks == 2)


def test_out_of_reach_is_no_option():
    found = options_of(
        [("p",)],
        lambda some: float(len(some)),
        lambda some: frozenset(some),
        {"g0": Group("g0", "channel", True, [[np.zeros(1, np.int32)] * 8], [("w", 0)])},
        {"g0": np.arange(8.0)},
        {"g0": np.arange(1, 9)},
        lambda gone: [Limit(Widths(0 if gone else 8), 8.0)],
        lambda some, widths: 1.0,
    )
    assert [(o.widths is None, np.isinf(o.loss)) for o in found] == [(True, True), (False, False)]
