"""The registry, what a criterion sees, and the simple form: the sum over all slices that go with a unit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.api import analyze
from onnxprune.errors import UsageError
from onnxprune.select import criteria
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import criterion, score, slice_criterion
from tests.models_text import make as make_text

ROOT = Path(__file__).resolve().parents[2]
NORMS = {"l1": np.abs, "l2": np.square}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a test registers is gone after it."""
    criteria.criteria()
    monkeypatch.setattr(criteria, "_criteria", dict(criteria._criteria))


def weights(model) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def scores(model, name: str) -> dict[str, list[np.ndarray]]:
    groups = analyze(model)
    found = score(ScoreContext(groups), name)
    return {g.members[0][0]: values for g, values in zip(groups.groups, found, strict=True)}


@pytest.mark.parametrize("name", NORMS)
def test_channels(chain, name):
    model = chain()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    found = scores(model, name)
    np.testing.assert_allclose(found["w1"][0], w["w1"].sum((1, 2, 3)) + w["b1"] + w["w2"].sum((0, 2, 3)))
    np.testing.assert_allclose(found["w2"][0], w["w2"].sum((1, 2, 3)) + w["w3"].sum(1))


@pytest.mark.parametrize("name", NORMS)
def test_columns_of_a_grouped_convolution(grouped, name):
    """Bucket r holds the columns of group r: outputs of the layer before, one column of the group's own weight."""
    model = grouped()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    found = scores(model, name)["w1"]
    expected = w["w1"].sum((1, 2, 3)).reshape(4, 4) + w["wg"].reshape(4, 4, 4).sum(1)
    np.testing.assert_allclose(sorted(np.concatenate(found)), sorted(expected.ravel()))
    for bucket in found:
        assert any(np.allclose(sorted(bucket), sorted(row)) for row in expected)


@pytest.mark.parametrize("name", NORMS)
def test_heads(attention, name):
    model = attention()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    groups = analyze(model)
    heads = next(k for k, g in enumerate(groups.groups) if g.kind == "heads")
    found = score(ScoreContext(groups), name)[heads][0]
    expected = sum(w[k].sum(0) for k in ("wq", "wk", "wv")) + w["wo"].sum(1)
    np.testing.assert_allclose(found, expected.reshape(4, 4).sum(1))


def test_head_dims_of_query_and_key(attention):
    model = attention()
    w = weights(model)
    groups = analyze(model)
    dims = {frozenset(n for n, _ in g.members): k for k, g in enumerate(groups.groups) if g.kind == "head-dim"}
    assert set(dims) == {frozenset({"wq", "wk"}), frozenset({"wv", "wo"})}
    found = np.concatenate(score(ScoreContext(groups), "l2")[dims[frozenset({"wq", "wk"})]])
    expected = np.square(w["wq"]).sum(0) + np.square(w["wk"]).sum(0)
    np.testing.assert_allclose(sorted(found), sorted(expected))


def test_slices_tell_what_they_do(chain):
    context = ScoreContext(analyze(chain()))
    found = {(s.weight, s.axis, s.role, s.reader, s.slot, s.values.shape) for s in context.slices()}
    assert found == {
        ("w1", 0, "writes", "Conv", 1, (12, 27)),
        ("b1", 0, "parameter", "Conv", 2, (12, 1)),
        ("w2", 0, "writes", "Conv", 1, (10, 12)),
        ("w2", 1, "reads", "Conv", 1, (12, 10)),
        ("w3", 0, "reads", "MatMul", 1, (10, 4)),
    }
    assert all(s.values.dtype == np.float64 for s in context.slices())


@pytest.mark.parametrize(
    ("body", "shapes", "expected"),
    [
        (
            "a = Gemm <transB = 1> (x, w)  y = MatMul (a, v)",
            {"w": (8, 5), "v": (8, 2)},
            {("w", 0, "writes"), ("v", 0, "reads")},
        ),
        (
            "a = Gemm (x, w)  y = Gemm <transB = 1> (a, v)",
            {"w": (5, 8), "v": (2, 8)},
            {("w", 1, "writes"), ("v", 1, "reads")},
        ),
        (
            'a = Einsum <equation = "bi,oi->bo"> (x, w)  b = Mul (a, s)  y = MatMul (b, v)',
            {"w": (8, 5), "s": (8,), "v": (8, 2)},
            {("w", 0, "writes"), ("s", 0, "parameter"), ("v", 0, "reads")},
        ),
        (
            "d = DequantizeLinear (w, s)  t = Transpose <perm = [1, 0]> (d)  a = MatMul (x, t)  y = MatMul (a, v)",
            {"w": np.arange(40, dtype=np.int8).reshape(8, 5), "s": np.array(0.1, np.float32), "v": (8, 2)},
            {("w", 0, "writes"), ("v", 0, "reads")},
        ),
    ],
)
def test_roles(body, shapes, expected):
    model = make_text(f"(float[3, 5] x) => (float[3, 2] y) {{ {body} }}", shapes)
    assert {(s.weight, s.axis, s.role) for s in ScoreContext(analyze(model)).slices()} == expected


def test_the_simple_form(chain):
    @slice_criterion("elements")
    def elements(slices):
        return np.full(len(slices), slices.shape[1], np.float64)

    assert "elements" in criteria.criteria()
    assert scores(chain(), "elements")["w1"][0].tolist() == [27 + 1 + 10] * 12


def test_the_full_form_sees_the_groups_and_the_statistics(chain):
    @criterion("position", needs_data=True)
    def position(context):
        assert context.statistics == []
        return [[np.arange(len(b), dtype=float) for b in g.buckets] for g in context.groups.groups]

    groups = analyze(chain())
    found = score(ScoreContext(groups, statistics=[]), "position")
    assert [b.tolist() for g in found for b in g] == [[*range(12)], [*range(10)]]
    with pytest.raises(UsageError, match="'position' judges activations and needs samples"):
        score(ScoreContext(groups), "position")


def test_what_is_not_finite_counts_as_most_important(chain):
    @criterion("broken")
    def broken(context):
        return [[np.array([np.nan, 3, -np.inf] + [1.0] * (len(b) - 3)) for b in g.buckets] for g in context.groups.groups]

    assert scores(chain(), "broken")["w1"][0].tolist() == [6, 3, 6] + [1] * 9


@pytest.mark.parametrize(
    "result", [lambda c: np.ones(3), lambda c: 1.0, lambda c: [], lambda c: [[np.ones(12)], [np.ones(9)]]]
)
def test_a_criterion_that_returns_something_else(chain, result):
    criterion("wrong")(result)
    with pytest.raises(UsageError, match="'wrong' does not return one array"):
        scores(chain(), "wrong")


def test_a_slice_criterion_that_returns_something_else(chain):
    @slice_criterion("wrong")
    def wrong(slices):
        return slices

    with pytest.raises(UsageError, match=r"wrong gives shape \(12, 27\) for slices \(12, 27\); it has to be \(12,\)"):
        scores(chain(), "wrong")


def test_an_unknown_one(chain):
    with pytest.raises(UsageError, match="unknown criterion 'l3'"):
        scores(chain(), "l3")


def test_a_user_may_replace_one_of_ours():
    """Also before ours are there."""
    script = """
import onnxprune
from onnxprune.select.criteria import criteria, find
onnxprune.criterion("l1")(len)
assert "l2" in criteria() and find("l1").function is len
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
