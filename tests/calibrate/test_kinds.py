"""What an input is, from what reads it, and the range of its values."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.calibrate.read import read_samples


def made(inputs, body, samples=96, **weights):
    """Samples of a model's inputs, and their kinds."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> m ({inputs}) => (float y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    found = read_samples(None, model, samples=samples)
    feeds = {n: np.concatenate([b.feeds[n] for b in found.batches]) for n in found.batches[0].feeds}
    return feeds, found.origin.split(": ")[1]


CONV = np.zeros((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("y = Conv (x, w)", -2, 2.3),
        ("a = Div (x, s) y = Conv (a, w)", 0, 255),
        ("a = Mul (x, t) y = Conv (a, w)", 0, 255),
        ("a = Sub (x, m) b = Div (a, d) y = Conv (b, w)", 0, 255),
        ("a = Sub (x, n) b = Div (a, e) y = Conv (b, w)", 0, 1),
    ],
)
def test_pixels_have_the_range_that_the_first_operators_undo(body, low, high):
    weights = {
        "w": CONV, "s": 255.0, "t": 1 / 127.5, "m": np.reshape([123.0, 117.0, 104.0], (3, 1, 1)), "d": 58.0,
        "n": np.reshape([0.485, 0.456, 0.406], (3, 1, 1)), "e": 0.225,
    }  # fmt: skip
    feeds, origin = made("float[N, 3, 24, 24] x", body, **{n: a for n, a in weights.items() if n in body})
    assert origin == "'x' images"
    width = high - low
    assert low - 0.1 * width <= feeds["x"].min() < low + 0.1 * width
    assert high - 0.1 * width < feeds["x"].max() <= high + 0.1 * width


def test_a_normalization_of_the_input_tells_the_moments_of_each_channel():
    mean, variance = np.array([100.0, 5.0, -3.0]), np.array([2500.0, 1.0, 0.01])
    feeds, _ = made(
        "float[N, 3, 24, 24] x",
        "y = BatchNormalization (x, s, b, m, v)",
        400,
        s=np.ones(3),
        b=np.ones(3),
        m=mean,
        v=variance,
    )
    np.testing.assert_allclose((feeds["x"].mean(axis=(0, 2, 3)) - mean) / np.sqrt(variance), 0, atol=0.15)
    np.testing.assert_allclose(feeds["x"].std(axis=(0, 2, 3)) / np.sqrt(variance), 1, atol=0.1)


def test_layouts():
    last, _ = made("float[N, 24, 32, 3] x", "a = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (a, w)", w=CONV)
    assert last["x"].shape == (96, 24, 32, 3)
    pixels = last["x"].transpose(3, 0, 1, 2).reshape(3, -1)
    assert np.corrcoef(pixels)[0, 1] > 0.6
    whole, origin = made("uint8[24, 32, 3] x", "y = Cast <to = 1> (x)")
    assert origin == "'x' images" and whole["x"].dtype == np.uint8 and whole["x"].shape[1:] == (32, 3)
    steps = np.diff(whole["x"].astype(float), axis=1)
    assert steps.var() < 0.5 * whole["x"].var()  # neighbours are alike
    _, origin = made("float[N, 17, 24, 24] x", "y = Relu (x)")
    assert origin == "'x' noise"


def test_signals_have_a_falling_spectrum_along_time():
    feeds, origin = made("float[N, 2, 512] x", "y = Conv (x, w)", w=np.zeros((4, 2, 9)))
    assert origin == "'x' signals" and feeds["x"].shape == (96, 2, 512)
    power = (np.abs(np.fft.rfft(feeds["x"], axis=-1)) ** 2).mean(axis=(0, 1))
    falls = np.polyfit(np.log(np.arange(2, 200)), np.log(power[2:200]), 1)[0]
    assert -1.2 < falls < -0.8
    between = np.corrcoef(feeds["x"][:, 0].ravel(), feeds["x"][:, 1].ravel())[0, 1]
    assert abs(between) < 0.2
    _, features = made("float[N, 512] x", "y = MatMul (x, w)", w=np.zeros((512, 4)))
    assert features == "'x' noise"


def test_segments_are_the_same_for_a_whole_sample():
    feeds, origin = made("int64[N, 12] segment", "y = Gather (w, segment)", w=np.zeros((2, 4)))
    assert origin == "'segment' token ids"
    assert (feeds["segment"] == feeds["segment"][:, :1]).all() and set(feeds["segment"].ravel()) == {0, 1}
