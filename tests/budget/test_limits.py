"""Limits that are asked for again: found between results that are known."""

import pytest

from onnxprune.budget.targets import parse_target
from onnxprune.pipeline.budget import ROUNDS, Budget


def asked(truth, wanted=0.6):
    """What comes of the limits of a cost of 1 that is told wrongly: a result for each round, until one is near."""
    target = parse_target(f"latency={wanted}")
    budget = Budget(None, None, None, [target], dense={"latency": 1.0})
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


def test_more_than_the_source_is_never_asked_for():
    for results in ([0.2, 0.9, 0.6], [0.1, 0.2, 0.3], [0.05, 1.4, 0.1]):
        noisy = iter(results)
        assert len(asked(lambda limit, noisy=noisy: next(noisy))) == ROUNDS
