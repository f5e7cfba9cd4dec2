"""Sensitivity: what an error at the readers of a group does to the model's output."""

import numpy as np
import onnx
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.pipeline.stages import analysed
from onnxprune.statistics.sensitivity import output_sensitivity
from tests.models_text import make

BRANCHES = """(float[N, 6] x) => (float[N, 5] y) {
  a0 = MatMul (x, wa)
  a1 = Relu (a0)
  a = MatMul (a1, va)
  b0 = MatMul (x, wb)
  b1 = Relu (b0)
  b2 = MatMul (b1, vb)
  b = Mul (b2, factor)
  y = Add (a, b)
}"""
SEQUENCE = """(float[N, S, 6] x, int64[N, S] mask) => (float[N, S, 5] y) {
  a0 = MatMul (x, wa)
  a1 = Relu (a0)
  a = MatMul (a1, va)
  m0 = Cast <to = 1> (mask)
  axis = Constant <value_ints = [2]> ()
  m = Unsqueeze (m0, axis)
  one = Constant <value_float = 1.0> ()
  rest = Sub (one, m)
  waste = Mul (rest, big)
  gain = Add (m, waste)
  y = Mul (a, gain)
}"""


def branches(factor):
    model = make(BRANCHES, dict(wa=(6, 8), va=(8, 5), wb=(6, 8), vb=(8, 5), factor=()))
    tensor = next(t for t in model.graph.initializer if t.name == "factor")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(factor), "factor"))
    return model


def samples(x, size=None, **others):
    size = size or len(x)
    parts = [slice(k, k + size) for k in range(0, len(x), size)]
    batches = [Batch({"x": x[p], **{n: a[p] for n, a in others.items()}}, len(x[p])) for p in parts]
    return Samples(batches, len(x), "test", False, "mask" if others else None)


def by_weight(model, given):
    prepared, groups = analysed(model, width=False, shapes=None)
    found = output_sensitivity(prepared.model, groups, given)
    return {group.members[0][0]: found[group.id] for group in groups.groups}


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


def test_it_is_the_share_of_the_output_that_a_branch_makes_up(x):
    model = branches(0.1)
    outputs = dict(zip("ab", run_tensors(model, x, ["a", "b"]), strict=True))
    whole = sum((outputs["a"].astype(np.float64) + outputs["b"]).ravel() ** 2)
    expected = {n: len(v) * v.astype(np.float64).var(axis=0).sum() / whole for n, v in outputs.items()}
    found = by_weight(model, samples(x))
    assert found["wa"] == pytest.approx(expected["a"], rel=0.2)
    assert found["wb"] == pytest.approx(expected["b"], rel=0.2)
    assert found["wa"] > 20 * found["wb"]


def run_tensors(model, x, names):
    from onnxprune.proof.session import run

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    return run(copy, {"x": x}, names)


def test_neither_order_nor_batches_matter(x):
    model = branches(0.5)
    whole = by_weight(model, samples(x))
    mixed = by_weight(model, samples(np.ascontiguousarray(x[::-1]), 7))
    assert mixed == pytest.approx(whole, rel=1e-5)


def test_padding_does_not_count():
    """Behind padding the output is a thousand times as large, and nothing of it may count."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 4, 6)).astype(np.float32)
    mask = np.ones((40, 4), np.int64)
    mask[:, 2:] = 0
    model = make(SEQUENCE, dict(wa=(6, 8), va=(8, 5), big=()))
    tensor = next(t for t in model.graph.initializer if t.name == "big")
    found = []
    for big in (0.0, 1000.0):
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(big), "big"))
        found.append(by_weight(model, samples(x, mask=mask))["wa"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_source_is_not_changed(x):
    model = branches(0.1)
    before = model.SerializeToString()
    by_weight(model, samples(x))
    assert model.SerializeToString() == before
