"""Fashion-MNIST: the models of `models/`, on the 2,000 labelled images that they come with.

Where Debian's `dataset-fashion-mnist` is installed, classifiers are scored on all 10,000 test images too (`accuracy_10000`).

Calibration is a subset of their 1,024 unlabelled images, which are from the train set but were not trained on.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from accuracy.task import (
    RANKINGS,
    Array,
    Feeds,
    Figures,
    Outputs,
    Setting,
    Target,
    Task,
    batches,
    classification,
    cosine,
    latencies,
)

TEST = Path("/usr/share/datasets/fashion-mnist")
MODELS = Path(__file__).resolve().parent.parent.parent / "models"
DROP_1, DROP_2, DROP_45 = (Target("drop", "<=", bound) for bound in (1.0, 2.0, 4.5))


BUDGETS = (
    Setting("all, half of the MACs", {}, 0.5, inner=False, contestants=RANKINGS),
    Setting("all, 35 % of the MACs", {}, 0.35, inner=False, contestants=RANKINGS),
)
LATENCIES = latencies("all, ", {}, 0.8, 0.6, 0.45, inner=False)


@cache
def _arrays() -> dict[str, Array]:
    with np.load(MODELS / "fashion_mnist.npz") as held:
        return {name: held[name] for name in held.files}


@cache
def _test() -> tuple[Array, Array] | None:
    """Images `(10000, 28, 28)` and labels of the whole test set, where it is installed."""
    files = [TEST / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    if not all(f.is_file() for f in files):
        return None
    images, labels = (np.frombuffer(gzip.decompress(f.read_bytes()), np.uint8) for f in files)
    return images[16:].reshape(-1, 28, 28), labels[8:]


def _normalised(images: Array) -> Array:
    arrays = _arrays()
    return ((images[:, None] / 255.0 - arrays["mean"]) / arrays["std"]).astype(np.float32)


class Fashion(Task):
    """Classifiers."""

    file: ClassVar[str] = ""
    shapes: ClassVar = {"image": (1, 1, 28, 28)}

    def model(self) -> Path:
        return MODELS / self.file

    def pool(self) -> Feeds:
        return {"image": _normalised(_arrays()["calibration"])}

    def outputs(self, session: ort.InferenceSession) -> Outputs:
        test = _test()
        sets = {"out": _arrays()["images"]} | ({"test": test[0]} if test and self.metric == "accuracy" else {})
        return {
            name: np.concatenate([session.run(None, {"image": _normalised(part)})[0] for part in batches(images, 100)])
            for name, images in sets.items()
        }

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        figures = classification(outputs["out"], _arrays()["labels"], dense["out"])
        test = _test()
        if test and "test" in outputs:
            figures["accuracy_10000"] = 100 * float((outputs["test"].argmax(1) == test[1]).mean())
        return figures


def _resnet(inner: tuple[str, ...]) -> tuple[Setting, ...]:
    """Inner: the output channels of the first convolution of each block, which only the second one reads."""
    return (
        Setting("inner 50 %", {"ratio": 0.5, "only": inner}, targets=(DROP_1, Target("agreement", ">=", 95))),
        Setting("inner 75 %", {"ratio": 0.75, "only": inner}, targets=(DROP_45,)),
        Setting("all 25 %", {"ratio": 0.25}, inner=False),
    )


class ResNet(Fashion):
    name, file, title = "resnet", "resnet.onnx", "ResNet, Fashion-MNIST"
    settings = (*_resnet(("blocks.*.bn1.weight",)), *BUDGETS, *LATENCIES)


class ResNetFolded(Fashion):
    name, file, title = "resnet_folded", "resnet_folded.onnx", "ResNet with BatchNormalization folded, Fashion-MNIST"
    # the biases of blocks.*.conv1
    settings = _resnet(tuple(f"onnx::Conv_{n}" for n in (151, 157, 163, 172, 178, 187)))


class MobileNet(Fashion):
    name, file, title = "mobilenet", "mobilenet.onnx", "MobileNet with SE, Fashion-MNIST"
    streams = tuple(f"onnx::Conv_{n}" for n in (248, 266, 284))  # biases of the projections that residual sums read
    settings = (
        Setting("inner, -35 % MACs", {"ignore": streams}, 0.65, targets=(Target("drop", "<=", 2.5),)),
        Setting("all, -35 % MACs", {}, 0.65, inner=False, targets=(Target("drop", "<=", 2.5),)),
        *BUDGETS,
        *LATENCIES,
    )


class ViTLegacy(Fashion):
    name, file, title = "vit_legacy", "vit_legacy.onnx", "ViT (`dynamo=False`), Fashion-MNIST"
    settings = (
        Setting("FFN 50 %", {"ratio": 0.5, "attention": "off"}),
        Setting("FFN 50 %, heads 50 %", {"ratio": 0.5}, targets=(DROP_2,)),
        Setting("FFN 50 %, head dimensions 50 %", {"ratio": 0.5, "attention": "head-dim"}, targets=(DROP_2,)),
        Setting(
            "FFN 50 %, half of all heads, by global ranking",
            {"ratio": 0.5, "ranking": "global", "ratios": {"*up.bias": 0.5}},
            targets=(DROP_2,),
            contestants=("obs+lsq",),
        ),
        *(replace(s, targets=(DROP_2,)) if s.macs == 0.5 else s for s in BUDGETS),
        *LATENCIES,
    )


class ViTDynamo(Fashion):
    name, file, title = "vit_dynamo", "vit_dynamo.onnx", "ViT (`dynamo=True`), Fashion-MNIST"
    settings = ViTLegacy.settings


class GRU(Fashion):
    name, file, title = "gru", "gru.onnx", "bidirectional GRU, Fashion-MNIST"
    settings = (Setting("25 %", {"ratio": 0.25}), Setting("50 %", {"ratio": 0.5}))


class UNet(Fashion):
    """Denoiser, judged on clean images."""

    name, file, title = "unet", "unet.onnx", "U-Net, reconstruction of Fashion-MNIST"
    metric = "mse"
    shown = ("mse_ratio", "cosine")
    settings = (Setting("25 %", {"ratio": 0.25}), Setting("50 %", {"ratio": 0.5}), *LATENCIES)

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        images = _normalised(_arrays()["images"])
        mse, before = (float(np.square(o["out"] - images, dtype=np.float64).mean()) for o in (outputs, dense))
        change = float(np.square(outputs["out"] - dense["out"], dtype=np.float64).mean())
        return {
            "mse": mse,
            "mse_ratio": mse / before,
            "mse_to_dense": change,
            "cosine": cosine(outputs["out"], dense["out"]),
        }


TASKS = (ResNet, ResNetFolded, MobileNet, ViTLegacy, ViTDynamo, GRU, UNet)
