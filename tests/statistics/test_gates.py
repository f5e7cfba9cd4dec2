"""Gates stand for units: at 0 they are the pruned model, and their gradients are differences of the loss."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.stats import spearmanr

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import UsageError
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.session import run
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.statistics.flow import lift
from onnxprune.statistics.gate_differences import gate_differences
from onnxprune.statistics.gate_gradients import GateGradients, _Pass, gate_gradients
from onnxprune.statistics.gates import GatedModel
from onnxprune.surgery.apply import apply_alive
from tests.models_text import ints, make
from tests.statistics.removals import least_important, removal_changes

MODELS = Path(__file__).resolve().parents[2] / "models"
DATA = MODELS / "fashion_mnist.npz"
SMALL = {
    "convolutions": (
        """(float[N, 3, 8, 8] x) => (float[N, 4] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  b = Relu (a)  c = Conv <group = 6> (b, wd)  d = HardSwish (c)
          e = Conv (d, w2)  s = Conv (b, w3)  f = Add (e, s)  g = Sigmoid (f)  h = GlobalAveragePool (g)
          i = Flatten (h)  y = Gemm (i, w4) }""",
        dict(w1=(6, 3, 3, 3), b1=(6,), wd=(6, 1, 1, 1), w2=(5, 6, 1, 1), w3=(5, 6, 1, 1), w4=(5, 4)),
        (3, 8, 8),
    ),
    "attention": (
        """(float[N, 5, 6] x) => (float[N, 5, 6] y) {
          q0 = MatMul (x, wq)  q1 = Reshape (q0, split)  q = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, wk)  k1 = Reshape (k0, split)  k = Transpose <perm = [0, 2, 3, 1]> (k1)
          v0 = MatMul (x, wv)  v1 = Reshape (v0, split)  v = Transpose <perm = [0, 2, 1, 3]> (v1)
          s = MatMul (q, k)  p = Softmax (s)  o = MatMul (p, v)
          o1 = Transpose <perm = [0, 2, 1, 3]> (o)  o2 = Reshape (o1, merge)  y = MatMul (o2, wo) }""",
        dict(wq=(6, 12), wk=(6, 12), wv=(6, 12), wo=(12, 6), split=ints(0, 0, 3, 4), merge=ints(0, 0, 12)),
        (5, 6),
    ),
    "constants": (
        """(float[N, 70, 64] x) => (float[N, 70, 64] y) {
          a = MatMul (table, w1)  b = Tanh (a)  c = MatMul (b, w2)  d = Add (x, c)  e = MatMul (d, w3)  f = Tanh (e)
          y = MatMul (f, w4) }""",
        dict(table=(70, 2), w1=(2, 6), w2=(6, 64), w3=(64, 5), w4=(5, 64)),
        (70, 64),
    ),
    "gru": (
        """(float[N, 5, 4] x) => (float[N, 3] y) {
          t = Transpose <perm = [1, 0, 2]> (x)
          h, last = GRU <hidden_size = 6, direction = "bidirectional"> (t, w, r, b)
          a = Transpose <perm = [1, 0, 2]> (last)  f = Flatten (a)  y = MatMul (f, wo) }""",
        dict(w=(2, 18, 4), r=(2, 18, 6), b=(2, 36), wo=(12, 3)),
        (5, 4),
    ),
}  # fmt: skip


def small(name):
    text, weights, shape = SMALL[name]
    prepared, groups = analysed(make(text, weights), width=False, shapes=None)
    return lift(prepared.model), groups, shape


def samples(shape, n=6, batch=3, labels=None):
    x = np.random.default_rng(1).standard_normal((n, *shape)).astype(np.float32)
    batches = [Batch({"x": x[k : k + batch]}, len(x[k : k + batch])) for k in range(0, n, batch)]
    return Samples(batches, n, "test", False, None, labels=labels)


FILES = ("resnet", "mobilenet", "vit_legacy", "gru", "unet")


@pytest.mark.parametrize("name", [*SMALL, *FILES])
def test_a_gate_at_zero_is_the_pruned_model(name):
    """A unit of the first and the last group of each kind goes: by surgery, and by gates."""
    source = make(*SMALL[name][:2]) if name in SMALL else onnx.load(MODELS / f"{name}.onnx")
    prepared, groups = analysed(source, width=False, shapes=None)
    model = lift(prepared.model)
    gated = GatedModel(model, groups)
    sessions = gated.open()
    rng = np.random.default_rng(0)
    (given,) = model.graph.input
    sizes = [d.dim_value or 2 for d in given.type.tensor_type.shape.dim]
    x = {given.name: rng.standard_normal(sizes).astype(np.float32)}
    out = model.graph.output[0].name
    dense = run(model, x, [out])[0]
    np.testing.assert_allclose(sessions(x, {})[out], dense, rtol=1e-4, atol=1e-4)
    assert all(known.all() for known in gated.known.values())
    ends = {g.kind: g for g in reversed(groups.groups)}, {g.kind: g for g in groups.groups}
    for group in {g.id: g for kinds in ends for g in kinds.values()}.values():
        removed = [[int(rng.integers(len(bucket)))] for bucket in group.buckets]
        gone = np.concatenate([group.buckets[b][k] for b, rows in enumerate(removed) for k in rows])
        (expected,) = run(apply_alive(prepared.model, groups, groups.alive_labels(gone)), x, [out])
        found = sessions(x, gated.without({group.id: removed}))[out]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(dense).max(), err_msg=group.id)
        assert np.abs(found - dense).max() > 1e-3 * np.abs(dense).max()


def compared(model, groups, data, seed=0):
    """Gradients of all gates by reverse mode, and by differences, of each sample's loss."""
    found = gate_gradients(model, groups, data, seed=seed)
    assert all(k.all() for k in found.known.values())
    loss = _Pass(model, groups, data, seed, 1 << 30).loss
    return found, gate_differences(model, groups, data, loss, found.known)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("labels", [None, np.array([0, 1, 2, 0, 1, 2])], ids=["drawn", "given"])
