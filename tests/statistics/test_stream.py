"""A stream computes what one run of the whole model does, in pieces, and keeps to its budget."""

import numpy as np
import onnx
import pytest

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError
from onnxprune.proof.session import run
from onnxprune.statistics.flow import lift
from onnxprune.statistics.shelf import at_hand
from onnxprune.statistics.stream import Stream
from tests.models_text import make

TEXT = """(float[N, 3, 16, 16] x) => (float[N, 4, 16, 16] y) {
  k = Constant <value = float[1] {2.0}> ()
  a = Conv (x, w1)
  b = Relu (a)
  c = Mul (b, k)
  d = Conv (c, w2)
  e = Add (d, a)
  y = Conv (e, w3)
}"""


@pytest.fixture
def model():
    return lift(make(TEXT, dict(w1=(8, 3, 1, 1), w2=(8, 8, 1, 1), w3=(4, 8, 1, 1))))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    batches = [Batch({"x": rng.standard_normal((n, 3, 16, 16)).astype(np.float32)}, n) for n in (4, 4, 2)]
    return Samples(batches, 10, "test", False, None)


@pytest.mark.parametrize("budget", [0, 1 << 16, 1 << 30])
def test_pieces_are_the_whole(model, samples, budget):
    stream = Stream(model, samples, budget)
    for names in (["a"], ["b"], ["d", "a"], ["y"]):
        stream.compute(names)
        for b, batch in enumerate(samples.batches):
            for name, expected in zip(names, run(with_outputs(model, names), batch.feeds, names), strict=True):
                assert np.allclose(stream.get(name, b, batch.feeds), expected, atol=1e-5)
        assert stream.shelf.bytes <= max(budget, 1 << 16) + (1 << 18)
    assert set(stream.held) == {"y"}


def with_outputs(model, names):
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n != "y")
    return result


def test_each_node_runs_once(model, samples):
    stream = Stream(model, samples)
    ran: list[int] = []
    inner = stream.run
    stream.run = lambda nodes, outputs: (ran.extend(nodes), inner(nodes, outputs))[1]
    for name in ("a", "b", "c", "d", "y"):
        stream.compute([name])
    assert sorted(ran) == sorted(set(ran)) and len(ran) == len(model.graph.node)


def test_weights_change_what_has_not_run(model, samples):
    stream = Stream(model, samples)
    stream.compute(["c"])
    stream.weights["w2"] = np.zeros((8, 8, 1, 1), np.float32)
    stream.weights["w1"] = np.zeros((8, 3, 1, 1), np.float32)
    stream.compute(["d", "a"])
    feeds = samples.batches[0].feeds
    assert not stream.get("d", 0, feeds).any() and stream.get("a", 0, feeds).any()


def test_redone_nodes_see_new_weights(model, samples):
    stream = Stream(model, samples)
    stream.pinned = {"c"}
    stream.compute(["e"])
    stream.weights["w2"] = np.zeros((8, 8, 1, 1), np.float32)
    stream.redo({k for k, n in enumerate(stream.flow.nodes) if n.output[0] == "d"})
    stream.compute(["d"])
    assert not stream.get("d", 0, samples.batches[0].feeds).any()


def test_a_part_that_fails_names_its_node(model, samples):
    stream = Stream(model, samples)
    stream.weights["w2"] = np.zeros((8, 7, 1, 1), np.float32)
    with pytest.raises(ModelError, match="can't run the model on the calibration samples"):
        stream.compute(["y"])


def test_at_hand_spills(samples):
    held = at_hand(samples, 0)
    assert [b.count for b in held.batches] == [4, 4, 2]
    for one, two in zip(held.batches, samples.batches, strict=True):
        assert np.array_equal(one.feeds["x"], two.feeds["x"])


def test_at_hand_remembers_which_samples_they_are(tmp_path):
    model = make("(float[N, S] x) => (float[N, S] y) { y = Identity (x) }", {})
    for k, length in enumerate([2, 3, 2]):
        np.save(tmp_path / f"{k}.npy", np.full(length, k, np.float32))
    held = at_hand(read_samples(tmp_path, model), 1 << 20)
    assert [b.samples.tolist() for b in held.batches] == [[0, 2], [1]]
    assert [held.name(k) for k in range(3)] == ["0.npy", "1.npy", "2.npy"]
