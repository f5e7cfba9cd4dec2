"""The same figure from every form of the same data."""

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.data import load_data
from tests.metrics.conftest import MODELS
from tests.models_text import make

RNG = np.random.default_rng(5)
X = RNG.standard_normal((23, 8)).astype(np.float32)
LABELS = RNG.integers(0, 6, 23)


@pytest.fixture
def expected(linear):
    return pytest.approx(((X @ linear[1]).argmax(1) == LABELS).mean() * 100)


def npz(folder, count=23):
    np.savez(folder / "data.npz", x=X, labels=LABELS, note=np.zeros(3))
    return folder / "data.npz"


def folder_of_npz(folder):
    for k in range(23):
        np.savez(folder / f"{k:02}.npz", x=X[k], labels=LABELS[k])
    return folder


def folder_of_batches(folder):
    for k, rows in enumerate(np.array_split(np.arange(23), 4)):
        np.savez(folder / f"{k}.npz", x=X[rows], labels=LABELS[rows])
    return folder


def function(folder):
    np.savez(folder / "held.npz", x=X, labels=LABELS)
    code = """
import numpy as np
from pathlib import Path
held = np.load(Path(__file__).parent / "held.npz")
def samples():
    for x, label in zip(held["x"], held["labels"]):
        yield {"x": x, "labels": label}
"""
    (folder / "mine.py").write_text(code)
    return f"{folder / 'mine.py'}:samples"


@pytest.mark.parametrize("form", [npz, folder_of_npz, folder_of_batches, function])
def test_forms_with_labels(linear, score, tmp_path, expected, form):
    found = score(linear[0], form(tmp_path))
    assert (found.metric, found.samples, found.value) == ("accuracy", 23, expected)


@pytest.mark.parametrize("name", ["labels.npy", "labels.txt", "truth"])
def test_labels_beside_the_data(linear, score, tmp_path, expected, name):
    data, place = tmp_path / "data", tmp_path / name
    data.mkdir()
    for k in range(23):
        np.save(data / f"{k:02}.npy", X[k])
    np.save(place, LABELS) if name.endswith("npy") else np.savetxt(place, LABELS, "%d")
    if name == "truth":
        place.unlink()
        np.savez(tmp_path / "data.npz", x=X, truth=LABELS)
        data, place = tmp_path / "data.npz", "truth"
    assert score(linear[0], data, labels=place).value == expected


def test_labels_follow_their_samples_into_batches(score):
    """Samples of one shape are stacked, and there are more than one batch holds."""
    model = make("(float[N, S] x) => (float[N, S] y) { y = Identity (x) }", {})
    lengths = RNG.integers(3, 6, 260)
    rows = [{"x": RNG.standard_normal(n).astype(np.float32)} for n in lengths]
    labels = RNG.integers(0, 3, 260)
    found = score(model, rows, labels=labels)
    expected = np.array([row["x"].argmax() for row in rows])
    np.testing.assert_array_equal(found.predictions, expected)
    np.testing.assert_array_equal(found.totals, expected == labels)


def test_serialized_outputs_go_by_their_names(score, tmp_path):
    """Tensors with names of outputs belong to those, whatever the number of their file."""
    model = make("(float[N, 8] x) => (float[N, 8] a, float[N, 8] b) { a = Abs (x)  b = Neg (x) }", {})
    place = tmp_path / "test_data_set_0"
    place.mkdir()
    (place / "input_0.pb").write_bytes(numpy_helper.from_array(X, "x").SerializeToString())
    (place / "output_0.pb").write_bytes(numpy_helper.from_array(-X, "b").SerializeToString())
    (place / "output_1.pb").write_bytes(numpy_helper.from_array(np.abs(X) + 1, "a").SerializeToString())
    found = score(model, tmp_path)
    assert found.compared == ("a", "a") and found.value == pytest.approx(1, rel=1e-5)


def test_serialized_outputs_are_targets(linear, score, tmp_path):
    model, weights = linear
    targets = RNG.standard_normal((12, 6)).astype(np.float32)
    for k in range(12):
        place = tmp_path / f"test_data_set_{k}"
        place.mkdir()
        (place / "input_0.pb").write_bytes(numpy_helper.from_array(X[k : k + 1], "").SerializeToString())
        (place / "output_0.pb").write_bytes(numpy_helper.from_array(targets[k : k + 1], "").SerializeToString())
    found = score(model, tmp_path)
    assert (found.metric, found.compared) == ("mse", ("y", "y"))
    own = ((X[:12] @ weights - targets) ** 2).mean(1)
    assert found.totals / found.weights == pytest.approx(own, rel=1e-4)  # 2 comes before 10
    assert found.value == pytest.approx(own.mean(), rel=1e-5)


