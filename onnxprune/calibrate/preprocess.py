"""What happens to an image before a model sees it, as its training declared it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from onnxprune.errors import ModelError, UsageError

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]

_EXAMPLE = "size=224,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
_MODES = ("cover", "stretch", "pad")


@dataclass(frozen=True)
class Preprocess:
    """From an image to numbers: resize, crop, then `(x * scale - mean) / std` for pixels x in 0..255.

    Resizing is bilinear with antialiasing. An integer input gets the pixels themselves.

    Attributes:
        size: (H, W) that the model gets; None: what the model fixes, else the size of the resized image.
        resize: a number: the shorter side becomes that long; `cover`: the image covers `size` as closely as can be;
            `stretch`: it becomes `size`, whatever its aspect ratio; `pad`: it fits into `size`, the rest is filled.
        crop: cut `size` out of the centre of what is larger.
        mean: one number, or one for each channel in the model's order, subtracted after scaling.
        std: likewise, the divisor.
        scale: factor of the pixels.
        order: of the channels that the model wants.
        fill: pixel around padded images, 0..255.
    """

    size: Size | None = None
    resize: int | Literal["cover", "stretch", "pad"] = "cover"
    crop: bool = True
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    order: Literal["rgb", "bgr"] = "rgb"
    fill: int = 0

    def __post_init__(self) -> None:
        known = self.resize in _MODES if isinstance(self.resize, str) else self.resize > 0
        for name, right, wanted in (
            ("size", self.size is None or min(self.size) > 0, "H and W of at least 1"),
            ("resize", known, f"the length of the shorter side, or one of {', '.join(_MODES)}"),
            ("mean", all(map(math.isfinite, self.mean)), "finite numbers"),
            ("std", all(math.isfinite(s) and s > 0 for s in self.std), "numbers above 0"),
            ("scale", math.isfinite(self.scale) and self.scale > 0, "a number above 0"),
            ("order", self.order in ("rgb", "bgr"), "rgb or bgr"),
            ("fill", 0 <= self.fill <= 255, "a pixel from 0 to 255"),
        ):
            if not right:
                raise UsageError(f"preprocess: {name} has to be {wanted}, not {getattr(self, name)}")

    def resized(self, size: Size) -> Size:
        """Height and width of an image after the resize, before padding or the crop."""
        high, wide = size
        if isinstance(self.resize, int):
            # Rounded as torchvision does it: the longer side down.
            short = self.resize
            return (short, int(short * wide / high)) if high <= wide else (int(short * high / wide), short)
        if self.size is None or self.resize == "stretch":
            return self.size or size
        ratios = self.size[0] / high, self.size[1] / wide
        ratio = min(ratios) if self.resize == "pad" else max(ratios)
        return max(round(high * ratio), 1), max(round(wide * ratio), 1)

    def final(self, size: Size) -> Size:
        """Height and width of an image as the model gets it."""
        return self.size if self.size and (self.crop or self.resize in ("stretch", "pad")) else self.resized(size)

    def apply(self, where: str, image: Image.Image) -> Image.Image:
        """Resizes, then pads or crops; the mode stays.

        Args:
            where: file of the image, for the error.
            image: any image.

        Raises:
            ModelError: it is too small to cut `size` out.
        """
        from PIL import Image

        before = image.height, image.width
        (high, wide), final = self.resized(before), self.final(before)
        if (high, wide) != before:
            image = image.resize((wide, high), Image.Resampling.BILINEAR)
        if (high, wide) == final:
            return image
        if self.resize == "pad":
            canvas = Image.new(image.mode, final[::-1], (self.fill,) * len(image.getbands()))
            canvas.paste(image, ((final[1] - wide) // 2, (final[0] - high) // 2))
            return canvas
        if high < final[0] or wide < final[1]:
            raise ModelError(
                f"{where}: is {high}x{wide} after resize={self.resize}, too small for size={final[0]}x{final[1]}; "
                "resize to a larger side, or pad"
            )
        top, left = round((high - final[0]) / 2), round((wide - final[1]) / 2)
        return image.crop((left, top, left + final[1], top + final[0]))


def parse_preprocess(text: str) -> Preprocess:
    """Reads a preprocessing from a text such as `size=224,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225`.

    The keys are the attributes of `Preprocess`: `size=N` or `HxW`, `resize=N|cover|stretch|pad`, `crop=yes|no`, `mean`
    and `std` as one number or `a:b:c`, `scale` as a number or a fraction such as `1/255`, `order=rgb|bgr`, `fill=N`.

    Raises:
        UsageError: a key is unknown or given twice, or a value is not of that form.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = (p.strip() for p in part.partition("="))
        if key not in _READERS:
            raise UsageError(f"preprocess: {part!r} has to be KEY=VALUE with one of {', '.join(_READERS)}; see {_EXAMPLE}")
        if key in found:
            raise UsageError(f"preprocess: {key} is given twice; lists of numbers are written with colons, as in {_EXAMPLE}")
        try:
            found[key] = _READERS[key](value)
        except (ValueError, KeyError, ZeroDivisionError):
            raise UsageError(f"preprocess: {part!r} can't be read; write it as in {_EXAMPLE}") from None
    return Preprocess(**found)


def _size(text: str) -> Size:
    sizes = [int(n) for n in text.lower().split("x")]
    high, wide = sizes * 2 if len(sizes) == 1 else sizes
    return high, wide


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(n) for n in text.split(":"))


_READERS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "resize": lambda text: text if text.isalpha() else int(text),
    "crop": lambda text: {"yes": True, "no": False}[text.lower()],
    "mean": _numbers,
    "std": _numbers,
    "scale": lambda text: float(Fraction(text)),
    "order": str.lower,
    "fill": int,
}
