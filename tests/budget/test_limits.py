"""Limits that are asked for again: found between results that are known."""

import pytest

from onnxprune.budget.targets import parse_target
from onnxprune.errors import BudgetError
from onnxprune.pipeline.budget import ROUNDS, Budget


class Measured:
    """A setting whose latency is what it is told, of a source of 1."""

    tolerance, unit = 0.02, "ms"

    def __init__(self, share):
        self.share = share

    def cost(self, quantity):
        return self

    def of_source(self, quantity):
        return 1.0

    def measure(self, model, alive):
        return self.share


def asked(truth, wanted=0.6):
    """What comes of the limits of a cost of 1 that is told wrongly: a result for each round, until one is near."""
    target = parse_target(f"latency={wanted}")
    budget = Budget(Measured(1.0), None, None, [target])
    found = []
    while len(found) < ROUNDS and not (found and 0.97 * wanted <= found[-1] <= 1.03 * wanted):
        limit = budget._limit(target)
        assert 0 < limit < 1, "with the whole source nothing would go"
        found.append(truth(limit))
        budget._tried.setdefault("latency", []).append((limit, found[-1]))
    return found


@pytest.mark.parametrize(
    "truth",
    [
        lambda limit: limit,
        lambda limit: 1 - 1.6 * (1 - limit),  # everything that goes saves more than was told
        lambda limit: 1 - 0.7 * (1 - limit),
        lambda limit: limit**2,
        lambda limit: 0.3 + 0.7 * limit,  # a part that nothing saves
    ],
)
def test_three_rounds_are_enough_where_the_cost_is_told_wrongly(truth):
    assert asked(truth)[-1] == pytest.approx(0.6, rel=0.03)


def test_a_result_far_off_does_not_hold_the_others():
    """The narrowest widths take far less than was told, all others more."""
    target = parse_target("latency=0.6")
    budget = Budget(Measured(1.0), None, None, [target], _tried={"latency": [(0.5, 0.1)]})
    for _ in range(ROUNDS):
        limit = budget._limit(target)
        budget._tried["latency"].append((limit, limit + 0.06))
    assert budget._tried["latency"][-1][1] == pytest.approx(0.6, rel=0.03)


def test_more_than_the_source_is_never_asked_for():
    for results in ([0.2, 0.9, 0.6], [0.1, 0.2, 0.3], [0.05, 1.4, 0.1]):
        noisy = iter(results)
        assert len(asked(lambda limit, noisy=noisy: next(noisy))) == ROUNDS


def refused(share, *, closest=False):
    """The narrowest widths were expected to take 0.66 of the source, at a target of 0.6."""
    budget = Budget(Measured(share), None, None, [parse_target("latency=0.6")], closest, rounds=1)
    budget._refused, budget._expected = "out of reach", {"latency": 0.66}
    return budget


def test_what_is_expected_of_the_narrowest_widths_is_measured_before_a_target_is_refused():
    budget = refused(0.4)
    assert budget.off(None, None) and budget.rounds == 0
    assert 0.66 < budget._limit(budget.targets[0]) < 0.83, "less goes than of the narrowest, by the line to the source"
    assert not refused(0.6).off(None, None), "near enough"
    with pytest.raises(BudgetError, match="out of reach; measured: 700us"):
        refused(0.7).off(None, None)
    kept = refused(0.7, closest=True)
    assert not kept.off(None, None) and kept.unmet.startswith("out of reach")


def test_a_result_within_the_target_is_kept_where_later_ones_are_not():
    setting = Measured(0.0)
    budget = Budget(setting, None, None, [parse_target("latency=0.6")])
    found = []
    for share, expected in ((0.3, 0.5), (0.7, 0.8), (0.65, 0.75)):
        setting.share, budget.rounds, budget._expected = share, budget.rounds + 1, {"latency": expected}
        again = budget.off(None, None)
        found.append(budget.best(share))
    assert found == [0.3, 0.7, 0.3] and not again
    budget.judge()
    assert budget.found["latency"].after == 0.3 and not budget.unmet


def test_a_result_that_is_off_once_it_is_repaired_is_not_kept():
    budget = Budget(Measured(0.6), None, None, [parse_target("latency=0.6")], rounds=1)
    budget.off(None, None)
    one, other = object(), object()
    assert budget.best(one) is one
    budget.forget(one)
    budget.setting.share, budget.rounds = 0.7, ROUNDS
    budget.off(None, None)
    assert budget.best(other) is other


def test_a_limit_that_stopped_nothing_is_not_raised():
    """Much less was expected of what lost least than the target allows, and much less came of it."""
    budget = Budget(Measured(0.42), None, None, [parse_target("latency=0.6")], rounds=1)
    budget._expected = {"latency": 0.4}
    assert not budget.off(None, None)
    budget = Budget(Measured(0.42), None, None, [parse_target("latency=0.6")], rounds=1)
    budget._expected = {"latency": 0.58}
    assert budget.off(None, None)