def test_gradients_are_differences(name, labels):
    model, groups, shape = small(name)
    labels = labels if name in ("convolutions", "gru") else None
    found, rows = compared(model, groups, samples(shape, labels=labels))
    assert found.labels == ("drawn" if labels is None else "given")
    for group, by_sample in rows.items():
        size = np.square(by_sample).mean()
        np.testing.assert_allclose(found.squares[group], np.square(by_sample).mean(axis=0), rtol=0.03, atol=0.01 * size)


@pytest.mark.parametrize("name", SMALL)
def test_neither_batches_nor_the_budget_matter(name):
    model, groups, shape = small(name)
    first = gate_gradients(model, groups, samples(shape, batch=3))
    for other in (
        gate_gradients(model, groups, samples(shape, batch=6)),
        gate_gradients(model, groups, samples(shape, batch=4)),
        gate_gradients(model, groups, samples(shape), budget=1),
    ):
        assert other.samples == first.samples == 6
        for group in first.squares:
            np.testing.assert_allclose(other.squares[group], first.squares[group], rtol=1e-3, atol=1e-9)
            np.testing.assert_allclose(other.magnitudes[group], first.magnitudes[group], rtol=1e-3, atol=1e-9)
    again = gate_gradients(model, groups, samples(shape), seed=1)
    assert any((again.squares[g] != first.squares[g]).any() for g in first.squares)


def test_a_batch_that_the_model_fixes():
    """Samples are told apart by their losses; what fills up the batch does not count."""
    text, weights, shape = SMALL["convolutions"]
    free, groups, _ = small("convolutions")
    prepared, fixed_groups = analysed(make(text.replace("[N,", "[4,"), weights), width=False, shapes=None)
    x = samples(shape, n=6, batch=6).batches[0].feeds["x"]
    batches = [Batch({"x": x[:4]}, 4), Batch({"x": x[[4, 5, 5, 5]]}, 2)]
    fixed = gate_gradients(prepared.model, fixed_groups, Samples(batches, 6, "test", False, None))
    expected = gate_gradients(free, groups, samples(shape))
    assert fixed.samples == 6
    for group in expected.squares:
        np.testing.assert_allclose(fixed.squares[group], expected.squares[group], rtol=1e-3, atol=1e-9)


def test_time_first():
    """An output (T, N, C) has no row for each sample: samples run alone, and each is T tokens or T x C values."""
    text = """(float[N, 5, 4] x) => (float[5, N, 3] y) {
      t = Transpose <perm = [1, 0, 2]> (x)  a = MatMul (t, w1)  b = Tanh (a)  y = MatMul (b, w2) }"""
    turned = text.replace("(float[5, N, 3] y)", "(float[N, 5, 3] z)").replace(
        "y = MatMul (b, w2)", "y = MatMul (b, w2)  z = Transpose <perm = [1, 0, 2]> (y)"
    )
    weights = dict(w1=(4, 6), w2=(6, 3))
    found = []
    for body in (text, turned):
        prepared, groups = analysed(make(body, weights), width=False, shapes=None)
        found.append(gate_gradients(prepared.model, groups, samples((5, 4), n=40, batch=8)))
    assert [f.samples for f in found] == [40, 40]
    np.testing.assert_allclose(found[0].squares["g0"], found[1].squares["g0"] * found[1].losses[0].scale ** 2, rtol=0.6)
    assert spearmanr(found[0].squares["g0"], found[1].squares["g0"]).statistic > 0.7


