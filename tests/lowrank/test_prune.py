"""Ranks and widths in one knapsack."""

import math

import numpy as np
import pytest

import onnxprune
from onnxprune.budget.kinds import Setting
from onnxprune.budget.targets import read_targets
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import PlanError, UsageError
from onnxprune.io.load import load_model
from onnxprune.latency.cost import Latency
from onnxprune.pipeline.low_rank import LowRankPruning
from onnxprune.proof.check import alive_after
from onnxprune.select.allocate import take
from onnxprune.surgery.apply import apply_alive
from tests.models_text import make

DATA = "models/fashion_mnist.npz"


@pytest.fixture(scope="module")
def vit():
    return load_model("models/vit_legacy.onnx")


@pytest.fixture(scope="module")
def images(vit):
    return read_samples(DATA, vit, samples=64)


@pytest.fixture(scope="module")
def first(vit, images):
    """The pruning that all pairs take part in, as it stands before anything is chosen."""
    held = []
    kept = LowRankPruning.run

    def stop(self):
        held.append(self)
        raise KeyboardInterrupt

    LowRankPruning.run = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            onnxprune.prune(vit, target={"macs": 0.5}, data=images, low_rank=True)
    finally:
        LowRankPruning.run = kept
    held[0].scores()
    return held[0]


@pytest.fixture(scope="module")
def result(vit, images):
    return onnxprune.prune(vit, target={"macs": 0.5}, data=images, low_rank=True)


def setting(pruning):
    return pruning.budget(pruning.known, []).setting


