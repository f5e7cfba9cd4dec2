"""Criteria that look at activations, on statistics made by hand; elimination against brute force."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.api import analyze
from onnxprune.select import elimination
from onnxprune.select.allocate import Options, allocate
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import criteria, find, score
from onnxprune.select.elimination import DAMPING
from onnxprune.statistics.channels import ChannelStatistics
from tests.models_text import make as make_text
from tests.select.conftest import ATTENTION, CHAIN, make

NEEDS_DATA = ["act-mean", "act-variance", "apoz", "flap", "obs", "wanda"]
LAYERS = "(float[3, 2] x) => (float[3, 2] y) { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"


@dataclass(frozen=True)
class Statistics(ChannelStatistics):
    """With the samples behind it."""

    samples: np.ndarray


def measured(labels, samples, *weights) -> Statistics:
    samples = np.asarray(samples, np.float64)
    centred = samples - samples.mean(0)
    covariance = centred.T @ centred / len(samples)
    zeros = (samples <= 0).mean(0)
    matrices = [np.asarray(w, np.float64) for w in weights]
    labels = np.asarray(labels, np.int32)
    many = 10**9 * len(samples)  # so many rows that correlations count in full
    return Statistics("b", labels, many, samples.mean(0), covariance, zeros, matrices, samples)


def layers(n: int):
    """Groups of a model with one hidden layer of n channels, and the labels of its channels."""
    w = np.random.default_rng(1).standard_normal((2, n)).astype(np.float32)
    groups = analyze(make_text(LAYERS, {"w": w, "v": (n, 2)}))
    assert [g.units for g in groups.groups] == [n]
    return groups, groups.trace.weights["w"].labels[1]


def only(groups, statistics, name) -> np.ndarray:
    ((values,),) = score(ScoreContext(groups, statistics), name)
    return values


def test_these_need_data():
    assert [name for name in criteria() if find(name).needs_data] == NEEDS_DATA


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("act-mean", [1, 2, 0]),
        ("act-variance", [4, 0, 1]),
        ("apoz", [0.5, 0, 0.5]),
        ("wanda", [3 * 5**0.5, 2 * 2, 2 * 1]),
        ("flap", [4 * (1 + 4), 0, 1 * 2]),
    ],
)
def test_by_hand(name, expected):
    groups, labels = layers(3)
    samples = [[3, -2, 1], [-1, -2, -1]]
    statistics = measured(labels, samples, [[1, -2], [2, 0], [-1, 1]])
    np.testing.assert_allclose(only(groups, [statistics], name), expected)
    np.testing.assert_allclose(only(groups, [statistics, statistics], name), 2 * np.array(expected))


@pytest.mark.parametrize("name", ["wanda", "flap"])
def test_weights_that_read_one_tensor_add_up(name):
    groups, labels = layers(3)
    rng = np.random.default_rng(0)
    samples, one, two = rng.standard_normal((9, 3)), rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    both = only(groups, [measured(labels, samples, one, two)], name)
    apart = only(groups, [measured(labels, samples, one)], name) + only(groups, [measured(labels, samples, two)], name)
    np.testing.assert_allclose(both, apart)


def test_flattened_channels_add_up_and_foreign_ones_are_passed_over():
    groups, labels = layers(2)
    statistics = measured([labels[1], -1, labels[0], labels[1]], [[1, 100, 3, 5], [1, 100, 3, 5]], np.ones((4, 1)))
    np.testing.assert_allclose(only(groups, [statistics], "act-mean"), [3, 6])


# ---- obs ----


def brute_force(tensors, members, buckets):
    """Least squares with the ridge as extra rows, for every candidate anew: order, cost at each step, total."""
    problems, total = [], 0.0
    for s in tensors:
        centred = (s.samples - s.samples.mean(0)) / np.sqrt(len(s.samples))
        ridge = np.sqrt(DAMPING * np.square(centred).sum(0).mean())
        total += sum(np.square(centred @ w).sum() for w in s.weights)
        problems.append((np.vstack([centred, ridge * np.eye(centred.shape[1])]), np.hstack(s.weights)))

    def cost(removed: list[int]) -> float:
        value = 0.0
        for t, (a, w) in enumerate(problems):
            gone = [c for k in removed for c in members[k][t]]
            kept = [c for c in range(a.shape[1]) if c not in gone]
            found = np.linalg.lstsq(a[:, kept], a @ w, rcond=None)[0]
            value += np.square(a @ w - a[:, kept] @ found).sum()
        return value

    removed, steps = [], [0.0]
    while len(removed) < len(members):
        for bucket in buckets:
            left = [k for k in bucket if k not in removed]
            if left:
                best = min(left, key=lambda k: cost([*removed, k]))
                removed.append(best)
                steps.append(cost(removed))
    return removed, np.diff(steps), total


@pytest.mark.parametrize("delay", [1, 3, 64])
def test_obs_is_least_squares_elimination(monkeypatch, delay):
    monkeypatch.setattr(elimination, "_DELAY", delay)
    rng = np.random.default_rng(0)
    groups, labels = layers(7)
    samples = rng.standard_normal((50, 7)) @ rng.standard_normal((7, 7)) + 5
    statistics = measured(labels, samples, rng.standard_normal((7, 3)), rng.standard_normal((7, 2)))
    order, steps, total = brute_force([statistics], [[[k]] for k in range(7)], [range(7)])
    scores = score(ScoreContext(groups, [statistics]), "obs")
    assert np.argsort(scores[0][0]).tolist() == order
    np.testing.assert_allclose(np.sort(scores[0][0]), np.maximum.accumulate(steps))
    curve = scores.curves["g0"]
    np.testing.assert_allclose(curve.cost, [0, *np.cumsum(steps)[:-1]], atol=1e-12)
    assert curve.covered == 1 and curve.total == pytest.approx(total)
    np.testing.assert_allclose(curve.relative, curve.cost / total)


@pytest.mark.parametrize("delay", [2, 64])
def test_obs_over_several_tensors_with_several_channels_each(monkeypatch, delay):
    """The second tensor holds channel 0 three times and channel 2 not at all, and a channel that is no unit's."""
    monkeypatch.setattr(elimination, "_DELAY", delay)
    rng = np.random.default_rng(3)
    groups, labels = layers(4)
    one = measured(labels, rng.standard_normal((40, 4)) @ rng.standard_normal((4, 4)), rng.standard_normal((4, 5)))
    places = [0, 3, -1, 0, 1, 0, 3]
    mixed = rng.standard_normal((40, 7)) @ rng.standard_normal((7, 7))
    two = measured([labels[k] if k >= 0 else -1 for k in places], mixed, rng.standard_normal((7, 2)))
    members = [[[k], [c for c, own in enumerate(places) if own == k]] for k in range(4)]
    order, steps, _ = brute_force([one, two], members, [range(4)])
    found = only(groups, [one, two], "obs")
    assert np.argsort(found).tolist() == order
    np.testing.assert_allclose(np.sort(found), np.maximum.accumulate(steps))