def test_padding_does_not_count():
    """Tokens that a mask hides: whatever their scores are."""
    text = """(int64[N, 4] ids, int64[N, 4] attention_mask) => (float[N, 4, 7] logits) {
      a = Gather (table, ids)  b = MatMul (a, w1)  c = Relu (b)  logits = MatMul (c, w2) }"""
    prepared, groups = analysed(make(text, dict(table=(7, 5), w1=(5, 6), w2=(6, 7))), width=False, shapes=None)
    ids, mask = np.array([[1, 2, 3, 4]]), np.array([[1, 1, 0, 0]])

    def of(row):
        data = Samples(
            [Batch({"ids": row, "attention_mask": mask}, 1)],
            1,
            "test",
            False,
            "attention_mask",
            labels=np.array([[3, 0, 5, 1]]),
        )
        return gate_gradients(prepared.model, groups, data)

    first, other = of(ids), of(np.array([[1, 2, 6, 0]]))
    assert first.losses[0].kind == "tokens"
    assert first.squares["g0"].any()
    np.testing.assert_allclose(first.squares["g0"], other.squares["g0"])


def test_differences_take_over_where_no_derivative_is():
    """Hardmax has no rule: units before it are known by differences, those behind it by reverse mode."""
    text = """(float[N, 4] x) => (float[N, 3] y) {
      a = MatMul (x, w1)  b = Relu (a)  c = MatMul (b, w2)  d = Hardmax (c)  e = Add (c, d)
      f = MatMul (e, w3)  g = Relu (f)  y = MatMul (g, w4) }"""
    weights = dict(w1=(4, 6), w2=(6, 5), w3=(5, 7), w4=(7, 3))
    prepared, groups = analysed(make(text, weights), width=False, shapes=None)
    found = gate_gradients(prepared.model, groups, samples((4,)))
    assert found.stopped and found.differences == 6 and "central differences for 6 units and none for 0" in found.backend
    assert found.known["g0"].all() and found.squares["g0"].all()


def test_a_function_body_that_can_not_be_run_is_not_used(monkeypatch):
    model, groups, shape = small("convolutions")

    def broken(gated):
        result = onnx.ModelProto()
        result.CopyFrom(gated)
        result.graph.node[0].op_type = "NoSuchOperator"
        return result

    expected = gate_gradients(model, groups, samples(shape))
    monkeypatch.setattr("onnxprune.statistics.gate_gradients.expanded", broken)
    found = gate_gradients(model, groups, samples(shape))
    assert all((found.squares[g] == expected.squares[g]).all() for g in expected.squares)


def test_integer_outputs_give_no_loss():
    text = "(float[N, 4] x) => (int64[N, 1] y) { a = MatMul (x, w1)  b = Relu (a)  c = MatMul (b, w2)  y = ArgMax <axis = 1> (c) }"
    prepared, groups = analysed(make(text, dict(w1=(4, 6), w2=(6, 5))), width=False, shapes=None)
    with pytest.raises(UsageError, match="'y' int64"):
        gate_gradients(prepared.model, groups, samples((4,)))


@pytest.fixture(scope="module")
def resnet():
    model = onnx.load(MODELS / "resnet.onnx")
    prepared, groups = analysed(model, width=False, shapes=None)
    data = read_samples(DATA, model, samples=64)
    return lift(prepared.model), groups, data, gate_gradients(prepared.model, groups, data)


def test_ranks_agree_with_what_a_removal_does(resnet):
    """Spearman correlation of scores with the divergence when a channel is gone, over the channels of a block."""
    model, groups, data, gradients = resnet
    few = Samples(data.batches[:1], 32, "test", False, None)
    for group in [g for g in groups.groups if any(w.endswith("blocks.4.bn1.weight") for w, _ in g.members)]:
        chosen = list(range(0, group.units, 4))
        changes = removal_changes(model, groups, few, [{group.id: [[k]]} for k in chosen])
        true = [c.divergence for c in changes]
        context = ScoreContext(groups, gradients=gradients)
        at = groups.groups.index(group)
        for name, bound in (("fisher", 0.6), ("taylor", 0.6)):
            assert spearmanr(score(context, name)[at][0][chosen], true).statistic > bound
        random = [spearmanr(score(ScoreContext(groups, seed=s), "random")[at][0][chosen], true).statistic for s in range(20)]
        assert max(random) < 0.6


def test_changes_grow_with_the_share(resnet):
    model, groups, data, _ = resnet
    few = Samples(data.batches[:1], 32, "test", False, None)
    scores = score(ScoreContext(groups), "l2")
    shares = [0.0, 0.25, 0.5, 0.75]
    (group,) = (g for g in groups.groups if any(w.endswith("blocks.0.bn1.weight") for w, _ in g.members))
    removals = [least_important(groups, scores, s)[group.id] for s in shares]
    found = removal_changes(model, groups, few, removals)
    errors, divergences = ([getattr(c, n) for c in found] for n in ("relative_error", "divergence"))
    assert errors[0] == pytest.approx(0, abs=1e-9) and divergences[0] == pytest.approx(0, abs=1e-6)
    assert errors == sorted(errors) and divergences == sorted(divergences) and errors[-1] > 0.01


def test_what_is_told(resnet):
    gradients: GateGradients = resnet[3]
    assert gradients.backend == "reverse mode on 64 samples, labels drawn (classes)"
