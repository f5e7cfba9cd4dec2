"""Allocation within limits, on costs that are products of widths."""

from itertools import product

import numpy as np
import pytest

from onnxprune.budget.allocation import Limit, OutOfReachError, allocate_within

UNITS = 8
GROUPS = ("a", "b", "c")


class Chain:
    """Layers in a row: each costs the product of both its widths, times a size."""

    unit, tolerance = "MACs", 0.0

    def __init__(self, sizes, name="chain"):
        self.sizes, self.name = sizes, name

    def total(self, widths):
        w = [3, *(widths.get(g, UNITS) for g in GROUPS), 5]
        return float(sum(s * x * y for s, x, y in zip(self.sizes, w, w[1:], strict=False)))

    def table(self, widths, levels):
        return {g: np.array([self.total({**widths, g: int(n)}) for n in own]) for g, own in levels.items()}

    def measure(self, model, alive):
        raise NotImplementedError


def problem(seed):
    rng = np.random.default_rng(seed)
    losses = {
        g: np.concatenate([[0.0], np.cumsum(np.sort(rng.exponential(rng.uniform(0.2, 5), UNITS - 1)))]) for g in GROUPS
    }
    levels = {g: np.arange(1, UNITS + 1) for g in GROUPS}
    return losses, levels, rng


def best(losses, limits):
    every = (dict(zip(GROUPS, w, strict=True)) for w in product(range(1, UNITS + 1), repeat=len(GROUPS)))
    fitting = [w for w in every if all(limit.share(w) <= 1 for limit in limits)]
    return min(sum(losses[g][UNITS - n] for g, n in w.items()) for w in fitting)


def test_close_to_the_best_of_all_widths():
    """Costs are no sums over groups, so nothing promises the best; it is found, or missed by little."""
    ratios = []
    for seed in range(12):
        losses, levels, rng = problem(seed)
        cost = Chain(rng.integers(1, 10, 4))
        limits = [Limit(cost, rng.uniform(0.3, 0.8) * cost.total({}))]
        found = allocate_within(losses, levels, limits)
        assert limits[0].share(found.widths) <= 1 + 1e-9
        assert found.loss == pytest.approx(sum(losses[g][UNITS - n] for g, n in found.widths.items()))
        ratios.append(found.loss / max(best(losses, limits), 1e-9))
    assert np.median(ratios) == pytest.approx(1) and max(ratios) < 1.2


def test_several_limits_hold_at_once():
    ratios = []
    for seed in range(8):
        losses, levels, rng = problem(seed)
        costs = [Chain(rng.integers(1, 10, 4), name) for name in ("macs", "latency")]
        limits = [Limit(c, rng.uniform(0.4, 0.7) * c.total({})) for c in costs]
        found = allocate_within(losses, levels, limits)
        assert all(limit.share(found.widths) <= 1 + 1e-9 for limit in limits)
        ratios.append(found.loss / max(best(losses, limits), 1e-9))
    assert max(ratios) < 1.3


def test_widths_are_levels_and_floors_hold():
    losses, _, _ = problem(0)
    levels = {"a": np.array([4, 8]), "b": np.array([2, 4, 6, 8]), "c": np.array([8])}
    cost = Chain([1, 1, 1, 1])
    found = allocate_within(losses, levels, [Limit(cost, 0.6 * cost.total({}))])
    assert all(n in levels[g] for g, n in found.widths.items())


def test_a_limit_below_the_floors_is_out_of_reach():
    losses, levels, _ = problem(0)
    cost = Chain([1, 1, 1, 1])
    least = cost.total(dict.fromkeys(GROUPS, 1))
    assert allocate_within(losses, levels, [Limit(cost, least)]).widths == dict.fromkeys(GROUPS, 1)
    with pytest.raises(OutOfReachError):
        allocate_within(losses, levels, [Limit(cost, least * 0.99)])


def test_nothing_goes_where_nothing_has_to():
    losses, levels, _ = problem(0)
    cost = Chain([1, 1, 1, 1])
    assert allocate_within(losses, levels, [Limit(cost, cost.total({}))]).widths == dict.fromkeys(GROUPS, UNITS)


def test_the_same_every_time():
    losses, levels, _ = problem(3)
    cost = Chain([1, 2, 3, 4])
    limits = [Limit(cost, 0.5 * cost.total({}))]
    assert allocate_within(losses, levels, limits) == allocate_within(losses, levels, limits)


def test_without_limits_nothing_goes():
    losses, levels, _ = problem(0)
    assert allocate_within(losses, levels, []).widths == dict.fromkeys(GROUPS, UNITS)