def heads_and_statistics(count: int):
    groups = analyze(make(ATTENTION))
    rng = np.random.default_rng(2)
    labels = groups.trace.weights["wo"].labels[0]
    samples = rng.standard_normal((60, 16)) @ rng.standard_normal((16, 16))
    return groups, [measured(labels, samples, rng.standard_normal((16, 10)))][:count]


def test_obs_of_heads():
    groups, statistics = heads_and_statistics(1)
    k = next(k for k, g in enumerate(groups.groups) if g.kind == "heads")
    order, steps, _ = brute_force(statistics, [[range(4 * h, 4 * h + 4)] for h in range(4)], [range(4)])
    scores = score(ScoreContext(groups, statistics), "obs")
    assert np.argsort(scores[k][0]).tolist() == order
    np.testing.assert_allclose(np.sort(scores[k][0]), np.maximum.accumulate(steps))


def test_obs_takes_one_of_each_bucket_in_turn():
    """Dimensions of v: four buckets of four, which share one covariance."""
    groups, statistics = heads_and_statistics(1)
    k, group = next((k, g) for k, g in enumerate(groups.groups) if g.kind == "head-dim" and ("wv", 1) in g.members)
    classes = groups.classes.of_label[statistics[0].labels]
    members = [[np.flatnonzero(np.isin(classes, unit))] for bucket in group.buckets for unit in bucket]
    order, steps, _ = brute_force(statistics, members, [range(4 * b, 4 * b + 4) for b in range(4)])
    scores = score(ScoreContext(groups, statistics), "obs")
    for b, bucket in enumerate(scores[k]):
        assert np.argsort(bucket).tolist() == [e - 4 * b for e in order if e // 4 == b]
    np.testing.assert_allclose(scores.curves[group.id].cost, [0, *np.cumsum(steps)[3::4][:3]], atol=1e-12)


def test_what_no_statistics_know_gets_its_l2_score():
    """Query and key are read by no weight; of the channels of one group the known ones set the scale of the others."""
    groups, statistics = heads_and_statistics(1)
    l2 = score(ScoreContext(groups), "l2")
    for name in NEEDS_DATA:
        scores = score(ScoreContext(groups, statistics), name)
        k = next(k for k, g in enumerate(groups.groups) if ("wk", 1) in g.members and g.kind == "head-dim")
        for found, expected in zip(scores[k], l2[k], strict=True):
            np.testing.assert_allclose(found, expected)
        assert groups.groups[k].id not in scores.curves
    groups, labels = layers(4)
    statistics = measured([labels[0], labels[2]], [[1, 2], [1, 2]], np.ones((2, 1)))
    ((norms,),) = score(ScoreContext(groups), "l2")
    found = only(groups, [statistics], "act-mean")
    factor = 3 / (norms[0] + norms[2])
    np.testing.assert_allclose(found, [1, factor * norms[1], 2, factor * norms[3]])


def test_a_curve_tells_how_much_of_the_group_it_knows():
    groups, labels = layers(4)
    rng = np.random.default_rng(0)
    statistics = measured(labels[:3], rng.standard_normal((20, 3)), rng.standard_normal((3, 2)))
    curve = score(ScoreContext(groups, [statistics]), "obs").curves["g0"]
    assert curve.covered == 0.75
    assert curve.cost.shape == (4,) and (np.diff(curve.cost) >= 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((5, 6)),
        np.full((5, 6), 3.0),
        np.eye(3, 6),
        np.outer(np.arange(9.0), [1, 1, 1, 0, 0, 2]),
        np.random.default_rng(0).standard_normal((2, 6)),
    ],
    ids=["dead", "constant", "fewer rows than channels", "equal channels", "two rows"],
)
def test_no_statistics_break_them(samples, scale):
    groups, labels = layers(6)
    weights = np.random.default_rng(0).standard_normal((6, 3))
    for name in NEEDS_DATA:
        with np.errstate(all="raise", under="ignore"):
            scores = score(ScoreContext(groups, [measured(labels, samples * scale, weights)]), name)
        assert np.isfinite(scores[0][0]).all() and (scores[0][0] >= 0).all()
        for curve in scores.curves.values():
            assert np.isfinite(curve.cost).all() and np.isfinite(curve.relative).all()


