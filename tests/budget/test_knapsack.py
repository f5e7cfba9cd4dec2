"""The knapsack against all choices there are."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.budget.knapsack import knapsack


def best(losses, costs, budget):
    """The least loss by trying everything."""
    picks = product(*(range(len(own)) for own in losses))
    fitting = [p for p in picks if sum(c[k] for c, k in zip(costs, p, strict=True)) <= budget]
    return min((sum(x[k] for x, k in zip(losses, p, strict=True)) for p in fitting), default=None)


def of(values, picks):
    return sum(float(own[k]) for own, k in zip(values, picks, strict=True))


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    number = st.integers(0, 20)
    losses = [np.array(draw(st.lists(number, min_size=n, max_size=n)), float) for n in sizes]
    costs = [np.array(draw(st.lists(number, min_size=n, max_size=n)), float) for n in sizes]
    least, most = sum(c.min() for c in costs), sum(c.max() for c in costs)
    return losses, costs, float(draw(st.integers(int(least), int(most) + 1)))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_whole_numbers_are_solved_exactly(problem):
    losses, costs, budget = problem
    spare = int(budget - sum(c.min() for c in costs))
    picks = knapsack(losses, costs, budget, bins=max(spare, 1))
    assert of(costs, picks) <= budget
    assert of(losses, picks) == best(losses, costs, budget)


@pytest.mark.parametrize("seed", range(8))
def test_real_numbers_are_solved_up_to_the_steps(seed):
    rng = np.random.default_rng(seed)
    costs = [rng.random(6) for _ in range(5)]
    losses = [rng.random(6) * (1.2 - c) for c in costs]
    budget = sum(c.min() for c in costs) + rng.uniform(0.2, 2)
    bins = 400
    picks = knapsack(losses, costs, budget, bins)
    assert of(costs, picks) <= budget
    assert best(losses, costs, budget) <= of(losses, picks) <= best(losses, costs, budget * (1 - len(costs) / bins))


def test_less_than_the_cheapest_is_refused():
    with pytest.raises(ValueError, match="cheapest"):
        knapsack([np.array([1.0, 0.0])], [np.array([2.0, 3.0])], 1.9)


def test_no_room_at_all_takes_the_cheapest():
    assert knapsack([np.array([0.0, 1.0]), np.array([0.0, 1.0])], [np.array([3.0, 2.0]), np.array([3.0, 2.0])], 4.0) == [
        1,
        1,
    ]


def test_a_hundred_groups_take_less_than_a_second_of_processor():
    rng = np.random.default_rng(0)
    losses = [np.sort(rng.random(64))[::-1] for _ in range(100)]
    costs = [np.sort(rng.random(64)) for _ in range(100)]
    start = time.process_time()
    picks = knapsack(losses, costs, 40.0, bins=2000)
    assert time.process_time() - start < 1
    assert 39.9 < of(costs, picks) <= 40
