"""Evaluation data becomes feeds of the right layout, and scores are those of numpy."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.errors import ModelError
from onnxprune.metrics.data import load_data
from onnxprune.report.evaluate import evaluate

RNG = np.random.default_rng(0)


def parse(text: str, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {text}')
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def score(model, tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return evaluate(model.SerializeToString(), load_data(tmp_path / "data.npz", model))


W = RNG.standard_normal((6, 4)).astype(np.float32)
X = RNG.standard_normal((230, 6)).astype(np.float32)
LABELS = RNG.integers(0, 4, 230)


@pytest.mark.parametrize("batch", ["N", "1", "7", "230", "500"])
def test_accuracy_is_the_same_for_every_batch_size(tmp_path, batch):
    model = parse(f"(float[{batch}, 6] x) => (float[{batch}, 4] y) {{ y = MatMul (x, w) }}", w=W)
    found = score(model, tmp_path, x=X, labels=LABELS)
    expected = (X @ W).argmax(1)
    assert found.metric == "accuracy"
    assert found.samples == 230
    np.testing.assert_array_equal(found.predictions, expected)
    assert found.value == pytest.approx((expected == LABELS).mean() * 100)


def test_agreement_compares_predictions(tmp_path):
    text = "(float[N, 6] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    one = score(parse(text, w=W), tmp_path, x=X, labels=LABELS)
    two = score(parse(text, w=np.roll(W, 1, axis=1)), tmp_path, x=X, labels=LABELS)
    assert one.agreement(one) == 100
    assert one.agreement(two) == 0


def test_integer_outputs_are_classes(tmp_path):
    text = "(float[N, 6] x) => (int64[N] y) { s = MatMul (x, w) y = ArgMax <axis = 1, keepdims = 0> (s) }"
    found = score(parse(text, w=W), tmp_path, x=X, labels=(X @ W).argmax(1))
    assert found.value == 100


def test_scores_are_found_behind_other_outputs(tmp_path):
    text = "(float[N, 6] x) => (float[N, 6] z, float[N, 4, 1] y) { z = Relu (x) s = MatMul (x, w) y = Unsqueeze (s, a) }"
    model = parse(text, w=W, a=np.array([2]))
    found = score(model, tmp_path, x=X, labels=np.full(230, 9))  # no output has ten classes
    assert found.metric == "mse"
    model = parse(text.replace("float[N, 6] z, ", ""), w=W, a=np.array([2]))
    assert score(model, tmp_path, x=X, labels=(X @ W).argmax(1)).value == 100


@pytest.mark.parametrize("name", ["targets", "y"])
def test_targets_give_a_squared_error(tmp_path, name):
    model = parse("(float[N, 6] x) => (float[N, 4] y) { y = MatMul (x, w) }", w=W)
    targets = RNG.standard_normal((230, 4)).astype(np.float32)
    found = score(model, tmp_path, x=X, **{name: targets})
    assert found.metric == "mse"
    assert found.value == pytest.approx(((X @ W - targets) ** 2).mean(), rel=1e-5)
    assert found.agreement(found) is None


def test_an_autoencoder_is_compared_with_its_input(tmp_path):
    model = parse("(float[N, 6] x) => (float[N, 6] y) { y = Mul (x, c) }", c=np.float32(0.5))
    assert score(model, tmp_path, x=X).value == pytest.approx((X**2).mean() / 4, rel=1e-5)


def test_several_inputs(tmp_path):
    model = parse("(float[N, 6] x, int64[N, 6] z) => (float[N, 6] y) { f = Cast <to = 1> (z) y = Add (x, f) }")
    z = RNG.integers(0, 3, (230, 6))
    assert score(model, tmp_path, x=X, z=z, targets=X + z).value == pytest.approx(0, abs=1e-12)


IMAGES = RNG.integers(0, 256, (12, 5, 7, 3)).astype(np.uint8)
MEAN, STD = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
IDENTITY = "(float[N, {}] x) => (float[N, {}] y) {{ y = Identity (x) }}"


def identity(shape: str):
    return parse(IDENTITY.format(shape, shape))


def test_colour_images_become_channels_first(tmp_path):
    normal = (IMAGES / 255 - MEAN) / STD
    targets = normal.transpose(0, 3, 1, 2)
    found = score(identity("3, 5, 7"), tmp_path, images=IMAGES, mean=MEAN, std=STD, targets=targets)
    assert found.value == pytest.approx(0, abs=1e-10)


def test_colour_images_stay_channels_last_where_the_model_wants_it(tmp_path):
    normal = (IMAGES / 255 - MEAN) / STD
    found = score(identity("5, 7, 3"), tmp_path, images=IMAGES, mean=MEAN, std=STD, targets=normal)
    assert found.value == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("shape", ["1, 5, 7", "5, 7"])
def test_grey_images(tmp_path, shape):
    grey = IMAGES[..., 0]
    targets = (grey / 255 - 0.25) / 0.5
    found = score(
        identity(shape),
        tmp_path,
        images=grey,
        mean=np.float32(0.25),
        std=np.float32(0.5),
        targets=targets[:, None] if shape.startswith("1") else targets,
    )
    assert found.value == pytest.approx(0, abs=1e-10)


def test_images_without_mean_are_between_0_and_1(tmp_path):
    targets = (IMAGES / 255).transpose(0, 3, 1, 2)
    found = score(identity("3, 5, 7"), tmp_path, images=IMAGES, targets=targets)
    assert found.value == pytest.approx(0, abs=1e-10)


def test_an_integer_input_gets_pixels(tmp_path):
    model = parse("(uint8[N, 3, 5, 7] x) => (float[N, 3, 5, 7] y) { y = Cast <to = 1> (x) }")
    found = score(model, tmp_path, images=IMAGES, mean=MEAN, targets=IMAGES.transpose(0, 3, 1, 2))
    assert found.value == 0


@pytest.mark.parametrize(
    ("shape", "arrays", "words"),
    [
        ("3, 5, 7", {"images": IMAGES.astype(np.float32)}, "uint8"),
        ("3, 5, 7", {"images": IMAGES[..., 0]}, r"\[N, 3, 5, 7\]"),
        ("3, 5, 7", {"images": IMAGES, "mean": np.zeros(2)}, "'mean' has 2 values"),
        ("3, 5, 7", {"images": IMAGES, "labels": np.zeros(12)}, "'labels' has to be integers"),
        ("3, 5, 7", {"images": IMAGES, "labels": np.zeros(11, int)}, "same number of samples"),
        ("3, 5, 7", {"images": IMAGES[:0]}, "at least one"),
        ("3, 5, 7", {"pictures": IMAGES}, "'pictures'.*'x'.*'images'"),
        ("3, 5, 7, 1, 1", {"images": IMAGES}, "rank 6"),
    ],
)
def test_data_that_does_not_fit_is_explained(tmp_path, shape, arrays, words):
    with pytest.raises(ModelError, match=words):
        score(identity(shape), tmp_path, **arrays)


def test_data_without_anything_to_compare_with(tmp_path):
    model = parse("(float[N, 6] x) => (float[N, 4] y) { y = MatMul (x, w) }", w=W)
    with pytest.raises(ModelError, match=r"'labels' or 'targets' that fit.*'y' \[100, 4\]"):
        score(model, tmp_path, x=X)


def test_files_that_are_no_archives(tmp_path):
    model = identity("6")
    np.save(tmp_path / "data.npy", X)
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(ModelError, match="one array"):
        load_data(tmp_path / "data.npz", model)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    with pytest.raises(ModelError, match="no npz file of plain arrays"):
        load_data(tmp_path / "objects.npz", model)
