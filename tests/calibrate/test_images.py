"""Image files and their declared preprocessing."""

import sys

import numpy as np
import pytest

from onnxprune.calibrate.preprocess import Preprocess, parse_preprocess
from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError, UsageError

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8)
RAW = Preprocess(scale=1)


def first(path, model, preprocess, **options):
    batch = read_samples(path, model, preprocess=preprocess, **options).batches[0]
    return next(iter(batch.feeds.values()))


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path


def test_values_of_a_model_with_channels_first(folder, model):
    how = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = ((PIXELS / 255 - how.mean) / how.std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(first(folder, model("float[N, 3, 8, 12] x"), how), expected, rtol=1e-5, atol=1e-6)


def test_values_of_a_model_with_channels_last_and_bgr(folder, model):
    found = first(folder, model("float[N, 8, 12, 3] x"), Preprocess(scale=1, mean=(1, 2, 3), order="bgr"))
    np.testing.assert_array_equal(found[0], PIXELS[..., ::-1].astype(np.float32) - [1, 2, 3])


@pytest.mark.parametrize("shape", ["1, 8, 12", "8, 12", "8, 12, 1"])
def test_grey_inputs(folder, model, shape):
    found = first(folder, model(f"float[N, {shape}] x"), RAW)
    np.testing.assert_array_equal(found.reshape(8, 12), np.asarray(Image.fromarray(PIXELS).convert("L")))


def test_an_integer_input_gets_pixels_and_needs_no_declaration(folder, model):
    found = first(folder, model("uint8[N, 8, 12, 3] x"), None)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], PIXELS)


def test_the_centre_is_cut_out(folder, model):
    found = first(folder, model("float[N, 3, 4, 6] x"), Preprocess(scale=1, resize=8))
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), PIXELS[2:6, 3:9])


def test_the_shorter_side_is_resized_then_cut(folder, model):
    found = first(folder, model("float[N, 3, H, W] x"), Preprocess(size=(4, 4), resize=5, scale=1))
    small = np.asarray(Image.fromarray(PIXELS).resize((7, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), small[0:4, 2:6])


def test_an_image_covers_the_size_or_is_stretched_to_it(folder, model):
    wanted = model("float[N, 3, 4, 4] x")
    covers = np.asarray(Image.fromarray(PIXELS).resize((6, 4), Image.Resampling.BILINEAR))[:, 1:5]
    stretched = np.asarray(Image.fromarray(PIXELS).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(first(folder, wanted, RAW)[0].transpose(1, 2, 0), covers)
    found = first(folder, wanted, Preprocess(resize="stretch", scale=1))
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), stretched)


def test_an_image_is_padded(folder, model):
    found = first(folder, model("float[N, 3, 12, 12] x"), Preprocess(resize="pad", fill=114, scale=1))[0]
    np.testing.assert_array_equal(found[:, 2:10].transpose(1, 2, 0), PIXELS)
    assert (found[:, :2] == 114).all() and (found[:, 10:] == 114).all()


def test_images_of_different_sizes_where_the_model_takes_them(folder, model):
    Image.fromarray(PIXELS[:, :8]).save(folder / "b.bmp")
    Image.fromarray(PIXELS[::-1]).save(folder / "c.png")
    found = read_samples(folder, model("float[N, 3, H, W] x"), preprocess=RAW)
    assert [b.feeds["x"].shape for b in found.batches] == [(2, 3, 8, 12), (1, 3, 8, 8)]
    assert first(folder, model("float[N, 3, H, W] x"), RAW, shapes={"x": (1, 3, 4, 4)}).shape == (3, 3, 4, 4)
    kept = Preprocess(size=(4, 4), resize=6, crop=False)
    assert first(folder, model("float[N, 3, H, W] x"), kept).shape == (2, 3, 6, 9)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "bmp"])
