"""Where models part: planted mistakes are found, named and proven."""

import importlib.util
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.comparison.compare import compare
from onnxprune.io.load import load_model
from tests.cli.conftest import ROOT
from tests.models_text import make

DATA = ROOT / "models" / "fashion_mnist.npz"


@pytest.fixture(scope="module")
def planted():
    """The benchmark that plants mistakes."""
    spec = importlib.util.spec_from_file_location("planted", ROOT / "benchmarks" / "planted.py")
    module = sys.modules["planted"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["weight", "element", "attribute", "shape"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "vit_legacy", "gru"])
def test_a_planted_mistake_is_named_and_proven(name, kind, planted):
    model = load_model(ROOT / "models" / f"{name}.onnx")
    row = planted.trial(model, kind, np.random.default_rng(len(name)))
    if row["planted"] is None:
        assert (name, kind) in {("resnet", "shape"), ("unet", "shape"), ("mobilenet", "shape")}, "the others have one"
        return
    assert row["found"] and row["proven"], row
    assert row["runs"] < 4 * np.log2(row["tensors"]) + 8


def changed(model, **weights):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for t in copy.graph.initializer:
        if t.name in weights:
            t.CopyFrom(numpy_helper.from_array(np.asarray(weights[t.name], np.float32), t.name))
    return copy


BRANCHES = """(float[N, 4] x) => (float[N, 4] y) {
  a = MatMul (x, w1)
  b = Relu (a)
  c = MatMul (x, w2)
  d = Sigmoid (c)
  e = Add (b, d)
  f = MatMul (e, w3)
  y = Tanh (f)
}"""
W = {"w1": (4, 4), "w2": (4, 4), "w3": (4, 4)}
X = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}


def other(name, factor=1.5):
    model = make(BRANCHES, W)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return held[name] * factor


def test_mistakes_in_both_branches_are_found_together():
    model = make(BRANCHES, W)
    trail = compare(model, changed(model, w1=other("w1"), w2=other("w2")), X).trail
    assert {(d.tensor, d.group) for d in trail.divergences} == {("a", 0), ("c", 0)}
    assert trail.proven
    assert [d.causes[0].split()[1] for d in trail.divergences] == ["'w1'", "'w2'"]


def test_a_mistake_behind_another_is_found_next():
    model = make(BRANCHES, W)
    trail = compare(model, changed(model, w1=other("w1"), w3=other("w3")), X).trail
    assert [(d.tensor, d.group) for d in trail.divergences] == [("a", 0), ("f", 1)]
    assert trail.proven
    assert trail.left == 0


def test_an_operator_that_is_another_one_is_named():
    model = make(BRANCHES, W)
    trail = compare(model, make(BRANCHES.replace("d = Sigmoid", "d = Tanh"), W), X).trail
    assert [d.tensor for d in trail.divergences] == ["d"]
    assert trail.divergences[0].causes == ["Sigmoid in the first model, Tanh in the second"]


def test_wiring_that_is_another_one_is_named():
    model = make(BRANCHES, W)
    trail = compare(model, make(BRANCHES.replace("e = Add (b, d)", "e = Add (b, c)"), W), X).trail
    assert [d.tensor for d in trail.divergences] == ["e"]
    assert "input 1 is 'd' in the first model, and 'c'" in trail.divergences[0].causes[0]


def test_weights_behind_constant_nodes_are_named():
    text = "(float[N, 4] x) => (float[N, 3] y) { t = Transpose <perm = [1, 0]> (w) a = MatMul (x, t) y = Relu (a) }"
    model = make(text, {"w": (3, 4)})
    shift = np.array([[0.5], [0], [0]], np.float32)
    wrong = changed(model, w=numpy_helper.to_array(model.graph.initializer[0]) + shift)
    place = compare(model, wrong, X).trail.divergences[0]
    assert place.tensor == "a"
    assert "constant 'w' [3, 4]: 4 of 12 elements differ, by up to 0.5 (index 0 of axis 0)" in place.causes


def test_a_body_of_control_flow_is_named():
    text = """(float[2, 4] x) => (float[2, 4] y) {
      a = Relu (x)
      b = Loop (n, go, a) <body = b (int64 i, bool more, float[2, 4] s) => (bool again, float[2, 4] t) {
        again = Identity (more)
        u = MatMul (s, w)
        t = LeakyRelu <alpha = 0.1> (u)
      }>
      y = Neg (b)
    }"""
    held = {"n": np.array(3), "go": np.array(True), "w": (4, 4)}
    one, two = make(text, held), make(text.replace("0.1", "0.3"), held)
    place = compare(one, two, {"x": X["x"][:2]}).trail.divergences[0]
    assert place.tensor == "b"
    assert "attribute 'alpha'" in place.causes[0] and "LeakyRelu" in place.causes[0]


