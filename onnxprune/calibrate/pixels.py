"""uint8 pixels become what an image input takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibrate.preprocess import Preprocess, Size
from onnxprune.calibrate.signature import Array, Input, described, family
from onnxprune.errors import ModelError, UsageError

_NEUTRAL = (("mean", 0.0), ("std", 1.0))


@dataclass(frozen=True)
class PixelInput:
    """An input that is fed with images.

    Attributes:
        input: `(N, C, H, W)`, `(N, H, W, C)` or, without channels, `(N, H, W)`.
        channels: C.
        channels_last: which of the first two.
        preprocess: its scale, mean, std and order.
    """

    input: Input
    channels: int
    channels_last: bool
    preprocess: Preprocess

    def layout(self, pixels: Array) -> Array:
        """`(N, H, W, C)` in the layout of the input, as a view."""
        if self.input.rank == 3:
            return pixels[..., 0]
        return pixels if self.channels_last else pixels.transpose(0, 3, 1, 2)

    def check_size(self, where: str, size: Size) -> None:
        """Makes sure that images of a height and width fit the input.

        Raises:
            ModelError: they don't.
        """
        self.input.check_shape(where, self.layout(np.broadcast_to(np.uint8(0), (1, *size, self.channels))))

    def sized(self, shape: Sequence[int] | None = None) -> PixelInput:
        """With the size that the model fixes, or else a given shape of the input, where the preprocessing has none.

        Raises:
            UsageError: there is none, but the preprocessing needs one.
        """
        how, axis = self.preprocess, 2 if self.input.rank != 3 and not self.channels_last else 1
        high, wide = self.input.fixed(axis), self.input.fixed(axis + 1)
        if how.size is None and high and wide:
            how = replace(how, size=(high, wide))
        elif how.size is None and shape and len(shape) > axis + 1:
            how = replace(how, size=(shape[axis], shape[axis + 1]))
        if how.size is None and how.resize in ("stretch", "pad"):
            raise UsageError(
                f"preprocess: resize={how.resize} needs size=HxW, as input {self.input.name!r} leaves height and width open"
            )
        return replace(self, preprocess=how)

    def feed(self, pixels: Array) -> Array:
        """`(N, H, W, C)` as the input takes them: normalised floats, or the pixels as integers."""
        how = self.preprocess
        if how.order == "bgr":
            pixels = pixels[..., ::-1]
        if self.input.dtype.kind not in "iu":
            mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
            pixels = (pixels.astype(np.float32) / np.float32(1 / how.scale) - mean) / std
        return np.ascontiguousarray(self.layout(pixels).astype(self.input.dtype, copy=False))


def pixel_input(where: str, value: Input, channels: int, preprocess: Preprocess) -> PixelInput:
    """Chooses the layout: channels first where that fits the input.

    Args:
        where: file or other origin of the images, for errors.
        value: the input.
        channels: C.
        preprocess: how pixels become numbers.

    Raises:
        ModelError: the input takes no images of this many channels, or mean or std don't fit them.
    """
    last = value.fixed(1) not in (None, channels) and value.fixed(3) in (None, channels)
    if value.rank not in (None, 4) and (value.rank != 3 or channels != 1):
        raise ModelError(f"{where}: 'images' can't be fed to input {value.name!r} of rank {value.rank}")
    if family(value.dtype) not in ("float", "integer") or value.dtype == np.int8:
        raise ModelError(f"{where}: pixels can't be fed to input {value.name!r} of {value.dtype}")
    for name, numbers in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(numbers) not in (1, channels):
            raise ModelError(
                f"{where}: {name!r} has {len(numbers)} values; give one, or one for each of {channels} channels"
            )
    return PixelInput(value, channels, last and value.rank == 4, preprocess)


def stored_images(where: str, name: str, images: Array) -> Array:
    """Images of an npz file as `(N, H, W, C)`.

    Raises:
        ModelError: they are not uint8 `(N, H, W)` or `(N, H, W, C)`.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ModelError(f"{where}: {name!r} has to be uint8 (N, H, W) or (N, H, W, C), not {described(images)}")
    return images[..., np.newaxis] if images.ndim == 3 else images


def stored_preprocess(where: str, held: Mapping[str, Array]) -> Preprocess:
    """`mean` and `std` of an npz file, 0 and 1 without.

    Raises:
        ModelError: they are no usable numbers.
    """
    for name in {"mean", "std"} & held.keys():
        numbers = held[name]
        if family(numbers.dtype) not in ("float", "integer") or not numbers.size or not np.isfinite(numbers).all():
            raise ModelError(f"{where}: {name!r} has to be finite numbers, not {described(numbers)}")
        if name == "std" and numbers.min() <= 0:
            raise ModelError(f"{where}: 'std' has to be numbers above 0")
    mean, std = (tuple(held[name].ravel().tolist()) if name in held else (value,) for name, value in _NEUTRAL)
    return Preprocess(mean=mean, std=std)
