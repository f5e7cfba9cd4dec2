"""EfficientNet-Lite0 on drawings and photos: the 125 Tux Paint stamps whose names are ImageNet classes.

Calibration is a subset of the stamps that have no such name.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from accuracy.packages import debian, version_of
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task, batches, classification, latencies

PACKAGE = "tuxpaint-stamps-default"
LABELS = Path(__file__).with_name("tuxpaint_imagenet_labels.json")
SIZE = 224


def _labels() -> dict[str, list[int]]:
    """File -> its ImageNet classes."""
    return {path: classes for path, _, classes in json.loads(LABELS.read_text())}


def _pixels(path: Path) -> Array:
    """Composited on white in the middle of a square of 1.05 x the longer side, scaled, `(x - 127) / 128`: `(3, H, W)`."""
    from PIL import Image

    image = Image.open(path).convert("RGBA")
    side = int(max(image.size) * 1.05)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    scaled = square.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return (np.asarray(scaled, np.float32).transpose(2, 0, 1) - 127) / 128


@cache
def _images(labelled: bool) -> Array:
    root = debian(PACKAGE) / "usr" / "share" / "tuxpaint" / "stamps"
    known = _labels()
    others = sorted(p for p in root.rglob("*.png") if p.relative_to(root).as_posix() not in known)
    return np.stack([_pixels(p) for p in ([root / name for name in known] if labelled else others)])


class Stamps(Task):
    name = "efficientnet_lite0"
    title = "EfficientNet-Lite0 (ImageNet), 125 Tux Paint stamps"
    shown = ("drop", "top5", "agreement")
    shapes: ClassVar = {"x": (1, 3, SIZE, SIZE)}
    samples, few, batch = 256, 64, 16
    streams = tuple(f"onnx::Conv_{n}" for n in (927, 945, 963, 990, 1017))  # biases of the projections in residual sums
    settings = (
        Setting("inner, -20 % MACs", {"ignore": streams}, 0.80, targets=(Target("agreement", ">=", 86),)),
        Setting("inner, -35 % MACs", {"ignore": streams}, 0.65, targets=(Target("agreement", ">=", 65),)),
        Setting("all, -20 % MACs", {}, 0.80, inner=False, targets=(Target("agreement", ">=", 86),)),
        *latencies("inner, ", {"ignore": streams}, 0.8, 0.65),
    )

    def pool(self) -> Feeds:
        return {"x": _images(False)}

    def outputs(self, session: ort.InferenceSession) -> Outputs:
        return {"out": np.concatenate([session.run(None, {"x": part})[0] for part in batches(_images(True), 25)])}

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        return classification(outputs["out"], list(_labels().values()), dense["out"])

    def data(self) -> dict[str, str]:
        return {PACKAGE: version_of(debian(PACKAGE))}


TASKS = (Stamps,)
