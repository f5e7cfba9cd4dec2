"""A quick look at latencies in one process."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxprune.bench.inputs import made_up, of_one_run
from onnxprune.bench.quick import latency
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.errors import ModelError

from .conftest import chain

FEEDS = {"h0": np.ones((16, 256), np.float32)}


def test_a_longer_model_takes_longer():
    models = {"short": chain(1).SerializeToString(), "long": chain(40).SerializeToString()}
    found = latency(models, FEEDS, seconds=0.3)
    assert found["long"].p50 > 2 * found["short"].p50
    assert len(found["short"].rounds) == len(found["long"].rounds) >= 10


def test_files_work_as_bytes_do(files):
    assert len(latency({"m": files[0]}, FEEDS, seconds=0, min_rounds=4)["m"].rounds) == 4


def test_a_model_that_cannot_run_is_named():
    with pytest.raises(ModelError, match="^a: ONNX Runtime can't run it"):
        latency({"a": chain(1).SerializeToString()}, {"h0": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match="^b: ONNX Runtime can't load it"):
        latency({"b": b"junk"}, FEEDS)


def inputs_of(text: str, batch: int = 1, **shapes):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {text}')
    return {name: array.shape for name, array in made_up(model, batch, shapes).items()}


@pytest.mark.parametrize("batch", [1, 8])
def test_a_symbolic_first_dimension_is_the_batch(batch):
    text = "(float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Add (x, z) }"
    assert inputs_of(text, batch) == {"x": (batch, 3), "z": (batch, 3)}


def test_fixed_and_given_dimensions_stay():
    text = "(float[4, M] x) => (float[4, M] y) { y = Relu (x) }"
    (shape,) = inputs_of(text).values()
    assert shape[0] == 4 and shape[1] > 1
    assert inputs_of("(float[N, M] x) => (float[N, M] y) { y = Relu (x) }", x=(5, 6)) == {"x": (5, 6)}


OPEN = "(float[N, S] x) => (float[N, S] y) { y = Relu (x) }"


@pytest.fixture
def texts():
    """Eleven samples, most of them of length 5."""
    sizes = [(2, 3), (7, 5), (1, 9), (1, 8)]
    batches = [Batch({"x": np.full((n, length), length, np.float32)}, n) for n, length in sizes]
    return Samples(batches, 11, "texts", False, None)


def fed(text, batch=1, samples=None, **shapes):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {text}')
    return of_one_run(model, batch, shapes, samples)["x"]


def test_models_are_timed_with_samples_of_the_usual_size(texts):
    assert fed(OPEN, samples=texts).tolist() == [[5.0] * 5]
    assert fed(OPEN, 9, samples=texts).tolist() == [[5.0] * 5] * 9


def test_other_inputs_are_made_up_where_shapes_ask_for_them(texts):
    assert fed(OPEN, samples=texts, x=(1, 5)).tolist() == [[5.0] * 5]
    assert fed(OPEN, samples=texts, x=(1, 6)).shape == (1, 6)
    random = replace(texts, synthetic=True)
    assert fed(OPEN, samples=random).shape == fed(OPEN).shape != (1, 5)


def test_a_batch_that_the_model_fixes_is_fed_whole(texts):
    whole = replace(texts, batches=texts.batches[1:2])
    assert fed("(float[7, S] x) => (float[7, S] y) { y = Relu (x) }", samples=whole).shape == (7, 5)
