"""Rules, layouts and criteria of a user: by decorator, or by a package through an entry point."""

import importlib.metadata

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import layout, rule, slice_criterion
from onnxprune.select import criteria
from onnxprune.trace import registry
from tests.models_text import make, shapes_of

BODY = """(float[3, 5] x) => (float[3, 2] y) {
  a = MatMul (x, w1)
  b = acme.Foo <width = 8> (a, s)
  y = MatMul (b, w2)
}"""
W = dict(w1=(5, 8), s=(8,), w2=(8, 2))


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a test registers is gone after it."""
    registry.load_all()
    criteria.criteria()
    monkeypatch.setattr(registry, "_rules", dict(registry._rules))
    monkeypatch.setattr(registry, "_layouts", dict(registry._layouts))
    monkeypatch.setattr(criteria, "_criteria", dict(criteria._criteria))


def typed(model):
    """An operator that nobody knows needs the type of its output in the file."""
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("b", 1, [3, 8]))
    return model


def test_rule():
    """Ties its operands and lets an attribute follow."""

    @rule("Foo", domain="acme")
    def foo(op):
        op.pointwise()
        op.count("width", None, op.alone(op.need(0), 1))

    model = typed(make(BODY, W, domains=["acme"]))
    result = onnxprune.prune(model, ratio=0.5)
    assert shapes_of(result.model) == dict(w1=(5, 4), s=(4,), w2=(4, 2))
    assert onnx.helper.get_attribute_value(result.model.graph.node[1].attribute[0]) == 4
    assert result.report.unknown_ops == {}
    assert "can't run the source" in result.report.unverified


def test_a_rule_that_says_nothing_freezes():
    @rule("Foo", domain="acme")
    def foo(op):
        pass

    groups = onnxprune.analyze(typed(make(BODY, W, domains=["acme"])))
    assert groups.groups == []
    assert groups.trace.failures == []


def test_a_rule_that_raises_is_a_failure_and_freezes():
    @rule("Foo", domain="acme")
    def foo(op):
        raise KeyError("oops")

    groups = onnxprune.analyze(typed(make(BODY, W, domains=["acme"])))
    assert groups.groups == []
    assert groups.trace.failures == ["Foo 'b': KeyError: 'oops'"]


def test_a_rule_holds_from_its_version_on():
    @rule("Relu", since=99)
    def later(op):
        raise AssertionError

    @rule("Relu", since=14)
    def own(op):
        op.freeze_all("mine")

    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  b = Relu (a)  y = MatMul (b, w2) }"
    assert onnxprune.analyze(make(body, dict(w1=(5, 8), w2=(8, 2)), opset=17)).groups == []
    assert len(onnxprune.analyze(make(body, dict(w1=(5, 8), w2=(8, 2)), opset=13)).groups) == 1


def test_layout():
    """Axis 1 of the weight has channels of its own for each of two blocks."""

    @layout("Bar", domain="acme")
    def halves(attrs, i, shape):
        return {1: int(attrs["blocks"])} if i == 1 else {}

    @rule("Bar", domain="acme")
    def bar(op):
        op.freeze_all("whole")

    body = "(float[3, 5] x) => (float[3, 8] y) { y = acme.Bar <blocks = 2> (x, w) }"
    groups = onnxprune.analyze(make(body, dict(w=(4, 8)), domains=["acme"]))
    assert groups.trace.weights["w"].labels[1].shape == (2, 8)
    assert groups.trace.weights["w"].labels[0].shape == (4,)


def test_criterion():
    @slice_criterion("first")
    def first(slices):
        return slices[:, 0]

    w1 = np.zeros((5, 4), np.float32)
    w1[0] = [4, 1, 3, 2]
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  y = MatMul (a, w2) }"
    model = make(body, dict(w1=w1, w2=np.zeros((4, 2), np.float32)))
    result = onnxprune.prune(model, ratio=0.5, criterion="first")
    assert result.plan.initializers["w1"]["removed"] == {"1": [1, 3]}


def test_unknown_criterion_is_named():
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  y = MatMul (a, w2) }"
    with pytest.raises(onnxprune.UsageError, match="unknown criterion 'nope'; there are .*l1, l2"):
        onnxprune.prune(make(body, dict(w1=(5, 8), w2=(8, 2))), criterion="nope")


@pytest.mark.parametrize(("group", "module"), [("onnxprune.rules", registry), ("onnxprune.criteria", criteria)])
def test_entry_points(group, module, monkeypatch):
    """A package names a module in the group; loading it registers."""
    loaded = []

    class Entry:
        def load(self):
            loaded.append(group)

    def entry_points(*, group: str):
        return [Entry()] if group == wanted else []

    wanted = group
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    load = {"onnxprune.rules": registry.load_all, "onnxprune.criteria": criteria._load}[group]
    load.cache_clear()
    load()
    assert loaded == [group]
    load()
    assert loaded == [group]