def renamed(model, prefix):
    """Every tensor of the graph has another name, as from another exporter."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {o for n in copy.graph.node for o in n.output} | {t.name for t in copy.graph.initializer}
    names -= {o.name for o in copy.graph.output}
    for node in copy.graph.node:
        node.name = ""
        for held in (node.input, node.output):
            held[:] = [prefix + n if n in names else n for n in held]
    for t in copy.graph.initializer:
        t.name = prefix + t.name
    del copy.graph.value_info[:]
    return copy


@pytest.mark.parametrize("name", ["resnet", "vit_legacy"])
def test_graphs_with_other_names_are_matched_by_structure(name):
    model = load_model(ROOT / "models" / f"{name}.onnx")
    weights = [t for t in model.graph.initializer if len(t.dims) > 1 and t.data_type == 1]
    victim = weights[len(weights) // 2]
    array = np.array(numpy_helper.to_array(victim))
    array[..., 0] *= 3
    wrong = renamed(changed(model, **{victim.name: array}), "t_")
    found = compare(model, wrong, str(DATA), samples=8)
    assert found.trail.matched["structure"] > 0.9 * found.trail.tensors
    assert found.trail.proven
    assert len(found.trail.divergences) == 1
    assert f"'{victim.name}' / 't_{victim.name}'" in found.trail.divergences[0].causes[0]


def test_names_that_mean_something_else_are_not_trusted():
    """Numbers as names, shifted by one."""
    text = "(float[N, 4] x) => (float[N, 4] y) { t1 = MatMul (x, w) t2 = Relu (t1) t3 = MatMul (t2, v) t4 = Tanh (t3) y = Neg (t4) }"
    shifted = text.replace("t4", "t5").replace("t3", "t4").replace("t2", "t3").replace("t1", "t2")
    model = make(text, {"w": (4, 4), "v": (4, 4)})
    wrong = make(shifted, {"w": numpy_helper.to_array(model.graph.initializer[0]), "v": (4, 4)})
    wrong = changed(wrong, v=numpy_helper.to_array(model.graph.initializer[1]) * 2)
    trail = compare(model, wrong, X).trail
    assert trail.matched["name"] == 0
    assert [(d.tensor, d.other) for d in trail.divergences] == [("t3", "t4")]


def test_a_folded_normalization_leaves_few_tensors_and_still_finds_the_mistake():
    """One graph has Conv and BatchNormalization where the other has one Conv: rounding everywhere, and a wrong weight."""
    one, two = (load_model(ROOT / "models" / f"{n}.onnx") for n in ("resnet", "resnet_folded"))
    held = [t for t in two.graph.initializer if len(t.dims) == 4]
    array = np.array(numpy_helper.to_array(held[6]))
    array[1] *= 4
    found = compare(one, changed(two, **{held[6].name: array}), str(DATA), samples=8)
    trail = found.trail
    assert trail.proven, trail
    nodes = {n for d in trail.divergences for n in d.other_nodes}
    readers = {n.name or n.output[0] for n in two.graph.node if held[6].name in n.input}
    assert readers & nodes


def test_another_exporter_leaves_weights_and_values_to_go_by():
    """Two exports of one network: no tensor inside has the same name, and linear layers are other operators."""
    one, two = (load_model(ROOT / "models" / f"vit_{n}.onnx") for n in ("legacy", "dynamo"))
    assert compare(one, two, str(DATA), samples=8).trail is None
    held = [t for t in two.graph.initializer if len(t.dims) == 2 and min(t.dims) > 10]
    victim = held[len(held) // 2]
    array = np.array(numpy_helper.to_array(victim))
    array[5] *= 2
    trail = compare(one, changed(two, **{victim.name: array}), str(DATA), samples=8).trail
    assert trail.matched["name"] == 0
    assert trail.matched["weights"] > 20 and trail.matched["values"] > 20
    assert trail.proven and len(trail.divergences) == 1
    reader = next(n for n in two.graph.node if victim.name in n.input)
    assert trail.divergences[0].other_nodes[0] == reader.name
    assert any(repr(victim.name) in c for c in trail.divergences[0].causes)


def test_memory_bounds_how_many_tensors_are_held():
    model = load_model(ROOT / "models" / "unet.onnx")
    weights = [t for t in model.graph.initializer if len(t.dims) == 4]
    wrong = changed(model, **{weights[3].name: np.array(numpy_helper.to_array(weights[3])) * 1.5})
    options = dict(data=str(DATA), samples=4)
    many, one = compare(model, wrong, **options), compare(model, wrong, **options, memory=1)
    assert [d.tensor for d in many.trail.divergences] == [d.tensor for d in one.trail.divergences]
    assert one.trail.runs > many.trail.runs
    assert one.trail.runs < 4 * np.log2(one.trail.tensors) + 8, "one tensor a run is a bisection"


def test_figures_stay_where_the_inside_cannot_be_run(monkeypatch):
    from onnxprune.comparison.sides import Side

    def refuse(self, *arguments):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Side, "tensors", refuse)
    model = make(BRANCHES, W)
    found = compare(model, changed(model, w1=other("w1")), X)
    assert found.outputs[0].max_rel > 0.01
    assert "can't be compared" in found.trail.note and not found.trail.proven
