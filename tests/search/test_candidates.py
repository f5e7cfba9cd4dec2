import random
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from onnxprune.budget.targets import Target
from onnxprune.jobs.cluster import Inline
from onnxprune.jobs.log import Log
from onnxprune.jobs.worker import perform
from onnxprune.search.candidates import LAG, LevelSwitches, Population, evolve


@pytest.fixture(params=["macs", "params", "size"])
def population(study, request):
    widths, budget = study.spend(Target(request.param, 0.6, True))
    return Population(widths, budget.limits(), np.random.default_rng(3))


def test_switches_keep_the_limit_and_are_all_different(study, population):
    switches = LevelSwitches(study.levels, study.loss)
    seen = []
    while not population.full(24):
        assert population.ready
        widths = switches.propose(population)
        if widths is None:
            continue
        assert all(n in study.levels[g].tolist() for g, n in widths.items())
        for limit in population.limits:
            assert limit.cost.total(widths) <= limit.most * (1 + 1e-9)
        assert max(limit.share(widths) for limit in population.limits) > 0.6  # spent, not saved
        population.errors[tuple(sorted(widths.items()))] = float(len(seen))
        seen.append(widths)
    assert seen[0] == population.start
    keys = {tuple(sorted(w.items())) for w in seen}
    assert len(keys) == len(seen) > 12


class Shuffled:
    """Four workers that finish in a random order."""

    workers = 4

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def share(self, value, *, again=False):
        return value

    def submit(self, function, shared, arguments, *, timed):
        future, answer = Future(), perform(function, shared, arguments, timed=timed)
        threading.Timer(self.rng.random() * 0.03, future.set_result, [answer]).start()
        return future

    def lost(self, error):
        return False

    def close(self):
        pass


def evolved(study, cluster, log=None, count=30):
    widths, budget = study.spend(Target("macs", 0.5, True))
    populations = [Population(widths, budget.limits(), np.random.default_rng([0, k])) for k in range(2)]
    evolve(study, study.judging(study.shared()), populations, count, cluster, log)
    return populations


def test_what_is_found_follows_from_the_seed_not_from_who_finishes_first(study, tmp_path):
    with Log(tmp_path / "log") as log:
        one = evolved(study, Inline(), log)
        written = len(log)
        again = evolved(study, Inline(), log)
        assert len(log) == written  # the same candidates: nothing new
    other = evolved(study, Shuffled(1))
    for a, b, c in zip(one, again, other, strict=True):
        assert a.errors == b.errors == c.errors
        assert a.best == b.best == c.best
    assert set(one[0].errors) != set(one[1].errors)


def test_the_best_is_no_worse_than_the_knapsack_and_really_has_its_error(study):
    found = evolved(study, Inline())[0]
    start = found.errors[tuple(sorted(found.start.items()))]
    least = min(found.errors.values())
    assert least < start  # this network is far from additive
    from onnxprune.search.shared import bench

    assert bench(study.judging(study.shared())).output_error.of(study.removed(found.best)) == pytest.approx(least, rel=1e-6)


def test_candidates_that_can_not_be_run_are_not_the_best():
    population = Population({"a": 4}, [], np.random.default_rng(0))
    population.errors = {(("a", 1),): float("inf"), (("a", 2),): float("inf")}
    assert population.best == {"a": 4}
    population.errors[(("a", 3),)] = 0.5
    assert population.best == {"a": 3}


def test_a_group_of_one_level_and_a_limit_that_nothing_fits_change_nothing(study):
    switches = LevelSwitches({"g0": np.array([3])}, lambda widths: 0.0)
    population = Population({"g0": 3}, [], np.random.default_rng(0))
    assert switches.propose(population) == {"g0": 3}
    population.errors[(("g0", 3),)] = 1.0
    while not population.full(5):
        assert switches.propose(population) is None
    assert len(population.proposed) == LAG + 1


def test_candidates_follow_from_those_far_enough_before_them(study, population):
    switches = LevelSwitches(study.levels, study.loss)
    for _ in range(LAG):
        assert population.ready  # results of none are needed
        switches.propose(population)
    assert population.before == [population.proposed[0]] and not population.ready
    population.errors[population.proposed[0]] = 0.0
    assert population.ready
