"""Blocks as a choice of a target, on trained models."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.budget.kinds import Setting
from onnxprune.calibrate.batch import Batch, Samples, splits
from onnxprune.depth.branches import find_branches, gone_tensors
from onnxprune.depth.losses import BranchLosses
from onnxprune.depth.means import branch_means
from onnxprune.depth.surgery import without
from onnxprune.errors import BudgetError, PlanError, UsageError
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.stages import analysed
from onnxprune.plan.plan import parse
from onnxprune.recover.reconstruct import reconstruct
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.removal import SAMPLES
from onnxprune.statistics.sensitivity import chosen
from tests.models_text import make

VIT = "models/vit_legacy.onnx"
RESNET = "models/resnet.onnx"


def fashion(some):
    data = np.load("models/fashion_mnist.npz")
    return ((data["calibration"][some, None] / 255 - 0.2860) / 0.3530).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return fashion(slice(96))


@pytest.fixture(scope="module")
def unseen():
    return fashion(slice(900, 1024))


@pytest.fixture(scope="module")
def samples(images):
    batches = [Batch({"image": images[k : k + 32]}, 32) for k in (0, 32, 64)]
    return Samples(batches, 96, "images", False, None)


@pytest.fixture(scope="module")
def vit(samples):
    """Analysis, branches and means of the transformer."""
    prepared, groups = analysed(onnx.load(VIT), width=False, shapes=None)
    found = find_branches(prepared.model, groups).found
    return prepared, groups, found, branch_means(prepared.model, found, samples)


@pytest.fixture(scope="module")
def pruned(images):
    """A target that the knapsack meets with blocks."""
    return onnxprune.prune(VIT, target={"macs": 0.15}, data=[{"image": images[:64]}], depth=True)


def output(model, image):
    session = ort.InferenceSession(model if isinstance(model, str) else model.SerializeToString())
    return session.run(None, {"image": image})[0]


def test_blocks_go_where_that_loses_less(pruned):
    report = pruned.report
    blocks = report.blocks
    assert blocks.candidates == 8 and blocks.gone
    told = {f.blocks: f.loss for f in blocks.foretold}
    assert told[len(blocks.gone)] == min(told.values()) < told[0]
    assert blocks.repaired[len(blocks.gone)] == report.fidelity[0].relative_error < blocks.repaired[0]
    assert report.macs_after / report.macs_before <= 0.15
    assert report.targets[0].before == report.macs_before and report.targets[0].target == "macs=0.15"
    assert report.verification.passed and blocks.verification.passed
    gone = {n for b in blocks.gone for n in b.nodes}
    assert not gone & {n.name for n in pruned.model.graph.node}
    assert {row.name for row in report.layers if not row.macs_after} >= gone
    assert sum(row.macs_after for row in report.layers) == report.macs_after
    assert sum(row.macs_before for row in report.layers) == report.macs_before
    onnx.checker.check_model(pruned.model, full_check=True)


@pytest.mark.parametrize(
    ("path", "share", "options", "tried"),
    [(RESNET, 0.7, {"reconstruct": "bias", "criterion": "obs"}, False), (VIT, 0.2, {}, True)],
)
def test_nothing_changes_where_no_block_pays(images, path, share, options, tried):
    """With blocks as a choice that is not taken, foretold or after its repair, the model is the same to the last bit."""
    results = [
        onnxprune.prune(path, target={"macs": share}, data=[{"image": images}], depth=d, **options) for d in (False, True)
    ]
    blocks = results[1].report.blocks
    assert blocks.gone == [] and blocks.candidates == 8 and bool(blocks.repaired) == tried
    if tried:
        assert min(blocks.repaired.values()) == blocks.repaired[0] == results[0].report.fidelity[0].relative_error
    assert results[0].model.SerializeToString() == results[1].model.SerializeToString()


@pytest.mark.parametrize("target", [{"macs": 0.15}, {"latency": 0.5}])
def test_blocks_and_ranks_and_widths(images, target):
    """All three within one target; figures and proofs are of the source."""
    options = {"data": [{"image": images[:64]}], "target": target, "timing": onnxprune.Timing(threads=1)}
    result = onnxprune.prune(VIT, depth=True, low_rank=True, **options)
    report = result.report
    assert report.verification.passed and report.low_rank.factored and report.targets[0].met
    assert sum(row.macs_after for row in report.layers) == report.macs_after
    assert sum(row.macs_before for row in report.layers) == report.macs_before
    if "macs" not in target:
        return
    blocks = report.blocks
    assert blocks.gone and blocks.verification.passed and report.low_rank.verification.passed
    assert report.targets[0].before == report.macs_before and report.macs_after <= 0.15 * report.macs_before
    gone = {n for b in blocks.gone for n in b.nodes}
    assert not gone & {n.name for n in result.model.graph.node} and not gone & {f.node for f in report.low_rank.factored}
    known = {g.id: set(g.members) for g in onnxprune.analyze(VIT).groups}
    same = [g for g in report.groups if g.id in known and set(g.members) & known[g.id]]
    assert len(same) > 4, "groups have the names that they have in the source"
    assert {g.id for g in report.groups if g.kind == "rank"} == {f"r{k}" for k in range(len(report.low_rank.factored))}
    alone = [onnxprune.prune(VIT, **more, **options).report.fidelity[0] for more in ({"depth": True}, {"low_rank": True})]
    assert report.fidelity[0].relative_error < 0.9 * min(f.relative_error for f in alone)
    with pytest.raises(PlanError, match="can't be replayed"):
        onnxprune.apply(VIT, parse(result.plan.to_dict()))


def test_the_plan_replays_and_proves_the_removal(pruned):
    plan = parse(pruned.plan.to_dict())
    again = onnxprune.apply(VIT, plan)
    assert {t.name: tuple(t.dims) for t in again.graph.initializer} == {
        t.name: tuple(t.dims) for t in pruned.model.graph.initializer
    }
    assert onnxprune.verify(VIT, again, plan).passed
    assert onnxprune.verify(VIT, pruned.model, plan).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda blocks, name: blocks.update({"/Add_output_0": blocks[name]}), "can't go"),
        (lambda blocks, name: blocks[name].update(shape=[64, 1, 1]), "has to be float32 of shape"),
        (lambda blocks, name: blocks[name]["values"].pop(), "do not have the shape"),
        (lambda blocks, name: blocks[name].update(type="float64"), "has to be float32"),
        (lambda blocks, name: blocks.pop(name), "would"),
    ],
)
def test_an_edited_plan_is_refused(pruned, change, reason):
    data = pruned.plan.to_dict()
    data["blocks"] = {n: dict(e, values=list(e["values"])) for n, e in data["blocks"].items()}
    change(data["blocks"], next(iter(data["blocks"])))
    if reason == "would":  # a whole block instead of a constant: the slices are legal, the pruned model is another one
        assert not onnxprune.verify(VIT, pruned.model, parse(data)).passed
        return
    with pytest.raises(PlanError, match=reason):
        onnxprune.apply(VIT, parse(data))


def test_losses_are_those_of_the_model_without_the_blocks(vit, samples):
    """Gates in one session say the same as surgery."""
    prepared, _, found, means = vit
    losses = BranchLosses(prepared.model, means, samples)
    gone = [found[3].tensor, found[5].tensor]
    cut = without(prepared.model, {t: means[t] for t in gone})
    judged = [b.feeds["image"][rows] for b, rows in chosen(prepared.model, samples, SAMPLES, held=splits(samples))]
    dense, after = (output(m, np.concatenate(judged)) for m in (prepared.model, cut))
    assert losses(gone) == pytest.approx(((dense - after) ** 2).sum() / (dense**2).sum(), rel=1e-3)


def test_means_are_of_the_summand(vit, images):
    prepared, _, found, means = vit
    probe = onnx.ModelProto()
    probe.CopyFrom(prepared.model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(found[0].tensor))
    session = ort.InferenceSession(probe.SerializeToString())
    given = session.run([found[0].tensor], {"image": images})[0]
    np.testing.assert_allclose(means[found[0].tensor], given.mean(axis=(0, 1), keepdims=True), atol=1e-5)


@pytest.mark.parametrize("quantity", ["macs", "params", "memory"])
def test_costs_without_a_block_are_those_of_the_shorter_model(vit, quantity):
    prepared, groups, found, means = vit
    tensor = found[4].tensor
    gone = gone_tensors(Flow(lift(prepared.model)), [tensor])
    whole = Setting(prepared.model, prepared, groups, []).cost(quantity)
    short, inner = analysed(without(prepared.model, {tensor: means[tensor]}), width=False, shapes=None)
    exact = Setting(short.model, short, inner, []).cost(quantity).total({})
    told = whole.without(gone).total({})
    assert told < whole.total({}) or quantity == "memory"
    assert exact <= told + means[tensor].size if quantity == "memory" else exact == told + (quantity == "params") * 64


def test_what_follows_makes_up_for_a_block(vit, samples, images, unseen):
    """Linear nodes behind are fitted to the source, which has the block: most of what its mean loses comes back.

    A fit is left where held-out samples say that it does not help, but never refused; the nodes next to the block gain most.
    """
    prepared, _, found, means = vit
    tensor = found[1].tensor
    short, groups = analysed(without(prepared.model, {tensor: means[tensor]}), width=False, shapes=None)
    alive = np.ones(len(groups.classes.of_label), np.bool_)
    fitted = reconstruct(prepared, groups, alive, short.model, samples)
    fits = {f.node: f for f in fitted.fits}
    behind, following = ({n for b in some for n in b.nodes} for some in (found[2:], found[2:4]))
    assert behind <= fits.keys() and not any(f.reason or f.lost_after > f.lost_before for f in fits.values())
    assert all(fits[n].kind == "lsq" and fits[n].lost_after < 0.8 * fits[n].lost_before for n in following)
    for some in (images, unseen):
        dense, raw, after = (output(m, some) for m in (prepared.model, short.model, fitted.model))
        assert ((dense - after) ** 2).sum() < 0.3 * ((dense - raw) ** 2).sum()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ratio": 0.5}, "depth lets the knapsack choose"),
        ({"target": {"macs": 0.5}, "ranking": "local"}, "depth lets the knapsack choose"),
        ({"target": {"macs": 0.5}, "data": "synthetic", "samples": 8}, "real samples"),
    ],
)
def test_wrong_calls(images, options, reason):
    with pytest.raises(UsageError, match=reason):
        onnxprune.prune(VIT, **{"data": [{"image": images[:16]}], **options}, depth=True)


def test_a_model_without_blocks_is_an_error(images):
    with pytest.raises(UsageError, match="no block of this model can go"):
        onnxprune.prune("models/unet.onnx", target={"macs": 0.5}, data=[{"image": images[:16]}], depth=True)


def test_all_results_that_are_taken_over_are_told(images, tmp_path):
    """Those of the source, too, where a shorter model is what comes of it."""
    options = {"target": {"macs": 0.15}, "data": [{"image": images[:64]}], "depth": True, "check": False}
    runs = [onnxprune.prune(VIT, resume=tmp_path, **options) for _ in range(2)]
    assert runs[0].report.blocks.gone and runs[0].model.SerializeToString() == runs[1].model.SerializeToString()
    held = len(list(tmp_path.rglob("*.npz")))
    assert [r.report.resumed.split(" of ")[0] for r in runs] == ["0 results", f"{held} results"]


@pytest.mark.parametrize("closest", [False, True])
def test_blocks_stay_where_the_model_without_them_misses_a_target(images, monkeypatch, closest):
    """As a measured one may: with all blocks the target is met, and as without the option."""
    within = Pruning.within

    def missed(pruning, budget):
        if pruning.part_of and not budget.closest:
            raise BudgetError("missed")
        found = within(pruning, budget)
        budget.unmet = "missed" if pruning.part_of else budget.unmet
        return found

    monkeypatch.setattr(Pruning, "within", missed)
    result = onnxprune.prune(VIT, target={"macs": 0.15}, data=[{"image": images[:64]}], depth=True, closest=closest)
    assert result.report.blocks.gone == [] and result.report.unmet == "" and result.report.targets[0].met
    assert min(result.report.blocks.foretold, key=lambda f: f.loss).blocks


def test_what_is_ignored_stays(images):
    """Only blocks that no option speaks of can go, and ids of groups are those of the source."""
    options = {"data": [{"image": images[:64]}], "depth": True, "reconstruct": "bias", "criterion": "obs"}
    with pytest.raises(BudgetError, match="without 6 blocks, and with all units gone"):
        onnxprune.prune(VIT, target={"macs": 0.2}, ignore=["*blocks.1*"], **options)
    result = onnxprune.prune(VIT, target={"macs": 0.3}, ignore=["*blocks.1*"], **options)
    assert all("blocks.1" not in n for b in result.report.blocks.gone for n in b.nodes)
    assert result.report.blocks.gone and result.report.blocks.candidates == 6
    members = {g.id: set(g.members) for g in onnxprune.analyze(VIT).groups}
    for group in result.report.groups:
        shared = {m for m in group.members if m[0] not in result.plan.constants}
        assert shared and shared <= members[group.id]


@pytest.mark.parametrize("options", [{"ignore": ["g0"]}, {"min_channels": {"g0": 48}}])
def test_what_is_said_of_a_group_holds_for_its_parts(options):
    """Without the block that multiplies both, two matrices are no group any more."""
    body = """(float[N, 32] x) => (float[N, 8] y, float[N, 8] z) {
      p = MatMul (x, w1)
      q = MatMul (x, w2)
      both = Mul (p, q)
      s = MatMul (both, tiny)
      r = Relu (p)
      t = MatMul (r, w3)
      u = Add (t, s)
      v = Relu (u)
      y = MatMul (v, w4)
      w = Relu (q)
      z = MatMul (w, w5)
    }"""
    rng = np.random.default_rng(0)
    tiny = (1e-3 * rng.standard_normal((48, 64))).astype(np.float32)
    model = make(body, dict(w1=(32, 48), w2=(32, 48), w3=(48, 64), w4=(64, 8), w5=(48, 8), tiny=tiny))
    data = [{"x": rng.standard_normal((64, 32)).astype(np.float32)}]
    report = onnxprune.prune(model, target={"macs": 0.4}, data=data, depth=True, **options).report
    left = {g.id: g.units - g.removed for g in report.groups}
    assert [b.tensor for b in report.blocks.gone] == ["s"] and left.keys() == {"g0", "g0.1", "g1"}
    assert left["g0"] == left["g0.1"] == 48


def test_the_closest_model_is_told_beside_the_source(images):
    """Shares of what stays are of the source, also where all that can go went before widths were chosen."""
    result = onnxprune.prune(VIT, target={"macs": 0.001}, data=[{"image": images[:32]}], depth=True, closest=True)
    report = result.report
    assert len(report.blocks.gone) == 8 and not report.targets[0].met
    assert f"{report.macs_after / report.macs_before:.1%} of macs stay" in report.unmet
