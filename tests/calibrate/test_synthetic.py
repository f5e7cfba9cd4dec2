"""Random samples where there is no data."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.calibrate.read import read_samples
from onnxprune.calibrate.synthetic import affordable, unlike_any
from onnxprune.errors import ModelError
from onnxprune.proof.session import run


def test_images_are_seeded(model):
    wanted = model("float[N, 3, 16, 16] x")
    found = read_samples(None, wanted, samples=40, seed=1)
    assert (found.synthetic, found.count, found.origin) == (True, 40, "40 synthetic samples, no data was given: 'x' images")
    assert [b.feeds["x"].shape for b in found.batches] == [(32, 3, 16, 16), (8, 3, 16, 16)]
    values = found.batches[0].feeds["x"]
    assert values.dtype == np.float32 and abs(values.mean()) < 0.3 and abs(values.std() - 1) < 0.2
    again, other = (read_samples(None, wanted, samples=40, seed=s).batches[0].feeds["x"] for s in (1, 2))
    np.testing.assert_array_equal(values, again)
    assert not np.array_equal(values, other)
    assert not np.array_equal(values[:8], found.batches[1].feeds["x"])
    np.testing.assert_array_equal(values, found.batches[0].feeds["x"])


def test_fixed_batches(model):
    found = read_samples(None, model("float[4, 3] x"), samples=6)
    assert [(len(b.feeds["x"]), b.count) for b in found.batches] == [(4, 4), (4, 2)]


def test_token_models(model):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (int64[N, S] ids, int64[N, S] attention_mask) => (float[N, S, 3] y, int64[N, S] z) {
      y = Gather (table, ids)
      z = Identity (attention_mask)
    }
    """
    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.append(numpy_helper.from_array(np.ones((11, 3), np.float32), "table"))
    found = read_samples(None, parsed, samples=64, shapes={"ids": (1, 9), "attention_mask": (1, 9)})
    feeds = found.batches[0].feeds
    assert feeds["ids"].shape == (32, 9)
    assert set(np.unique(feeds["ids"])) == set(range(11))
    assert (feeds["attention_mask"] == 1).all()
    assert found.mask == "attention_mask"
    run(parsed, feeds, ["y", "z"])


def test_float_masks_and_pixels(model):
    feeds = read_samples(None, model("float[N, 8] padding_mask, uint8[N, 8, 8, 3] image")).batches[0].feeds
    assert (feeds["padding_mask"] == 1).all()
    assert feeds["image"].min() < 20 and feeds["image"].max() > 235


@pytest.mark.parametrize(
    "inputs", ["float[T, B, 4] x, float[2, B, 8] h", "float[N, 4] x, float s", "float[N, 4] x, float[M, N] z"]
)
def test_inputs_without_an_open_batch_axis_of_their_own(model, inputs):
    wanted = model(inputs)
    found = read_samples(None, wanted, samples=30)
    assert found.count >= 30
    assert len({str({n: a.shape for n, a in b.feeds.items()}) for b in found.batches}) == 1
    run(wanted, found.batches[0].feeds, [o.name for o in wanted.graph.output])


@pytest.mark.parametrize(("inner", "rows"), [("N", None), ("2*N", None), ("Nodes", 32), ("S", 32)])
def test_a_batch_axis_that_others_depend_on_keeps_its_size(model, inner, rows):
    wanted = model("float[N, 4] x, float[N, S] z")
    wanted.graph.input[1].type.tensor_type.shape.dim[1].dim_param = inner
    feeds = read_samples(None, wanted).batches[0].feeds
    if rows:
        assert len(feeds["x"]) == len(feeds["z"]) == rows
    else:
        assert feeds["z"].shape[1] == len(feeds["x"]) * (2 if "2" in inner else 1)


def test_shapes_that_do_not_fit(model):
    with pytest.raises(ModelError, match="does not fit input 'x'"):
        read_samples(None, model("float[N, 3] x"), shapes={"x": (1, 4)})


def test_sequences_of_tokens_are_as_long_as_sentences(model):
    parsed = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    m (int64[N, S] ids, int64[N, S] position_ids) => (float[N, S, 3] y) {
      a = Gather (table, ids)
      b = Gather (places, position_ids)
      y = Add (a, b)
    }
    """)
    for name, rows in (("table", 3000), ("places", 80)):
        parsed.graph.initializer.append(numpy_helper.from_array(np.ones((rows, 3), np.float32), name))
    feeds = read_samples(None, parsed, samples=64).batches[0].feeds
    np.testing.assert_array_equal(feeds["position_ids"], np.tile(np.arange(64), (32, 1)))
    ids = feeds["ids"]
    assert ids.shape == (32, 64) and ids.min() >= 0 and ids.max() < 3000
    assert np.median(ids) < 700 < ids.max()  # p(id) ~ 1 / (id + 100): the median is at 457
    short = read_samples(None, parsed, samples=8, shapes={"ids": (1, 9), "position_ids": (1, 9)})
    assert short.batches[0].feeds["ids"].shape == (8, 9)


def test_what_depends_on_other_inputs_has_no_likeness(model):
    assert unlike_any(model("float[N, 3, 16, 16] x, int64[N, S] attention_mask")) == ""
    assert unlike_any(model("float[N, 8] padding_mask, float[N, 8, 4] x")) == ""
    assert "'x', 'state' depend on each other" in unlike_any(model("float[N, 8] x, float[2, N, 8] state"))
    assert "neither numbers" in unlike_any(model("string[N] x"))


def test_integers_of_no_known_meaning_would_make_all_samples_the_same(model):
    assert "which numbers 'codes' would hold" in unlike_any(model("int64[N, 8] codes"))
    assert unlike_any(model("int64[N, 8] codes, float[N, 8] x")) == ""


def test_large_models_get_fewer_samples(model):
    assert affordable(model("float[N, 3, 16, 16] x"), None) == 1024
    assert affordable(model("float[N, 3, 256, 256] x"), None) == (1 << 27) // (3 * 256 * 256)
    assert affordable(model("float[N, 3, 2048, 2048] x"), None) == 32
    assert affordable(model("float[N, 3, 2048, 2048] x"), None, 8) == 8
