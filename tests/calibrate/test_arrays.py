"""Arrays of npz and npy files: names, shapes, types, images, batches."""

import numpy as np
import pytest

from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError, UsageError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((70, 6)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (12, 5, 7, 3)).astype(np.uint8)
MEAN, STD = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])


def rows(samples, name: str) -> np.ndarray:
    """What counts of all batches."""
    return np.concatenate([b.feeds[name][: b.count] for b in samples.batches])


def npz(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_batches_of_an_open_batch_axis(tmp_path, model):
    found = read_samples(npz(tmp_path, x=X, labels=np.arange(70)), model("float[N, 6] x"))
    assert [b.count for b in found.batches] == [32, 32, 6]
    assert [len(b.feeds["x"]) for b in found.batches] == [32, 32, 6]
    assert list(found.batches[0].feeds) == ["x"]
    np.testing.assert_array_equal(rows(found, "x"), X)
    assert (found.count, found.origin, found.synthetic, found.mask) == (70, "70 samples of data.npz", False, None)


def test_a_fixed_batch_is_filled_with_repeats(tmp_path, model):
    found = read_samples(npz(tmp_path, x=X), model("float[16, 6] x"))
    assert [b.count for b in found.batches] == [16, 16, 16, 16, 6]
    assert all(b.feeds["x"].shape == (16, 6) for b in found.batches)
    np.testing.assert_array_equal(rows(found, "x"), X)
    np.testing.assert_array_equal(found.batches[-1].feeds["x"][6:], np.repeat(X[-1:], 10, axis=0))


def test_the_first_samples_are_taken(tmp_path, model):
    found = read_samples(npz(tmp_path, x=X), model("float[N, 6] x"), samples=33, batch=20)
    assert [b.count for b in found.batches] == [20, 13]
    np.testing.assert_array_equal(rows(found, "x"), X[:33])
    assert found.origin == "33 samples of data.npz"
    assert read_samples(npz(tmp_path, x=X), model("float[N, 6] x"), samples=1).origin == "1 sample of data.npz"


def test_passes_are_equal_and_batches_can_be_sliced(tmp_path, model):
    found = read_samples(npz(tmp_path, x=X), model("float[N, 6] x"))
    for one, two in zip(found.batches, found.batches, strict=True):
        np.testing.assert_array_equal(one.feeds["x"], two.feeds["x"])
    assert len(found.batches) == 3
    assert [b.count for b in found.batches[1:]] == [32, 6]


def test_several_inputs_and_types_of_the_same_kind(tmp_path, model):
    ids, keep = RNG.integers(0, 9, (70, 4)), RNG.random((70, 4)) < 0.5
    path = npz(tmp_path, x=X.astype(np.float64), ids=ids, keep=keep)
    found = read_samples(path, model("float[N, 6] x, int32[N, 4] ids, int64[N, 4] keep"), batch=50)
    feeds = found.batches[0].feeds
    assert {n: a.dtype.name for n, a in feeds.items()} == {"x": "float32", "ids": "int32", "keep": "int64"}
    np.testing.assert_array_equal(rows(found, "ids"), ids)
    np.testing.assert_array_equal(rows(found, "keep"), keep)


def test_half_precision_and_strings(tmp_path, model):
    path = npz(tmp_path, x=X, b=X, s=np.array([["a", "bc"]] * 70))
    found = read_samples(path, model("float16[N, 6] x, bfloat16[N, 6] b, string[N, 2] s"))
    feeds = found.batches[0].feeds
    assert feeds["x"].dtype == np.float16 and feeds["b"].dtype.name == "bfloat16" and feeds["s"].dtype == object
    assert feeds["s"][0].tolist() == ["a", "bc"]


def test_one_sample_without_its_batch_axis(tmp_path, model):
    found = read_samples(npz(tmp_path, x=X[0]), model("float[N, 6] x"))
    assert found.count == 1
    np.testing.assert_array_equal(found.batches[0].feeds["x"], X[:1])


def test_an_npy_file(tmp_path, model):
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(rows(read_samples(str(tmp_path / "x.npy"), model("float[N, 6] x")), "x"), X)
    with pytest.raises(ModelError, match=r"x\.npy: holds one array, but the model has the inputs 'x', 'z'"):
        read_samples(tmp_path / "x.npy", model("float[N, 6] x, float[N, 6] z"))


def test_inputs_without_a_common_batch_axis_are_one_run(tmp_path, model):
    graph = model("float[nodes, 6] x, int64[2, edges] edges")
    found = read_samples(npz(tmp_path, x=X, edges=np.zeros((2, 9), int)), graph, samples=10, batch=4)
    assert len(found.batches) == 1
    assert found.batches[0].count == found.count == 70
    assert found.batches[0].feeds["x"].shape == (70, 6)


def test_stacked_runs_with_a_scalar(tmp_path, model):
    graph = model("float[N, 6] x, int64 step")
    found = read_samples(npz(tmp_path, x=X.reshape(35, 2, 6), step=np.arange(35)), graph, samples=10)
    assert [b.feeds["step"] for b in found.batches] == [0, 1, 2, 3, 4]
    assert found.batches[3].feeds["step"].shape == ()
    np.testing.assert_array_equal(found.batches[3].feeds["x"], X[6:8])


def test_images_are_normalised_by_the_numbers_of_the_file(tmp_path, model):
    found = read_samples(npz(tmp_path, images=IMAGES, mean=MEAN, std=STD), model("float[N, 3, 5, 7] x"))
    np.testing.assert_allclose(rows(found, "x"), ((IMAGES / 255 - MEAN) / STD).transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_calibration_images_come_before_others(tmp_path, model):
    path = npz(tmp_path, images=IMAGES[:3], calibration=IMAGES[3:, ..., 0], labels=np.zeros(3, int))
    found = read_samples(path, model("float[N, 1, 5, 7] image"))
    assert found.count == 9
    np.testing.assert_allclose(rows(found, "image")[:, 0], IMAGES[3:, ..., 0] / 255, rtol=1e-6)


def test_images_for_an_input_of_the_same_name(tmp_path, model):
    found = read_samples(npz(tmp_path, images=IMAGES), model("float[N, 3, 5, 7] images"))
    assert found.batches[0].feeds["images"].max() <= 1


def test_a_declared_preprocessing_of_pixels(tmp_path, model):
    how = Preprocess(mean=(0.5,), std=(0.25,), order="bgr")
    expected = ((IMAGES[..., ::-1] / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    for arrays in ({"x": IMAGES}, {"x": IMAGES.transpose(0, 3, 1, 2)}, {"images": IMAGES, "mean": np.float32(9)}):
        found = read_samples(npz(tmp_path, **arrays), model("float[N, 3, 5, 7] x"), preprocess=how)
        np.testing.assert_allclose(rows(found, "x"), expected, rtol=1e-5, atol=1e-6)


def test_pixels_are_resized_where_that_is_declared(tmp_path, model):
    pytest.importorskip("PIL")
    grey = np.repeat(np.arange(12, dtype=np.uint8), 6 * 8).reshape(12, 6, 8)
    found = read_samples(
        npz(tmp_path, x=grey), model("float[N, 3, 4] x"), preprocess=Preprocess(scale=1, resize="stretch"), batch=5
    )
    assert found.batches[0].feeds["x"].shape == (5, 3, 4)
    np.testing.assert_array_equal(rows(found, "x")[:, 1, 1], np.arange(12))


def test_padding_is_marked_by_a_mask(tmp_path, model):
    path = npz(tmp_path, ids=np.ones((4, 3), int), attention_mask=np.ones((4, 3), int))
    pair = "int64[N, S] ids, int64[N, S] attention_mask"
    assert read_samples(path, model(pair)).mask == "attention_mask"
    assert read_samples(path, model(pair.replace("N, S] att", "N, T] att"))).mask is None
    assert read_samples(path, model(pair), mask="ids").mask == "ids"
    for wrong in ("x", "keep"):
        with pytest.raises(UsageError, match=f"mask {wrong!r}: is no input .*'ids'"):
            read_samples(path, model("int64[N, S] ids, int64[N] keep"), mask=wrong)


BIG = np.full((3, 6), 2**40)


@pytest.mark.parametrize(
    ("inputs", "arrays", "words"),
    [
        ("float[N, 6] x", {"z": X}, r"has the arrays 'z', but needs .*\('x'\), or 'images'"),
        ("float[N, 6] x, float[N] k", {"x": X}, r"has the arrays 'x', but needs .*\('x', 'k'\)"),
        ("float[N, 5] x", {"x": X}, r"float32 \[70, 6\] does not fit input 'x' \[N, 5\]"),
        ("float[N, 6, S] x", {"x": X[:, :5]}, r"float32 \[1, 70, 5\] does not fit input 'x' \[N, 6, S\]"),
        ("float[N, 6] x, float[N] k", {"x": X, "k": X[:9, 0]}, "same number of samples.*'x': 70, 'k': 9"),
        ("float[N, 6] x", {"x": X[:0]}, "at least one"),
        ("float[N, 6] x", {"x": (X * 9).astype(np.uint8)}, "takes float32, not uint8.*`preprocess`.*'images'"),
        ("float[N, 6] x", {"x": (X * 9).astype(np.int64)}, "takes float32, not int64 .*store it as float32"),
        ("int64[N, 6] x", {"x": X}, "takes int64, not float32"),
        ("bool[N, 6] x", {"x": BIG}, "takes bool, not int64"),
        ("int32[N, 6] x", {"x": BIG}, "values 1099511627776..1099511627776 do not fit input 'x' of int32"),
        ("uint8[N, 6] x", {"x": -(X > 0).astype(np.int8)}, "values -1..0 do not fit"),
        ("float[N, 3, 5, 7] x", {"images": IMAGES / 255}, "'images' has to be uint8"),
        ("float[N, 3, 7, 5] x", {"images": IMAGES}, r"uint8 \[1, 3, 5, 7\] does not fit input 'x' \[N, 3, 7, 5\]"),
        ("float[N, 3, 5, 7] x", {"images": IMAGES, "std": np.zeros(3)}, "'std' has to be numbers above 0"),
        ("float[N, 3, 5, 7] x", {"images": IMAGES, "mean": np.zeros(2)}, "'mean' has 2 values"),
        ("int8[N, 3, 5, 7] x", {"images": IMAGES}, "can't be fed to input 'x' of int8"),
        ("float[A, 6] x, int64[2, E] e", {"x": X, "e": BIG}, r"int64 \[3, 6\] does not fit input 'e' \[2, E\]"),
        ("float[N, 6] x, int64 k", {"x": X[None], "k": np.zeros(2, int)}, "same number of runs"),
    ],
)
def test_data_that_does_not_fit_is_explained(tmp_path, model, inputs, arrays, words):
    with pytest.raises(ModelError, match=r"data\.npz: .*" + words):
        read_samples(npz(tmp_path, **arrays), model(inputs))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_what_is_no_number_is_found_when_it_is_read(tmp_path, model, value, word):
    spoiled = X.copy()
    spoiled[40, 2] = value
    found = read_samples(npz(tmp_path, x=spoiled), model("float[N, 6] x"))
    assert found.batches[0].count == 32
    with pytest.raises(ModelError, match=rf"data\.npz: .*'x' hold {word}"):
        found.batches[1]


def test_an_additive_mask_may_hold_minus_infinity(tmp_path, model):
    masked = X.copy()
    masked[:, 3:] = -np.inf
    found = read_samples(npz(tmp_path, x=masked), model("float[N, 6] x"))
    np.testing.assert_array_equal(found.batches[0].feeds["x"], masked[:32])


def test_files_that_are_no_data(tmp_path, model):
    wanted = model("float[N, 6] x")
    with pytest.raises(ModelError, match=r"objects\.npz: is no npz file of plain arrays"):
        np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
        read_samples(tmp_path / "objects.npz", wanted)
    with pytest.raises(ModelError, match=r"objects\.npy: is no npy file of a plain array"):
        np.save(tmp_path / "objects.npy", np.array([{}], object))
        read_samples(tmp_path / "objects.npy", wanted)
    with pytest.raises(ModelError, match=r"nothing\.npz: no such file"):
        read_samples(tmp_path / "nothing.npz", wanted)
    with pytest.raises(UsageError, match=r"notes\.txt: is no calibration data; give an npz file"):
        (tmp_path / "notes.txt").write_text("x")
        read_samples(tmp_path / "notes.txt", wanted)


@pytest.mark.parametrize("options", [{"samples": 0}, {"batch": 0}])
def test_numbers_of_samples(tmp_path, model, options):
    with pytest.raises(UsageError, match="at least one sample"):
        read_samples(npz(tmp_path, x=X), model("float[N, 6] x"), **options)


def test_models_that_take_no_data(model):
    with pytest.raises(ModelError, match="no inputs"):
        read_samples(None, model(""))
    with pytest.raises(ModelError, match="input 's' is no tensor"):
        read_samples(None, model("seq(float[N]) s"))