def test_formats_in_folders_below(tmp_path, model, suffix):
    (tmp_path / "cat").mkdir()
    Image.fromarray(PIXELS // 255 * 255).convert("P").convert("RGB").save(tmp_path / "cat" / f"a.{suffix}")
    assert first(tmp_path, model("float[N, 3, 8, 12] x"), RAW).shape == (1, 3, 8, 12)


def test_modes_become_the_channels_of_the_input(tmp_path, model):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")
    found = first(tmp_path, model("float[N, 3, 8, 12] x"), RAW)
    np.testing.assert_array_equal(found[0], np.stack([PIXELS[..., 0]] * 3))


def test_fixed_batches_and_subsets(folder, model):
    for k in range(6):
        Image.fromarray(PIXELS // 2 + k).save(folder / f"b{k}.png")
    found = read_samples(folder, model("float[4, 3, 8, 12] x"), preprocess=RAW, samples=5)
    assert [b.count for b in found.batches] == [4, 1]
    assert found.batches[1].feeds["x"].shape == (4, 3, 8, 12)
    assert found.origin == f"5 samples of {folder.name}"


def test_what_is_no_image_is_named(folder, model):
    wanted = model("float[N, 3, 8, 12] x")
    (folder / "b.png").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"b\.png: can't be read as an image"):
        read_samples(folder, wanted, preprocess=RAW)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-60])
    found = read_samples(folder, wanted, preprocess=RAW)
    with pytest.raises(ModelError, match=r"b\.png: can't be read as an image"):
        list(found.batches)


def test_models_and_declarations_that_do_not_fit(folder, model):
    with pytest.raises(UsageError, match="images need the preprocessing .* size=224"):
        read_samples(folder, model("float[N, 3, 8, 12] x"))
    with pytest.raises(ModelError, match="does not take one batch of images"):
        read_samples(folder, model("float[N, 3, 8, 12] x, int64[N] k"), preprocess=RAW)
    with pytest.raises(ModelError, match=r"'x' of rank 2"):
        read_samples(folder, model("float[N, 3] x"), preprocess=RAW)
    with pytest.raises(ModelError, match=r"a\.png: uint8 \[1, 3, 9, 9\] does not fit input 'x' \[N, 3, 8, 12\]"):
        read_samples(folder, model("float[N, 3, 8, 12] x"), preprocess=Preprocess(size=(9, 9)))
    with pytest.raises(ModelError, match="'mean' has 2 values"):
        read_samples(folder, model("float[N, 3, 8, 12] x"), preprocess=Preprocess(mean=(1, 2)))
    with pytest.raises(UsageError, match="resize=pad needs size=HxW"):
        read_samples(folder, model("float[N, 3, H, W] x"), preprocess=Preprocess(resize="pad"))
    with pytest.raises(ModelError, match=r"a\.png: is 4x6 after resize=4, too small for size=8x12"):
        list(read_samples(folder, model("float[N, 3, 8, 12] x"), preprocess=Preprocess(resize=4)).batches)


def test_pillow_is_asked_for(folder, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"pip install 'onnxprune\[images\]'"):
        read_samples(folder, model("float[N, 3, 8, 12] x"), preprocess=RAW)


def test_a_preprocessing_as_text():
    found = parse_preprocess("size=224,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225")
    assert found == Preprocess((224, 224), 256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    found = parse_preprocess(" size=480x640, resize=pad, crop=no, scale=1/128, order=BGR, fill=114,")
    assert found == Preprocess((480, 640), "pad", False, scale=1 / 128, order="bgr", fill=114)
    assert parse_preprocess("") == Preprocess()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("224", "'224' has to be KEY=VALUE with one of size, resize"),
        ("shape=3", "'shape=3' has to be KEY=VALUE"),
        ("mean=0.1,mean=0.2", "mean is given twice; lists of numbers are written with colons"),
        ("size=1x2x3", "'size=1x2x3' can't be read"),
        ("mean=a", "'mean=a' can't be read"),
        ("scale=1/0", "'scale=1/0' can't be read"),
        ("crop=maybe", "'crop=maybe' can't be read"),
        ("size=0", "size has to be H and W of at least 1"),
        ("resize=0", "resize has to be the length of the shorter side, or one of cover, stretch, pad, not 0"),
        ("resize=shrink", "resize has to be .* not shrink"),
        ("std=0.1:0", "std has to be numbers above 0"),
        ("mean=nan", "mean has to be finite numbers"),
        ("scale=-1", "scale has to be a number above 0"),
        ("order=hsv", "order has to be rgb or bgr"),
        ("fill=256", "fill has to be a pixel"),
    ],
)
def test_texts_that_are_no_preprocessing(text, words):
    with pytest.raises(UsageError, match="^preprocess: " + words):
        parse_preprocess(text)
