"""The oracle passes what is right and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.api import prune, verify
from onnxprune.errors import PlanError, VerificationError
from onnxprune.prepare.prepare import prepare
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import compare, relative_error
from onnxprune.proof.session import run
from tests.models_text import ints, make


def edited(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """The model with one weight changed."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensor = next(t for t in result.graph.initializer if t.name == name)
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return result


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def swapped(axis: int):
    def change(array):
        order = np.arange(array.shape[axis])
        order[[0, 1]] = order[[1, 0]]
        return array.take(order, axis)

    return change


@pytest.fixture
def result(net):
    return prune(net, ratio=0.5)


def test_what_prune_made_passes(net, result):
    found = verify(net, result.model, result.plan)
    assert found.passed and found.error < 1e-5 and found.outputs == ["y"] and found.message == ""
    assert found.shapes == {"x": (2, 3, 6, 6)}


def test_other_weights_pass_too(net, result):
    """What stays may change: the proof is of the structure."""
    changed = edited(result.model, "w3", lambda a: a * 2 + 1)
    assert verify(net, changed, result.plan).passed


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_channels_that_change_places_in_one_weight_are_other_weights(net, result, name):
    """Any weights of the right shape pass, so a mere exchange of values passes: the plan says where they belong."""
    assert verify(net, edited(result.model, name, swapped(0)), result.plan).passed


def error_after(net, result, change=lambda model: model) -> float:
    """Error of the source, with zeros by the plan, against the pruned model; weights of the source."""
    full = onnx.ModelProto()
    full.CopyFrom(net)
    for tensor in full.graph.initializer:
        entry = result.plan.initializers.get(tensor.name)
        if entry is None:
            continue
        array = numpy_helper.to_array(tensor).copy()
        for axis, removed in entry["removed"].items():
            if removed and isinstance(removed[0], list):
                for part, rows in zip(np.split(array, len(removed)), removed, strict=True):
                    np.moveaxis(part, int(axis), 0)[rows] = 0
            else:
                np.moveaxis(array, int(axis), 0)[removed] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    prepared = prepare(net)
    feeds = random_inputs(prepared.graph, prepared.shapes, prepared.inferred.scopes[id(prepared.graph)], 0)
    return compare(full, change(result.model), prepared.graph, feeds, 1e-4).error


def test_zeros_by_hand_agree(net, result):
    """The oracle against zeros that this test puts in, not the package."""
    assert error_after(net, result) < 1e-5


@pytest.mark.parametrize("name", ["w1", "b1", "wg", "w2"])
def test_a_wrong_slice(net, result, name):
    """A slice that should have gone in the place of one that stays."""
    removed = result.plan.initializers[name]["removed"]["0"]
    wrong = weight(net, name)[removed[0]]

    def change(array):
        array[0] = wrong[tuple(slice(n) for n in array.shape[1:])]
        return array

    assert error_after(net, result, lambda m: edited(m, name, change)) > 1e-3


@pytest.mark.parametrize(("name", "axis"), [("w1", 0), ("b1", 0), ("w2", 0), ("w2", 1), ("wg", 0), ("w3", 0)])
def test_a_swapped_channel(net, result, name, axis):
    assert error_after(net, result, lambda m: edited(m, name, swapped(axis))) > 1e-4


@pytest.mark.parametrize("group", [1, 4])
def test_a_wrong_group_attribute(net, result, group):
    model = onnx.ModelProto()
    model.CopyFrom(result.model)
    node = next(n for n in model.graph.node if n.output[0] == "c")
    next(a for a in node.attribute if a.name == "group").i = group
    found = verify(net, model, result.plan)
    assert not found.passed
    assert "Conv" in found.message or "differs" in found.message


def test_an_activation_that_went(net, result):
    """A Tanh replaced by Identity."""
    model = onnx.ModelProto()
    model.CopyFrom(result.model)
    next(n for n in model.graph.node if n.output[0] == "d").op_type = "Identity"
    found = verify(net, model, result.plan)
    assert not found.passed and found.error > 1e-2 and "'y' differs" in found.message


def test_the_plan_of_another_model(net, result):
    with pytest.raises(PlanError, match="hash"):
        verify(edited(net, "w3", lambda a: a + 1), result.model, result.plan)


def test_a_source_that_does_not_run(make):
    """Nothing is said about a model that ONNX Runtime can't run."""
    model = make(
        """
        <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        m (float[2, 3] x) => (float[2, 4] y, float[2, 3] z) {
          a = MatMul (x, w1)
          b = Relu (a)
          y = MatMul (b, w2)
          z = acme.Unknown (x)
        }
        """,
        w1=(3, 8),
        w2=(8, 4),
    )
    result = prune(model, ratio=0.5)
    assert result.report.verification is None and "acme" in result.report.unverified
    with pytest.raises(VerificationError):
        verify(model, result.model, result.plan)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.4, -4.0], 0.1),
        ([0.0, 0.0], [0.0, 0.5], 0.5),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_relative_error(a, b, error):
    assert relative_error(np.array(a), np.array(b)) == pytest.approx(error)


def test_relative_error_of_integers_and_types():
    assert relative_error(np.array([1, 2]), np.array([1, 2])) == 0
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert relative_error(np.array([1], np.float32), np.array([1], np.float64)) == np.inf
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_what_the_runtime_rewrites_is_not_our_failure():
    """ONNX Runtime merges a zero Pad into MaxPool, which pads with -inf: another function where all values are negative."""
    model = make(
        """(float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) {
          a0 = Relu (x)
          a1 = Conv (a0, w1, b1)
          p = Pad <mode = "constant"> (a1, pads)
          m = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)
          y = Conv (m, w2)
        }""",
        dict(
            w1=-np.abs(np.random.default_rng(0).standard_normal((6, 3, 1, 1))).astype(np.float32),
            b1=np.full(6, -1, np.float32),
            pads=ints(0, 0, 1, 1, 0, 0, 1, 1),
            w2=(4, 6, 1, 1),
        ),
    )
    found = prune(model, ratio=0.5).report.verification
    assert found.passed and found.error < 1e-5
    x = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    differs = relative_error(*(run(model, x, ["y"], optimize=o)[0] for o in (False, True))) > 1e-4
    assert (found.rewritten > 1e-4) == differs
