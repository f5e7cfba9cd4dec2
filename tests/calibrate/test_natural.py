"""Random images have the statistics of photographs."""

import numpy as np
import pytest

from onnxprune.calibrate.natural import MEAN, STD, fields, natural_images


def slope(images):
    """Exponent of the mean radial power spectrum of `(N, S, S)`, from 3 cycles per image to a third of the sampling rate."""
    size = images.shape[-1]
    window = np.hanning(size)[:, None] * np.hanning(size)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.rfft2(centred * window)) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    bins = np.arange(3, size // 3)
    values = [power[(radius >= b - 0.5) & (radius < b + 0.5)].mean() for b in bins]
    return np.polyfit(np.log(bins), np.log(values), 1)[0]


def draw(count=192, channels=3, height=48, width=48, seed=0):
    return natural_images(count, channels, height, width, np.random.default_rng(seed))


def test_the_power_spectrum_falls_with_the_square_of_the_frequency():
    assert -2.7 < slope(draw()[:, 1]) < -1.7
    assert abs(slope(np.random.default_rng(0).standard_normal((192, 48, 48)))) < 0.1  # noise does not


def test_pixels_are_within_their_range_and_have_the_moments_that_scaling_relies_on():
    images = draw(count=512, height=24, width=24)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    assert abs(images.mean() - MEAN) < 0.03 and abs(images.std() - STD) < 0.03


def test_channels_are_correlated_and_not_the_same():
    pixels = draw().transpose(1, 0, 2, 3).reshape(3, -1)
    between = np.corrcoef(pixels)[np.triu_indices(3, 1)]
    assert between.min() > 0.65 and between.max() < 0.97


def test_edges_are_sparser_than_those_of_gaussian_images():
    def kurtosis(images):
        steps = np.diff(images, axis=-1).ravel()
        return ((steps - steps.mean()) ** 4).mean() / steps.var() ** 2

    assert kurtosis(draw()) > 10
    assert kurtosis(fields(64, 48, 48, 2.0, np.random.default_rng(0))) < 5


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_fields_have_the_spectrum_that_is_asked_for(exponent):
    made = fields(64, 64, 64, exponent, np.random.default_rng(0))
    assert abs(slope(made) + exponent) < 0.3
    np.testing.assert_allclose(made.std(axis=(1, 2)), 1, rtol=1e-4)


def test_images_follow_from_the_seed():
    np.testing.assert_array_equal(draw(count=8), draw(count=8))
    assert not np.array_equal(draw(count=8), draw(count=8, seed=1))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 40), (4, 33, 17), (1, 48, 320)])
def test_any_size(channels, height, width):
    images = draw(6, channels, height, width)
    assert images.shape == (6, channels, height, width) and np.isfinite(images).all()
    assert channels != 4 or (images[:, 3] == 1).all()
