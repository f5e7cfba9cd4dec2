"""Image files, and arrays of pixels that are treated like them. Needs Pillow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.calibrate.batch import Chunk, Feeds
from onnxprune.calibrate.pixels import PixelInput, pixel_input
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.signature import Array, Signature
from onnxprune.errors import ModelError, UsageError
from onnxprune.proof.session import first_line

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_chunks(
    files: Sequence[Path], wanted: Signature, preprocess: Preprocess | None, shape: Sequence[int] | None
) -> list[Chunk]:
    """One sample for each file, which is decoded whenever the sample is read.

    Args:
        files: images; colours and palettes become the channels of the input, orientation tags are not followed.
        wanted: of a model with one image input.
        preprocess: has to be given where the input takes floats: mean and std can't be guessed.
        shape: of the input, for a height and width that the model leaves open.

    Raises:
        ModelError: the model takes no images, or a file is none.
        UsageError: Pillow or the preprocessing is missing.
    """
    value, where = wanted.inputs[0], str(files[0].parent)
    if len(wanted.inputs) != 1 or not wanted.batched:
        raise ModelError(
            f"{where}: holds images, but the model does not take one batch of images; give arrays by input name"
        )
    if preprocess is None and value.dtype.kind not in "iu":
        raise UsageError(
            f"{where}: images need the preprocessing the model was trained with, such as "
            "size=224,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
        )
    target = pixel_input(where, value, _channels(wanted), preprocess or Preprocess()).sized(shape)
    return [_chunk(path, target) for path in files]


def _channels(wanted: Signature) -> int:
    """How many the input has: 3 where it leaves them open."""
    value = wanted.inputs[0]
    if value.rank == 3:
        return 1
    return next((n for n in (value.fixed(1), value.fixed(3)) if n in _MODES), 3)


def _chunk(path: Path, target: PixelInput) -> Chunk:
    with _opened(path) as image:
        size = target.preprocess.final((image.height, image.width))
    target.check_size(str(path), size)

    def rows(start: int, stop: int) -> Feeds:
        with _opened(path) as image:
            return {target.input.name: target.feed(_decoded(path, image, target))}

    return Chunk(1, rows, size)


def _opened(path: Path) -> Image.Image:
    return _attempt(path, lambda: pillow().open(path))


def _decoded(path: Path, image: Image.Image, target: PixelInput) -> Array:
    """`(1, H, W, C)` uint8."""
    converted = _attempt(path, lambda: image.convert(_MODES[target.channels]))
    pixels = np.asarray(target.preprocess.apply(str(path), converted))
    return pixels.reshape(1, pixels.shape[0], pixels.shape[1], target.channels)


def _attempt(path: Path, action: Callable[[], Image.Image]) -> Image.Image:
    # Decoders raise errors of many kinds at damaged files.
    try:
        return action()
    except UsageError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: can't be read as an image ({first_line(error)}); repair or remove it") from error


def resized(where: str, pixels: Array, preprocess: Preprocess) -> Array:
    """uint8 images `(N, H, W, C)` in the size of a preprocessing; as they are where nothing is to be done."""
    size = pixels.shape[1], pixels.shape[2]
    if preprocess.resized(size) == size == preprocess.final(size):
        return pixels
    images = [
        pillow().fromarray(np.ascontiguousarray(image.squeeze(2) if image.shape[2] == 1 else image)) for image in pixels
    ]
    found = np.stack([np.asarray(preprocess.apply(where, image)) for image in images])
    return found.reshape(*found.shape[:3], pixels.shape[3])


def pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
        UsageError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("reading or resizing images needs Pillow: pip install 'onnxprune[images]'") from None
    return Image