def test_dead_and_duplicate_channels_go_first():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((200, 6))
    samples[:, 1] = 7
    samples[:, 4] = samples[:, 2]
    groups, labels = layers(6)
    found = only(groups, [measured(labels, samples, rng.standard_normal((6, 4)))], "obs")
    order = np.argsort(found).tolist()
    assert 1 in order[:2] and len({2, 4} & set(order[:2])) == 1
    assert found.min() < 0.05 * np.median(found)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(12)))
@pytest.mark.parametrize("name", NEEDS_DATA)
def test_a_permutation_of_channels_permutes_the_scores(name, order):
    rng = np.random.default_rng(5)
    groups = analyze(make(CHAIN))
    labels = groups.trace.weights["w2"].labels[1]
    samples = rng.standard_normal((30, 12)) @ rng.standard_normal((12, 12)) + rng.standard_normal(12)
    weights = rng.standard_normal((12, 10))
    plain = score(ScoreContext(groups, [measured(labels, samples, weights)]), name)
    order = np.array(order)
    moved = score(ScoreContext(groups, [measured(labels, samples[:, order], weights[order])]), name)
    np.testing.assert_allclose(moved[0][0], plain[0][0][order])


def test_the_allocation_takes_what_goes_first():
    rng = np.random.default_rng(0)
    groups, labels = layers(8)
    context = ScoreContext(groups, [measured(labels, rng.standard_normal((50, 8)), rng.standard_normal((8, 3)))])
    (choice,) = allocate(groups, Options(ratio=0.5, criterion="obs"), context)
    order = np.argsort(score(context, "obs")[0][0])
    assert choice.removed == [sorted(order[:4].tolist())]


def test_ties_keep_the_order_of_elimination():
    """Equal channels without cost: scores still rise strictly in the order in which they go."""
    groups, labels = layers(5)
    statistics = measured(labels, np.zeros((3, 5)), np.zeros((5, 2)))
    found = only(groups, [statistics], "obs")
    assert len(set(found.tolist())) == 5


def test_few_rows_are_not_believed():
    """Twelve channels in ten rows seem to make up for each other; then what each does alone counts."""
    groups, labels = layers(12)
    samples = np.random.default_rng(0).standard_normal((10, 12)) * np.arange(1, 13)
    few = replace(measured(labels, samples, np.ones((12, 3))), rows=10)
    values = only(groups, [few], "obs")
    assert list(np.argsort(values)) == list(np.argsort(samples.var(0)))
    many = replace(few, rows=10_000)
    assert np.sort(only(groups, [many], "obs"))[:3].sum() < 0.5 * np.sort(values)[:3].sum()
