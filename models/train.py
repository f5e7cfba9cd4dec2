"""Train small Fashion-MNIST models and export them to ONNX.

Writes the models, `fashion_mnist.npz` (evaluation slice and calibration images) and `index.json` (measured figures).

    python models/train.py --data /usr/share/datasets/fashion-mnist --out models
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from architectures import GRU, MobileNet, ResNet, UNet, ViT
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = 0.2860, 0.3530
SLICE = 2000  # test images in fashion_mnist.npz
CALIBRATION = 1024  # train images in fashion_mnist.npz, never trained on
BATCH = 128
NOISE = 0.5  # standard deviation of the noise that the autoencoder removes, in normalised units

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Data:
    """Fashion-MNIST: images `(N, 28, 28)` and labels `(N,)`."""

    train_images: Images
    train_labels: Images
    test_images: Images
    test_labels: Images


@dataclass(frozen=True)
class Export:
    """One ONNX file made from a trained network."""

    file: str
    exporter: str  # "legacy" or "dynamo"
    keep_batchnorm: bool = False


@dataclass(frozen=True)
class Recipe:
    """How one network is trained and which files it becomes."""

    build: Callable[[], nn.Module]
    exports: tuple[Export, ...]
    epochs: int
    learning_rate: float
    task: str = "classification"

    @property
    def output(self) -> str:
        return "logits" if self.task == "classification" else "reconstruction"

    @property
    def metric(self) -> str:
        return "accuracy" if self.task == "classification" else "mse"


RECIPES = {
    "resnet": Recipe(
        ResNet,
        (Export("resnet.onnx", "legacy", keep_batchnorm=True), Export("resnet_folded.onnx", "legacy")),
        epochs=4,
        learning_rate=4e-3,
    ),
    "gru": Recipe(GRU, (Export("gru.onnx", "legacy"),), epochs=5, learning_rate=4e-3),
    "vit": Recipe(
        ViT,
        (Export("vit_dynamo.onnx", "dynamo"), Export("vit_legacy.onnx", "legacy")),
        epochs=7,
        learning_rate=2e-3,
    ),
    "mobilenet": Recipe(MobileNet, (Export("mobilenet.onnx", "legacy"),), epochs=5, learning_rate=6e-3),
    "unet": Recipe(UNet, (Export("unet.onnx", "legacy"),), epochs=3, learning_rate=4e-3, task="reconstruction"),
}


def read_idx(path: Path) -> Images:
    """Reads a gzipped IDX file of unsigned bytes.

    Raises:
        ValueError: The file is not IDX or does not hold unsigned bytes.
    """
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_data(folder: Path) -> Data:
    """Reads the four Fashion-MNIST files of `folder`."""
    return Data(
        read_idx(folder / "train-images-idx3-ubyte.gz"),
        read_idx(folder / "train-labels-idx1-ubyte.gz"),
        read_idx(folder / "t10k-images-idx3-ubyte.gz"),
        read_idx(folder / "t10k-labels-idx1-ubyte.gz"),
    )


def normalise(images: Images) -> npt.NDArray[np.float32]:
    """Returns the network input `(N, 1, 28, 28)` of images `(N, 28, 28)`."""
    return ((images[:, None].astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def write_archive(data: Data, path: Path) -> None:
    """Writes the evaluation slice (test set) and the unlabelled calibration images (end of the train set)."""
    np.savez_compressed(
        path,
        images=data.test_images[:SLICE],
        labels=data.test_labels[:SLICE].astype(np.int64),
        calibration=data.train_images[-CALIBRATION:],
        mean=np.float32(MEAN),
        std=np.float32(STD),
    )


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields one epoch of shuffled, randomly mirrored batches."""
    for index in torch.randperm(len(images)).split(BATCH):
        x = images[index]
        mirror = torch.rand(len(index), 1, 1, 1) < 0.5
        yield torch.where(mirror, x.flip(-1), x), labels[index]


def loss_of(model: nn.Module, x: Tensor, y: Tensor, task: str) -> Tensor:
    """Returns the training loss; the autoencoder sees noise of a random strength on each image."""
    if task == "classification":
        return F.cross_entropy(model(x), y)
    strength = NOISE * torch.rand(len(x), 1, 1, 1)
    return F.mse_loss(model(x + strength * torch.randn_like(x)), x)


