"""Equal tensors are stored once, and the model computes the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.io.load import load_model
from onnxprune.io.share import share_initializers
from onnxprune.proof.session import run
from tests.models_text import make

BODY = """(float[N, 4] x) => (float[N, 4] y) {
  c = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
  a = Add (x, p)
  b = Mul (a, c)
  d = Add (b, q)
  e = MatMul (d, r)
  f = Add (e, u)
  y = MatMul (f, s)
}"""
P = np.array([1, 2, 3, 4], np.float32)
SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4)
WEIGHTS = dict(p=P, q=P.copy(), r=SQUARE, s=SQUARE.copy(), u=P.reshape(1, 4))


def both(model, shared):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    return [run(m, {"x": x}, ["y"])[0] for m in (model, shared)]


def test_equal_tensors_become_one():
    model = make(BODY, WEIGHTS)
    stored = model.SerializeToString()
    shared, renamed = share_initializers(model)
    assert renamed == {"q": "p", "s": "r", "c": "p"}  # u has another shape
    assert {t.name for t in shared.graph.initializer} == {"p", "r", "u"}
    assert all(n.op_type != "Constant" for n in shared.graph.node)
    onnx.checker.check_model(shared, full_check=True)
    assert np.array_equal(*both(model, shared))
    assert model.SerializeToString() == stored
    assert share_initializers(shared) == (shared, {})


def test_constant_nodes_alone_are_read_from_the_first():
    body = """(float[N, 2] x) => (float[N, 2] y) {
      c = Constant <value = float[2] {1.0, 2.0}> ()
      a = Add (x, c)
      d = Constant <value = float[2] {1.0, 2.0}> ()
      y = Mul (a, d)
    }"""
    model = make(body, {})
    model.graph.node.insert(0, model.graph.node[2])
    del model.graph.node[3]
    shared, renamed = share_initializers(model)
    assert len(renamed) == 1 and [n.op_type for n in shared.graph.node] == ["Constant", "Add", "Mul"]
    onnx.checker.check_model(shared, full_check=True)


def test_storage_does_not_matter():
    model = make(BODY, WEIGHTS)
    plain = helper.make_tensor("q", TensorProto.FLOAT, [4], P.tolist())
    assert plain.float_data and model.graph.initializer[1].raw_data
    model.graph.initializer[1].CopyFrom(plain)
    assert share_initializers(model)[1]["q"] == "p"


def test_what_can_be_fed_or_is_kept_stays():
    listed = make(BODY, WEIGHTS, listed=True)
    assert share_initializers(listed)[1] == {}
    model = make(BODY, WEIGHTS)
    assert share_initializers(model, keep={"q", "c"})[1] == {"s": "r"}


def test_bits_and_types_have_to_agree():
    zeros = [np.zeros(4, np.float32), -np.zeros(4, np.float32), np.zeros(4, np.int32)]
    model = make(BODY, WEIGHTS)
    for k, array in enumerate(zeros):
        model.graph.initializer.append(numpy_helper.from_array(array, f"zero{k}"))
    assert not {"zero1", "zero2"} & set(share_initializers(model)[1])


def test_bodies_read_the_shared_name():
    body = """(float[N, 4] x, bool k) => (float[N, 4] y) {
      a = Add (x, p)
      y = If (k) <
        then_branch = one () => (float[N, 4] t) { t = Mul (a, q) },
        else_branch = two () => (float[N, 4] o) { o = Sub (a, q) }
      >
    }"""
    model = make(body, dict(p=P, q=P.copy()))
    shared, renamed = share_initializers(model)
    assert renamed == {"q": "p"}
    for k in (True, False):
        feeds = {"x": np.ones((2, 4), np.float32), "k": np.array(k)}
        assert np.array_equal(*(run(m, feeds, ["y"])[0] for m in (model, shared)))


@pytest.mark.parametrize("name", ["vit_legacy", "gru"])
def test_models_of_exporters(name):
    model = load_model(f"models/{name}.onnx")
    shared, renamed = share_initializers(model)
    assert renamed and shared.ByteSize() < model.ByteSize()
    onnx.checker.check_model(shared, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    assert np.array_equal(*(run(m, {"image": x}, [model.graph.output[0].name])[0] for m in (model, shared)))


def test_a_plan_still_verifies_what_is_shared():
    result = onnxprune.prune("models/gru.onnx", ratio=0.25, merge=True)
    assert result.report.shared and result.report.verification.passed
    assert onnxprune.verify("models/gru.onnx", result.model, result.plan).passed
    assert not set(result.report.shared) & {t.name for t in result.model.graph.initializer}


def test_a_tensor_that_is_shared_wrongly_fails_the_proof():
    body = """(float[N, 4] x) => (float[N, 2] y) {
      a = MatMul (x, r)
      b = Relu (a)
      c = MatMul (b, s)
      d = Relu (c)
      y = MatMul (d, z)
    }"""
    model = make(body, dict(r=(4, 6), s=(6, 6), z=(6, 2)))
    result = onnxprune.prune(model, ratio=0.34, merge=True)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(result.model)
    assert onnxprune.verify(model, wrong, result.plan).passed
    reader = next(n for n in wrong.graph.node if "s" in n.input)
    for k, t in enumerate(wrong.graph.initializer):
        if t.name == "s":
            del wrong.graph.initializer[k]
            break
    wrong.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), "other"))
    reader.input[1] = "other"
    assert not onnxprune.verify(model, wrong, result.plan).passed
