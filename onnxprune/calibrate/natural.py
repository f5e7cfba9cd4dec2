"""Images that have the statistics of photographs, and nothing of their content.

Dead leaves: opaque shapes of random sizes cover each other. With radii distributed as r^-3 the picture looks the same at
every scale, which gives the power spectrum 1/f^2, the edges and the heavy tails that photographs have. Leaves carry colours
that are correlated between channels, and textures with a spectrum 1/f^a.

Sources: Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images"; Baradad et al. 2021, "Learning to See by Looking
at Noise", section 3.1, for their use as training images; Ruderman, Cronin and Chiao 1998, "Statistics of cone responses to
natural images", for the colours: luminance varies most, the two opponent axes little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MEAN, STD = 0.45, 0.25  # of all pixels, in 0..1
_SMALLEST = 1 / 32  # radius of a leaf, as a share of the image
_FIELDS = 16
_LIGHT = 0.12  # standard deviation of the brightness of images
_GROUND = 0.5  # share of images that show a few things on a plain ground


def natural_images(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> Floats:
    """Pixels in 0..1, `(count, channels, height, width)`; with 4 channels the last is opacity.

    Args:
        count: of images.
        channels: 1, 3 or 4.
        height: in pixels.
        width: in pixels.
        rng: source of all numbers.
    """
    colours = 1 if channels == 1 else 3
    smooth, rough = (fields(_FIELDS, height, width, slope, rng) for slope in (3.0, 1.6))
    images = np.empty((count, channels, height, width), np.float32)
    for image in images:
        leaves, number = _leaves(height, width, rng)
        tints = _colours(number, colours, rng)
        grain = rng.gamma(1.0, 0.06, (2, number)).astype(np.float32)
        if number and leaves.min() == 0:
            grain[:, 0] *= 0.2
        texture = grain[0][leaves] * _moved(smooth, rng) + grain[1][leaves] * _moved(rough, rng)
        image[:colours] = tints[:, leaves] + texture
        if channels == 4:
            image[3] = 1
    return np.clip(images, 0, 1, out=images)


def fields(count: int, height: int, width: int, slope: float, rng: np.random.Generator) -> Floats:
    """Periodic Gaussian fields `(count, height, width)` of mean 0 and variance 1 with a power spectrum 1/f^slope."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy * height, fx * width)
    frequency[0, 0] = np.inf
    phases = rng.standard_normal((count, *frequency.shape, 2)) @ np.array([1, 1j])
    made = np.fft.irfft2(phases * frequency ** (-slope / 2), s=(height, width), axes=(1, 2))
    spread = made.std(axis=(1, 2), keepdims=True)
    return np.asarray(made / np.where(spread > 0, spread, 1), np.float32)


def _moved(pool: Floats, rng: np.random.Generator) -> Floats:
    """One of the fields, shifted and turned round."""
    field = pool[rng.integers(len(pool))]
    rows, columns = (rng.integers(n) for n in field.shape)
    return np.asarray(np.roll(field, (rows, columns), (0, 1))[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))])


def _leaves(height: int, width: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], int]:
    """For each pixel the leaf on top of it `(H, W)`, and how many there are; 0 is the ground."""
    size = float(min(height, width))
    top = np.zeros((height, width), np.intp)
    if rng.random() < _GROUND:
        number = int(rng.integers(1, 8))
        radii = size * rng.uniform(0.08, 0.45, number)
        spot = 0.5 + 0.16 * rng.standard_normal((number, 2))
    else:
        smallest = min(max(_SMALLEST, 0.8 / size), 0.5)
        number = int(rng.integers(20, 120) * _SMALLEST / smallest)
        radii = size * _radii(number, smallest, rng)
        spot = rng.uniform(-0.1, 1.1, (number, 2))
    for k, (radius, (y, x)) in enumerate(zip(radii, spot * (height, width), strict=True)):
        _paint(top, k + 1, y, x, radius, rng)
    return top, number + 1


def _radii(number: int, smallest: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Radii between the smallest and 1 with a density of r^-3, by inversion of their distribution."""
    low = smallest**-2.0
    return np.asarray((low - rng.random(number) * (low - 1.0)) ** -0.5)


def _paint(top: NDArray[np.intp], leaf: int, y: float, x: float, radius: float, rng: np.random.Generator) -> None:
    """Covers an ellipse, a box or a polygon around a point."""
    stretch, angle, kind = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi), rng.integers(3)
    rows = slice(max(int(y - 1.5 * radius), 0), max(int(y + 1.5 * radius) + 2, 0))
    columns = slice(max(int(x - 1.5 * radius), 0), max(int(x + 1.5 * radius) + 2, 0))
    part = top[rows, columns]
    if not part.size:
        return
    dy = (np.arange(part.shape[0])[:, None] + (rows.start - y)) / radius
    dx = (np.arange(part.shape[1])[None] + (columns.start - x)) / radius
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / stretch
    if kind == 0:
        inside = u * u + v * v < 1
    elif kind == 1:
        inside = np.maximum(np.abs(u), np.abs(v)) < 0.9
    else:
        inside = (v > -0.6) & (np.abs(u) * 1.5 + v < 0.9)
    part[inside] = leaf


def _colours(number: int, channels: int, rng: np.random.Generator) -> Floats:
    """Colours of leaves `(channels, number)`: each picture has a brightness, a contrast and a cast of its own."""
    light = rng.normal(MEAN, _LIGHT) + rng.uniform(0.5, 1.4) * 0.22 * rng.standard_normal(number)
    if channels == 1:
        return np.asarray(light[None], np.float32)
    axes = np.array([[1, 1, -2], [1, -1, 0]]) / np.array([[np.sqrt(6)], [np.sqrt(2)]])
    chroma = 0.06 * rng.standard_normal((1, 2)) + rng.gamma(1.5, 0.05) * rng.standard_normal((number, 2))
    return np.asarray((light[:, None] + chroma @ axes).T, np.float32)