def train(name: str, recipe: Recipe, data: Data, epochs: int) -> nn.Module:
    """Trains one network with AdamW and a one-cycle schedule; the last `CALIBRATION` images stay unseen."""
    torch.manual_seed(0)
    model = recipe.build().to(memory_format=torch.channels_last).train()
    images = torch.from_numpy(normalise(data.train_images[:-CALIBRATION]))
    labels = torch.from_numpy(data.train_labels[:-CALIBRATION].astype(np.int64))
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for x, y in batches(images, labels):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, x.contiguous(memory_format=torch.channels_last), y, recipe.task)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(x)
        seconds = time.perf_counter() - start
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {total / len(images):.4f}, {seconds:.0f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def export(model: nn.Module, how: Export, output: str, path: Path) -> onnx.ModelProto:
    """Writes `model` to `path` with a dynamic batch and embedded weights.

    Raises:
        RuntimeError: The file has trainable BatchNorm or, where it should be folded, any BatchNorm.
    """
    example = (torch.randn(2, 1, 28, 28),)
    if how.exporter == "dynamo":
        torch.onnx.export(
            model,
            example,
            path,
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            output_names=[output],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    else:
        # In PRESERVE mode the exporter leaves BatchNorm alone, and eval() makes it an inference node.
        mode = torch.onnx.TrainingMode.PRESERVE if how.keep_batchnorm else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            model,
            example,
            path,
            dynamo=False,
            opset_version=17,
            training=mode,
            do_constant_folding=not how.keep_batchnorm,
            input_names=["image"],
            output_names=[output],
            dynamic_axes={"image": {0: "batch"}, output: {0: "batch"}},
        )
    proto = onnx.load(path)
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of the exporting machine
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    if any(len(node.output) != 1 for node in norms) or (norms and not how.keep_batchnorm):
        raise RuntimeError(f"{path}: unexpected BatchNormalization nodes {[node.name for node in norms]}")
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return proto


def evaluate(path: Path, task: str, images: Images, labels: Images) -> float:
    """Returns accuracy in percent, or the mean squared error of reconstructing the clean images, with ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = normalise(images)
    y = np.concatenate([session.run(None, {"image": x[i : i + 250]})[0] for i in range(0, len(x), 250)])
    if task == "classification":
        return round(100 * float(np.mean(y.argmax(1) == labels)), 2)
    return round(float(np.mean((y.astype(np.float64) - x) ** 2)), 6)


def describe(path: Path, recipe: Recipe, how: Export, proto: onnx.ModelProto, data: Data) -> dict[str, Any]:
    """Returns the index entry of one file."""
    weights = [numpy_helper.to_array(t) for t in proto.graph.initializer]
    return {
        "file": path.name,
        "task": recipe.task,
        "input": {"name": "image", "dtype": "float32", "shape": ["batch", 1, 28, 28]},
        "output": {
            "name": recipe.output,
            "dtype": "float32",
            "shape": ["batch", 10] if recipe.task == "classification" else ["batch", 1, 28, 28],
        },
        "metric": recipe.metric,
        "test_10000": evaluate(path, recipe.task, data.test_images, data.test_labels),
        f"slice_{SLICE}": evaluate(path, recipe.task, data.test_images[:SLICE], data.test_labels[:SLICE]),
        "parameters": int(sum(w.size for w in weights if w.dtype.kind == "f")),
        "bytes": path.stat().st_size,
        "opset": next(o.version for o in proto.opset_import if o.domain == ""),
        "exporter": f"torch {torch.__version__.split('+')[0]}, {how.exporter}",
        "batchnorm": "kept" if how.keep_batchnorm else "none or folded",
    }


def network_for(name: str, data: Data, epochs: int, weights: Path | None) -> nn.Module:
    """Trains a network, or takes it from `weights` if it was trained before."""
    recipe = RECIPES[name]
    saved = weights / f"{name}.pt" if weights else None
    if saved and saved.is_file():
        model = recipe.build()
        model.load_state_dict(torch.load(saved, weights_only=True))
        return model.eval()
    model = train(name, recipe, data, epochs)
    if saved:
        saved.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), saved)
    return model


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Train small Fashion-MNIST models and export them to ONNX.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the four Fashion-MNIST .gz files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--only", choices=list(RECIPES), help="train one network, leave the others as they are")
    parser.add_argument("--epochs", type=int, help="epochs instead of each network's own number")
    parser.add_argument("--weights", type=Path, help="folder of state dicts: reuse what is there, save what is new")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch")
    args = parser.parse_args()

    if not (args.data / "train-images-idx3-ubyte.gz").is_file():
        parser.error(f"{args.data} does not hold the Fashion-MNIST .gz files; see models/README.md")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_data(args.data)
    write_archive(data, args.out / "fashion_mnist.npz")
    index_path = args.out / "index.json"
    index: dict[str, Any] = json.loads(index_path.read_text()) if index_path.is_file() else {}
    for name in [args.only] if args.only else RECIPES:
        recipe = RECIPES[name]
        model = network_for(name, data, args.epochs or recipe.epochs, args.weights)
        for how in recipe.exports:
            path = args.out / how.file
            proto = export(model, how, recipe.output, path)
            entry = describe(path, recipe, how, proto, data)
            index[path.stem] = entry
            print(f"{how.file}: {entry['metric']} {entry['test_10000']}, {entry['bytes']:,} bytes", flush=True)
            index_path.write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