@pytest.fixture
def images(tmp_path):
    """Fashion-MNIST images in a folder for each class, as numbers."""
    image = pytest.importorskip("PIL.Image")
    held = np.load(MODELS / "fashion_mnist.npz")
    for k, label in enumerate(held["labels"][:40]):
        (tmp_path / "classes" / str(label)).mkdir(parents=True, exist_ok=True)
        image.fromarray(held["images"][k]).save(tmp_path / "classes" / str(label) / f"{k:03}.png")
    return tmp_path / "classes", held


FASHION = Preprocess(mean=(0.2860,), std=(0.3530,))


def test_folders_of_images(images, score):
    import onnx

    model = onnx.load(MODELS / "mobilenet.onnx")
    folder, held = images
    arrays = {"images": held["images"][:40], "labels": held["labels"][:40], "mean": held["mean"], "std": held["std"]}
    np.savez(folder.parent / "same.npz", **arrays)
    expected = score(model, folder.parent / "same.npz")
    found = score(model, folder, preprocess=FASHION)
    assert found.value == expected.value and 80 < found.value < 100
    order = np.argsort(held["labels"][:40], kind="stable")  # a folder is read class by class
    np.testing.assert_array_equal(found.predictions, expected.predictions[order])
    data = load_data(folder, model, preprocess=FASHION)
    assert data.note == "labels are the names of 10 folders"
    assert data.name(0) == f"sample 0 (0/{order[0]:03}.png)"


def test_names_of_folders_are_classes_in_their_order(images, score):
    import onnx

    model = onnx.load(MODELS / "mobilenet.onnx")
    folder, _ = images
    expected = score(model, folder, preprocess=FASHION).value
    for k in range(10):
        (folder / str(k)).rename(folder / "abcdefghij"[k])
    data = load_data(folder, model, preprocess=FASHION)
    assert data.note == "labels are the 10 folders in the order of their names: 'a' is class 0, 'j' is 9"
    assert score(model, folder, preprocess=FASHION).value == expected
    for path in (folder / "j").iterdir():
        path.unlink()
    (folder / "j").rmdir()
    with pytest.raises(ModelError, match="has 9 class folders, but output 'logits' has 10 classes: give their numbers"):
        score(model, folder, preprocess=FASHION)
    with pytest.raises(UsageError, match="images need the preprocessing"):
        score(model, folder)


def test_calibration_images_are_never_evaluated(linear, tmp_path):
    model = make("(float[N, 1, 2, 2] x) => (float[N, 1, 2, 2] y) { y = Identity (x) }", {})
    pixels = np.zeros((5, 2, 2), np.uint8)
    np.savez(tmp_path / "a.npz", calibration=pixels)
    with pytest.raises(ModelError, match="'calibration', but needs one for each input"):
        load_data(tmp_path / "a.npz", model)
    np.savez(tmp_path / "a.npz", calibration=pixels, images=pixels[:3])
    assert load_data(tmp_path / "a.npz", model).samples.count == 3


def test_runs_of_a_model_without_a_batch_axis(score):
    model = make("(float[3, 4] x, float[4, 2] k) => (float[3, 2] y) { y = MatMul (x, k) }", {})
    x, k = RNG.standard_normal((7, 3, 4)).astype(np.float32), RNG.standard_normal((7, 4, 2)).astype(np.float32)
    found = score(model, [{"x": a, "k": b, "targets": a @ b + 2} for a, b in zip(x, k, strict=True)])
    assert found.value == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("count", [22, 24, 1])
def test_a_wrong_number_of_labels(linear, tmp_path, count):
    np.save(tmp_path / "l.npy", np.zeros(count, int))
    with pytest.raises(ModelError, match=rf"l\.npy: holds {count} labels, but dict has 23 samples; needs one for each"):
        load_data({"x": X}, linear[0], labels=tmp_path / "l.npy")


def test_labels_that_are_nowhere(linear, score):
    with pytest.raises(UsageError, match="--labels truth: is no file .*, and no array of dict, which has 'x', 'other'"):
        score(linear[0], {"x": X, "other": LABELS}, labels="truth")
    with pytest.raises(ModelError, match="no such file"):
        score(linear[0], {"x": X}, labels="truth.npy")


def test_labels_that_were_asked_for_have_to_fit(score):
    """Without them the model would be taken for an autoencoder."""
    model = make("(float[N, 8] x) => (float[N, 8] y) { y = Relu (x) }", {})
    assert score(model, {"x": X}).metric == "mse"
    with pytest.raises(ModelError, match="label 8 of sample 4 is no class: output 'y' has the classes 0 to 7"):
        score(model, {"x": X}, labels=np.where(np.arange(23) == 4, 8, 0))
    with pytest.raises(ModelError, match=r"int64 \[23, 3\] 'labels' do not fit an output of the model \('y' \[23, 8\]\)"):
        score(model, {"x": X}, labels=np.zeros((23, 3), int))
