"""The importance of a unit is the sum over all slices that go with it."""

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.api import analyze
from onnxprune.errors import UsageError
from onnxprune.select import criteria
from onnxprune.select.criteria import class_scores, criterion

NORMS = {"l1": np.abs, "l2": np.square}


def weights(model) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def scores(model, name: str) -> dict[str, list[np.ndarray]]:
    groups = analyze(model)
    values = class_scores(groups, name)
    return {g.members[0][0]: [np.array([values[u].sum() for u in b]) for b in g.buckets] for g in groups.groups}


@pytest.mark.parametrize("name", NORMS)
def test_channels(chain, name):
    model = chain()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    found = scores(model, name)
    np.testing.assert_allclose(found["w1"][0], w["w1"].sum((1, 2, 3)) + w["b1"] + w["w2"].sum((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["w2"][0], w["w2"].sum((1, 2, 3)) + w["w3"].sum(1), rtol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_columns_of_a_grouped_convolution(grouped, name):
    """Bucket r holds the columns of group r: outputs of the layer before, one column of the group's own weight."""
    model = grouped()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    found = scores(model, name)["w1"]
    expected = w["w1"].sum((1, 2, 3)).reshape(4, 4) + w["wg"].reshape(4, 4, 4).sum(1)
    np.testing.assert_allclose(sorted(np.concatenate(found)), sorted(expected.ravel()), rtol=1e-5)
    for bucket in found:
        assert any(np.allclose(sorted(bucket), sorted(row), rtol=1e-5) for row in expected)


@pytest.mark.parametrize("name", NORMS)
def test_heads(attention, name):
    model = attention()
    w = {k: NORMS[name](v) for k, v in weights(model).items()}
    groups = analyze(model)
    values = class_scores(groups, name)
    heads = next(g for g in groups.groups if g.kind == "heads")
    found = [values[u].sum() for u in heads.buckets[0]]
    expected = sum(w[k].sum(0) for k in ("wq", "wk", "wv")) + w["wo"].sum(1)
    np.testing.assert_allclose(found, expected.reshape(4, 4).sum(1), rtol=1e-5)


def test_head_dims_of_query_and_key(attention):
    model = attention()
    w = weights(model)
    groups = analyze(model)
    values = class_scores(groups, "l2")
    dims = [g for g in groups.groups if g.kind == "head-dim"]
    assert {frozenset(n for n, _ in g.members) for g in dims} == {frozenset({"wq", "wk"}), frozenset({"wv", "wo"})}
    keys = next(g for g in dims if ("wk", 1) in g.members)
    found = np.concatenate([[values[u].sum() for u in b] for b in keys.buckets])
    expected = np.square(w["wq"]).sum(0) + np.square(w["wk"]).sum(0)
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-5)


def test_one_of_your_own(chain, monkeypatch):
    monkeypatch.setattr(criteria, "_criteria", dict(criteria._criteria))

    @criterion("elements")
    def elements(slices):
        return np.full(len(slices), slices.shape[1], np.float64)

    assert "elements" in criteria.criteria()
    assert scores(chain(), "elements")["w1"][0].tolist() == [27 + 1 + 10] * 12


def test_an_unknown_one(chain):
    with pytest.raises(UsageError, match="unknown criterion 'l3'"):
        class_scores(analyze(chain()), "l3")