def random_widths(choices, seed):
    rng = np.random.default_rng(seed)
    return {c.group.id: int(rng.integers(1, c.group.units + 1)) for c in choices}


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_pair_costs_what_is_cheaper(first, quantity):
    """Costs are those of the pruned model, but for pairs that cost more than their product."""
    own = setting(first)
    cost = own.cost(quantity)
    plain = Setting(first.source, first.prepared, first.groups, own.choices).cost(quantity)
    seen = set()
    for seed in range(2):
        widths = random_widths(own.choices, seed)
        counts = [c.group.units - widths[c.group.id] for c in own.choices]
        alive = alive_after(first.groups, take(first.groups, own.choices, counts))
        model = apply_alive(first.prepared.model, first.groups, alive)
        sizes = {t.name: math.prod(t.dims) for t in model.graph.initializer}
        ranks = {t.group: widths[t.group] for t in first.twins}
        saved = 0
        for twin in first.twins:
            a, b, r = sizes[twin.first], sizes[twin.second], ranks[twin.group]
            positions = 1 if quantity == "params" else _positions(first, twin)
            saved += positions * max(a + b - a * b // r**2, 0)
            seen.add(a + b > a * b // r**2)
        assert cost.total(widths) == plain.measure(model, alive) - saved
    assert seen == {True, False}


def _positions(pruning, twin):
    """Rows that both nodes multiply, at the traced shapes."""
    shape = pruning.groups.trace.values[twin.inner].sizes
    return math.prod(shape) // shape[twin.axis]


@pytest.mark.parametrize("quantity", ["macs", "params", "size"])
def test_whole_ranks_cost_what_the_source_does(first, vit, quantity):
    whole = first.origin.setting.cost(quantity)
    assert setting(first).cost(quantity).total({}) == pytest.approx(whole.total({}), rel=0 if quantity != "size" else 0.01)


@pytest.mark.parametrize("quantity", ["macs", "params", "size"])
def test_tables_are_totals_with_one_group_changed(first, quantity):
    own = setting(first)
    cost, widths = own.cost(quantity), random_widths(own.choices, 5)
    levels = {c.group.id: np.array([1, c.group.units]) for c in own.choices}
    for group, costs in cost.table(widths, levels).items():
        for width, found in zip(levels[group].tolist(), costs, strict=True):
            assert found == pytest.approx(cost.total({**widths, group: width}), rel=1e-12)


def test_scores_move_to_a_model_with_fewer_pairs(first):
    """Elements keep the scores of their slices, whatever number they have in the other analysis."""
    some = {p.weight for p in first.pairs[::2]}
    smaller = first.without(some)
    assert {p.weight for p in smaller.pairs} == {p.weight for p in first.pairs} - some
    assert len(smaller.groups.groups) == len(first.groups.groups) - len(some)

    def of_slices(pruning):
        found = {}
        slices = pruning.side.slices()
        for group, scores in zip(pruning.groups.groups, pruning.known, strict=True):
            worth = {c: s for bucket, own in zip(group.buckets, scores, strict=True)
                     for unit, s in zip(bucket, own, strict=True) for c in unit.tolist()}  # fmt: skip
            for key, classes in slices.items():
                if worth.keys() & set(classes.tolist()):
                    found[(group.kind, *key)] = [worth.get(c) for c in classes.tolist()]
        return found

    before, after = of_slices(first), of_slices(smaller)
    assert after and all(before[key] == scores for key, scores in after.items())
    assert any(len(set(scores)) > 5 for scores in after.values())
    curves = {g.id for g in smaller.groups.groups} & smaller.known.curves.keys()
    assert len(curves) == len(first.known.curves) - len(some)


def test_the_result_is_proven_and_every_pair_pays(vit, result):
    report = result.report
    assert report.verification.passed and report.low_rank.verification.passed
    assert report.targets[0].met and report.macs_after <= 0.5 * report.macs_before
    assert report.low_rank.tried == 16 and report.low_rank.factored
    sizes = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    for row in report.low_rank.factored:
        first, second = (sizes[f"{row.weight}_low_rank_{end}"] for end in ("in", "out"))
        assert first[1] == second[0] == row.rank
        assert row.params_after == math.prod(first) + math.prod(second) < first[0] * second[1]
    twos = {row.weight for row in report.low_rank.factored}
    assert {n for n in sizes if "low_rank" in n} == {f"{w}_low_rank_{end}" for w in twos for end in ("in", "out")}
    ones = {w.linear.weight for w in _wides(vit)} - twos
    assert ones <= sizes.keys()


def _wides(model):
    from onnxprune.lowrank.candidates import find_wide
    from onnxprune.pipeline.stages import analysed
    from onnxprune.statistics.flow import Flow, lift

    prepared, groups = analysed(model, width=False, shapes=None)
    return find_wide(Flow(lift(prepared.model)), groups.trace.shape_of)[0]


def test_figures_are_of_the_source(vit, images, result):
    plain = onnxprune.prune(vit, target={"macs": 0.5}, data=images)
    for name in ("params_before", "macs_before", "bytes_before"):
        assert getattr(result.report, name) == getattr(plain.report, name)
    assert sum(row.macs_before for row in result.report.layers) == sum(row.macs_before for row in plain.report.layers)
    lost = [r.report.fidelity[0].relative_error for r in (result, plain)]
    assert lost[0] < 0.85 * lost[1]


def test_the_plan_tells_that_it_cant_be_replayed(vit, result):
    again = onnxprune.plan.plan.parse(result.plan.to_dict())
    assert again.low_rank == result.plan.low_rank and again.low_rank
    with pytest.raises(PlanError, match="can't be replayed"):
        onnxprune.apply(vit, again)


def test_where_no_pair_pays_the_plan_is_an_ordinary_one(vit, first):
    none = first.without({p.weight for p in first.pairs})
    found = none.within(none.budget(none.known, read_targets({"macs": 0.8})))
    model, plan, report = none.finished(found)
    assert not report.low_rank.factored and not plan.low_rank and report.targets[0].met
    again = onnxprune.apply(vit, plan)
    assert {t.name: tuple(t.dims) for t in again.graph.initializer} == {
        t.name: tuple(t.dims) for t in model.graph.initializer
    }


def test_globs_and_ids_mean_the_groups_of_the_source(vit, images):
    """Groups have other numbers where there are pairs."""
    groups = onnxprune.analyze(vit).groups
    kept = groups[-1]
    found = onnxprune.prune(vit, target={"macs": 0.6}, data=images, low_rank=True, ignore=[kept.id], reconstruct="bias")
    assert found.report.low_rank.factored
    sizes = {t.name: tuple(t.dims) for t in found.model.graph.initializer}
    dense = {t.name: tuple(t.dims) for t in vit.graph.initializer}
    for weight, axis in kept.members:
        parts = [n for n in sizes if n == weight or n.startswith(f"{weight}_low_rank")]
        assert any(dense[weight][axis] in sizes[n] for n in parts)
    rows = [
        g for g in found.report.groups if g.units == kept.units and {m for m, _ in g.members} & {m for m, _ in kept.members}
    ]
    assert rows and not any(g.removed for g in rows if g.kind == kept.kind)


def test_latency_is_counted_first(first):
    """Which pairs there are follows from multiply-accumulates; a count that was asked for stays."""
    for texts, expected in [(["latency=0.7"], {"macs=0.7"}), (["latency=0.7", "macs=0.5"], {"macs=0.5"})]:
        budget = super(LowRankPruning, first).budget(first.known, read_targets(texts))
        counted = first.counted(budget)
        assert {str(t) for t in counted.targets} == expected and counted.closest, "time decides what is out of reach"


@pytest.mark.parametrize(
    "options",
    [{"ratio": 0.5}, {"target": {"macs": 0.5}, "ranking": "local"}, {"target": {"macs": 0.5}, "merge": True}],
)
def test_options_that_say_nothing_about_ranks(vit, images, options):
    with pytest.raises(UsageError, match="low_rank"):
        onnxprune.prune(vit, data=images, low_rank=True, **options)


def test_a_model_without_wide_nodes_is_pruned_all_the_same(tmp_path):
    found = onnxprune.prune("models/gru.onnx", target={"macs": 0.8}, data=DATA, samples=16, low_rank=True)
    assert found.report.low_rank.tried == 0 and found.report.targets[0].met


def test_an_interrupted_run_goes_on_to_the_same_result(vit, images, tmp_path, result):
    """What was measured is read; the result is that of a run without a folder, to the last bit."""
    onnxprune.prune(vit, target={"macs": 0.5}, data=images, low_rank=True, resume=tmp_path, check=False)
    again = onnxprune.prune(vit, target={"macs": 0.5}, data=images, low_rank=True, resume=tmp_path, check=False)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    found = int(again.report.resumed.split()[0].replace(",", ""))
    assert found >= 3


def test_rows_of_bodies_that_share_names_stay_apart():
    """Branches of an If may call their nodes alike."""
    body = """(float[N, 64] x, bool b) => (float[N, 16] y) {
      h = MatMul (x, w1)
      r = Relu (h)
      s = MatMul (r, w2)
      y = If (b) <then_branch = one () => (float[N, 16] u) { u = MatMul (s, w3) },
                  else_branch = two () => (float[N, 16] u) { v = MatMul (s, w4) u = MatMul (v, w5) }>
    }"""
    model = make(body, dict(w1=(64, 128), w2=(128, 64), w3=(64, 16), w4=(64, 32), w5=(32, 16)))
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 2)) @ rng.standard_normal((2, 64))).astype(np.float32)
    data = [{"x": x, "b": np.array(True)}]
    report = onnxprune.prune(model, target={"params": 0.5}, data=data, low_rank=True).report
    assert report.low_rank.factored and report.params_before == sum(row.params_before for row in report.layers)
    rows = [(row.name, row.params_before) for row in report.layers]
    assert rows[-3:] == [("u", 1024), ("v", 2048), ("u", 512)]


def test_there_are_no_pairs_where_only_the_model_without_any_is_fast_enough(vit, images, monkeypatch):
    def measure(self, model, alive):
        return self.dense * (0.9 if any("_low_rank_" in t.name for t in model.graph.initializer) else 0.69)

    monkeypatch.setattr(Latency, "measure", measure)
    options = {"data": images, "low_rank": True, "timing": onnxprune.Timing(threads=1)}
    result = onnxprune.prune(vit, target={"latency": 0.7}, **options)
    assert result.report.targets[0].met and not result.report.low_rank.factored
    onnxprune.apply(vit, result.plan)
