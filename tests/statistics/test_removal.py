"""Removal: what units that go do to the model's output when those that stay stand in for them."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.budget.curves import calibrated, probed
from onnxprune.calibrate.batch import Batch, Samples, held_out, splits
from onnxprune.io.constants import constant_array
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.session import run
from onnxprune.select.allocate import Options, ranked
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.statistics.channels import channel_statistics
from onnxprune.statistics.removal import SAMPLES, removal_effects
from onnxprune.statistics.shrinkage import best_guess, damped
from onnxprune.surgery.apply import stored_weights
from tests.models_text import ints, make
from tests.statistics.test_sensitivity import branches, samples

OPSETS = [helper.make_opsetid("", 21)]


class Case:
    """Two branches of 8 units whose outputs are added, the second one scaled."""

    def __init__(self, factor, x):
        self.prepared, self.groups = analysed(branches(factor), width=False, shapes=None)
        self.given = samples(x)
        self.statistics = channel_statistics(self.prepared.model, self.groups, self.given, apart=splits(self.given))
        self.groups_by_weight = {g.members[0][0]: g for g in self.groups.groups}
        held = stored_weights(self.groups.trace.graph)
        self.weights = {n: np.asarray(constant_array(held[n]), np.float64) for n in ("wa", "va", "wb", "vb")}

    def classes(self, weight, units):
        return np.concatenate([self.groups_by_weight[weight].buckets[0][k] for k in units])

    def effects(self, **removed):
        asked = {g: [self.classes(w, units) for w, units in parts] for g, parts in removed.items()}
        return removal_effects(self.prepared.model, self.groups, self.given, self.statistics, asked)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((SAMPLES, 6)).astype(np.float32)


def test_the_error_is_that_of_the_best_linear_guess(x):
    case = Case(1.0, x)
    held = np.concatenate([held_out(b) for b in case.given.batches])
    assert splits(case.given) and 0 < held.sum() < len(x)
    hidden = np.maximum(x.astype(np.float64) @ case.weights["wa"], 0)
    covariance = damped(np.cov(hidden[~held].T, bias=True), int((~held).sum()))
    gone, kept = [1, 4], [0, 2, 3, 5, 6, 7]
    guess = np.linalg.solve(covariance[np.ix_(kept, kept)], covariance[np.ix_(kept, gone)])
    centred = (hidden - hidden[~held].mean(axis=0))[held]
    lost = (centred[:, kept] @ guess - centred[:, gone]) @ case.weights["va"][gone]
    dense = (hidden @ case.weights["va"] + np.maximum(x @ case.weights["wb"], 0) @ case.weights["vb"])[held]
    found = case.effects(a=[("wa", gone)])["a"][0]
    assert found == pytest.approx(np.square(lost).sum() / np.square(dense).sum(), rel=1e-3)


def wide(x, gone):
    """Error of the output without some of 48 channels that have nothing to do with each other."""
    rng = np.random.default_rng(1)
    stored = {"eye": np.eye(48), "v": rng.standard_normal((48, 8))}
    nodes = [helper.make_node("MatMul", ["x", "eye"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 16, size]) for n, size in (("x", 48), ("y", 8))]
    weights = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos[:1], infos[1:], weights), ir_version=10, opset_imports=OPSETS
    )
    prepared, groups = analysed(model, width=False, shapes=None)
    given, group = samples(x), groups.groups[0]
    ids = np.concatenate([group.buckets[0][k] for k in gone])

    def effect(apart):
        statistics = channel_statistics(prepared.model, groups, given, apart=apart)
        return removal_effects(prepared.model, groups, given, statistics, {group.id: [ids]})[group.id][0]

    return effect(True), effect(False)


def test_few_samples_do_not_make_channels_seem_to_stand_in_for_each_other():
    x = np.random.default_rng(0).standard_normal((96, 1, 48)).astype(np.float32)
    apart, within = wide(np.repeat(x, 16, axis=1), range(24))  # many rows that say the same
    assert apart > 0.45, "half of what is independent is half of the output"
    assert within < 0.8 * apart


def test_more_units_lose_more_and_a_faint_branch_loses_little(x):
    case = Case(0.1, x)
    found = case.effects(a=[("wa", range(n)) for n in (2, 5, 7)], b=[("wb", range(n)) for n in (2, 5, 7)])
    assert found["a"] == sorted(found["a"]) and found["a"][0] < 0.5 * found["a"][-1]
    strong = Case(1.0, x).effects(b=[("wb", range(n)) for n in (2, 5, 7)])
    assert all(faint < 0.05 * b for faint, b in zip(found["b"], strong["b"], strict=True))


def test_a_copy_of_another_unit_is_no_loss():
    model = branches(1.0)
    tensor = next(t for t in model.graph.initializer if t.name == "wa")
    array = numpy_helper.to_array(tensor).copy()
    array[:, 3] = array[:, 5]
    tensor.CopyFrom(numpy_helper.from_array(array, "wa"))
    prepared, groups = analysed(model, width=False, shapes=None)
    group = next(g for g in groups.groups if g.members[0][0] == "wa")
    many = np.random.default_rng(1).standard_normal((4000, 6)).astype(np.float32)
    statistics = channel_statistics(prepared.model, groups, samples(many))
    asked = {"copy": [group.buckets[0][3]], "other": [group.buckets[0][0]]}
    found = removal_effects(prepared.model, groups, samples(many), statistics, asked)
    assert found["copy"][0] < 0.01 * found["other"][0]


def test_few_rows_of_channels_without_structure_say_nothing():
    noise = np.random.default_rng(0).standard_normal((24, 16))
    drawn = damped(np.cov(noise.T), 24)
    assert np.abs(drawn - np.diag(np.diagonal(drawn))).max() < 0.2 * np.diagonal(drawn).max()


def test_few_rows_of_channels_along_few_directions_say_much():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((24, 2)) @ rng.standard_normal((2, 16))
    covariance = np.cov(rows.T)
    off = ~np.eye(16, dtype=bool)
    assert np.abs(damped(covariance, 24) - covariance)[off].max() < 0.2 * np.abs(covariance).max()


def test_curves_follow_what_was_measured(x):
    """A curve with measured sensitivities gives exactly those errors where it was measured."""
    case = Case(1.0, x)
    scores = score(ScoreContext(case.groups, case.statistics), "obs")
    choices = ranked(case.groups, Options(criterion="obs"), scores)
    for group, counts in probed(choices, scores.curves).items():
        errors = [0.01 * n**2 for n in counts]
        curve = calibrated(scores.curves[group], counts, errors)
        assert curve.effect[counts] == pytest.approx(errors)
        assert curve.effect[0] == 0


# ---- recurrent nodes ----

STACKED = """(float[7, N, 5] x) => (float[7, N, 3] y) {
  a, last = GRU <hidden_size = 8, linear_before_reset = INSIDE> (x, w1, r1, b1)
  b = Squeeze (a, one)
  y4, z = GRU <hidden_size = 3> (b, w2, r2)
  y = Squeeze (y4, one)
}"""


def stacked(inside):
    sizes = {"w1": (1, 24, 5), "r1": (1, 24, 8), "b1": (1, 48), "w2": (1, 9, 8), "r2": (1, 9, 3)}
    return make(STACKED.replace("INSIDE", str(inside)), {**sizes, "one": ints(1)})


@pytest.mark.parametrize("inside", [0, 1], ids=["reset before", "reset behind"])
def test_what_only_recurrent_nodes_read_is_measured_with_errors_that_build_up(inside):
    """The error is that of the model whose R, B and W got the guess, run as it is."""
    model = stacked(inside)
    prepared, groups = analysed(model, width=False, shapes=None)
    x = np.random.default_rng(0).standard_normal((96, 7, 1, 5)).astype(np.float32)
    given = Samples([Batch({"x": np.concatenate(x, axis=1)}, len(x))], len(x), "test", False, None)
    statistics = channel_statistics(prepared.model, groups, given)
    group = next(g for g in groups.groups if ("r1", 2) in g.members)
    gone = np.isin(np.arange(8), [1, 4, 6])
    ids = np.concatenate([group.buckets[0][k] for k in np.flatnonzero(gone)])
    found = removal_effects(prepared.model, groups, given, statistics, {group.id: [ids]})[group.id][0]
    s = next(s for s in statistics if s.labels.size == 8 and s.tensor == "b")
    guess, shift = best_guess(s.mean, s.covariance, s.rows, gone)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    held = {t.name: t for t in changed.graph.initializer}
    arrays = {n: numpy_helper.to_array(t).copy() for n, t in held.items()}
    lost = arrays["r1"][0][:, gone] @ shift
    for name in ("r1", "w2"):
        arrays[name][0][:, ~gone] += arrays[name][0][:, gone] @ guess.T
    if not inside:  # the last gate reads states times another gate
        about_zero, _ = best_guess(0 * s.mean, s.covariance + np.outer(s.mean, s.mean), s.rows, gone)
        arrays["r1"][0][16:, ~gone] += arrays["r1"][0][16:, gone] @ (about_zero - guess).T
        lost[16:] = 0
    shifted = numpy_helper.to_array(held["w2"])[0][:, gone] @ shift
    arrays["r1"][0][:, gone] = arrays["w2"][0][:, gone] = 0
    arrays["b1"][0, 24:] += lost
    for name in ("r1", "w2", "b1"):
        held[name].CopyFrom(numpy_helper.from_array(arrays[name].astype(np.float32), name))
    changed.graph.initializer.append(
        numpy_helper.from_array(np.concatenate([shifted, np.zeros(9)])[None].astype(np.float32), "b2")
    )
    next(n for n in changed.graph.node if "w2" in n.input).input.append("b2")
    (dense,), (after,) = (run(m, given.batches[0].feeds, ["y"]) for m in (model, changed))
    assert found == pytest.approx(np.square(after - dense).sum() / np.square(dense).sum(), rel=1e-3)
