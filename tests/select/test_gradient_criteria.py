"""Criteria on gradients made by hand, and from samples to a pruned model."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.api import analyze
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import UsageError
from onnxprune.gradient.loss import Loss
from onnxprune.pipeline.stages import analysed
from onnxprune.select.allocate import Options, allocate
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.statistics.gate_gradients import GateGradients, gate_gradients
from tests.models_text import make

MODELS = Path(__file__).resolve().parents[2] / "models"
TWO = "(float[N, 4] x) => (float[N, 3] y) { a = MatMul (x, w1)  b = Relu (a)  c = MatMul (b, w2)  d = Relu (c)  y = MatMul (d, w3) }"


@pytest.fixture(scope="module")
def two():
    """Layers of 6 and 5 channels."""
    model = make(TWO, dict(w1=(4, 6), w2=(6, 5), w3=(5, 3)))
    return model, analyze(model)


def gradients(squares, known=None):
    given = {f"g{k}": np.array(s, float) for k, s in enumerate(squares)}
    here = {g: np.ones(s.size, bool) if known is None else np.array(known[g]) for g, s in given.items()}
    magnitudes = {g: np.sqrt(s) for g, s in given.items()}
    return GateGradients(given, magnitudes, here, 8, [Loss("y", "classes")], "drawn")


def test_by_hand(two):
    _, groups = two
    context = ScoreContext(groups, gradients=gradients([[4, 1, 9, 16, 0, 25], [1, 4, 0, 9, 16]]))
    assert score(context, "taylor")[0][0].tolist() == [2, 1, 3, 4, 0, 5]
    fisher = score(context, "fisher")
    assert fisher[0][0].tolist() == [2, 0.5, 4.5, 8, 0, 12.5]
    np.testing.assert_allclose(fisher.curves["g0"].cost, [0, 0, 0.5, 2.5, 7, 15])


def test_what_no_gradient_reaches_gets_its_l2_score(two):
    _, groups = two
    known = {"g0": [True, False, True, True, True, True], "g1": [False] * 5}
    context = ScoreContext(groups, gradients=gradients([[4, 7, 9, 16, 1, 25], [1, 4, 0, 9, 16]], known))
    l2, found = score(context, "l2"), score(context, "fisher")
    np.testing.assert_allclose(found[1][0], l2[1][0])
    factor = np.delete(found[0][0], 1).sum() / np.delete(l2[0][0], 1).sum()
    assert found[0][0][1] == pytest.approx(factor * l2[0][0][1])
    assert set(found.curves) == {"g0"} and found.curves["g0"].covered == pytest.approx(5 / 6)


def test_a_global_ranking_compares_losses_of_groups(two):
    """All units of the second layer are worth nothing: they go first, although within their group they are equal."""
    _, groups = two
    context = ScoreContext(groups, gradients=gradients([[4, 1, 9, 16, 3, 25], [1e-9] * 5]))
    counts = [c.count for c in allocate(groups, Options(0.4, criterion="fisher", ranking="global"), context)]
    assert counts == [0, 4]


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_they_need_samples(two, name):
    with pytest.raises(UsageError, match="judges gradients and needs samples"):
        onnxprune.prune(two[0], criterion=name)


def samples(n=12):
    x = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    return {"x": x}


def test_from_samples_to_a_pruned_model(two):
    result = onnxprune.prune(two[0], criterion="fisher", data=samples(), reconstruct="none")
    assert result.report.verification.passed
    assert result.report.gradients == "reverse mode on 12 samples, labels drawn (classes)"
    assert [g.removed for g in result.report.groups] == [3, 2]


def test_given_labels_count(two):
    """The same samples, other labels: other gradients."""
    model, groups = two
    found = [gate_gradients(model, groups, read_samples(samples(), model, labels=[k] * 12)) for k in (0, 2)]
    assert all(f.backend == "reverse mode on 12 samples, labels given (classes)" for f in found)
    assert not np.allclose(found[0].squares["g0"], found[1].squares["g0"], rtol=0.05)
    report = onnxprune.prune(model, criterion="taylor", data=samples(), labels=[2] * 12, reconstruct="none").report
    assert report.gradients == found[0].backend


@pytest.mark.parametrize(("count", "used"), [(12, True), (7, False)])
def test_labels_of_a_file(two, tmp_path, count, used):
    np.savez(tmp_path / "data.npz", **samples(), labels=np.arange(count) % 3)
    found = read_samples(tmp_path / "data.npz", two[0], samples=8)
    assert (found.labels is not None) == used
    if used:
        assert found.labels.tolist() == [k % 3 for k in range(8)]


@pytest.mark.parametrize(
    ("labels", "text"),
    [([0.5] * 12, "have to be integers"), ([0] * 5, "5 labels for 12 samples"), ([7] * 12, "do not fit the 3 classes")],
)
def test_labels_that_do_not_fit(two, labels, text):
    with pytest.raises(UsageError, match=text):
        onnxprune.prune(two[0], criterion="fisher", data=samples(), labels=labels)


def test_every_unit_of_a_transformer_is_reached():
    model = onnx.load(MODELS / "vit_legacy.onnx")
    prepared, groups = analysed(model, width=False, shapes=None)
    found = gate_gradients(prepared.model, groups, read_samples(MODELS / "fashion_mnist.npz", model, samples=24))
    assert not found.stopped and all(k.all() for k in found.known.values())
    assert {g.kind for g in groups.groups} == {"heads", "head-dim", "channel"}
    assert all((s > 0).all() for s in found.squares.values())
