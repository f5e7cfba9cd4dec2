"""Scores a model on data from an npz file: top-1 accuracy where there are labels, else mean squared error.

The file holds either

* one array `(N, ...)` for each input of the model, under the input's name; or
* `images`, uint8 `(N, H, W)` or `(N, H, W, C)`, for a model with one image input. They become
  `(x / 255 - mean) / std`, with `mean` and `std` (one number or one a channel) from the file, 0 and 1 without, in the
  layout of the input: `(N, C, H, W)` or `(N, H, W, C)`. An integer input gets the pixels as they are.

To compare with, it has integer `labels` `(N,)` for an output of scores `(N, classes)`, or `targets` (also: an array
with the name of an output) of an output's shape. With none that fits, an output of the input's shape is compared with
the input itself: the model is an autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.arrays import read_npz
from onnxprune.calibrate.pixels import PixelInput, pixel_input, stored_images, stored_preprocess
from onnxprune.calibrate.signature import Input, described, inputs_of, listed
from onnxprune.errors import ModelError
from onnxprune.proof.session import first_line
from onnxprune.report.latency import open_optimized

Array = NDArray[Any]

_BATCH = 100


@dataclass(frozen=True)
class Score:
    """What a model reaches on evaluation data.

    Attributes:
        metric: `accuracy` (top-1, percent) or `mse`.
        value: the figure.
        samples: how many samples it is the mean of.
        predictions: class of each sample `(N,)`; empty for `mse`.
    """

    metric: Literal["accuracy", "mse"]
    value: float
    samples: int
    predictions: NDArray[np.int64]

    def agreement(self, other: Score) -> float | None:
        """Percent of samples for which both models predict the same class; None without classes."""
        if not self.predictions.size or self.predictions.shape != other.predictions.shape:
            return None
        return float((self.predictions == other.predictions).mean() * 100)


@dataclass(frozen=True)
class EvalData:
    """Samples for one model.

    Attributes:
        path: the npz file.
        arrays: input name -> `(N, ...)`; images to normalise are still uint8 `(N, H, W, C)`.
        images: the input that they go to; None where the arrays are what the model takes.
        dtypes: input name -> element type.
        batch: samples per run; fixed by the model, or chosen.
        labels: `(N,)`.
        targets: candidates for a comparison, `(N, ...)` each, by name.
    """

    path: Path
    arrays: dict[str, Array]
    images: PixelInput | None
    dtypes: dict[str, np.dtype[Any]]
    batch: int
    labels: Array | None
    targets: dict[str, Array]

    @property
    def samples(self) -> int:
        """N."""
        return len(next(iter(self.arrays.values())))

    def batches(self) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """First sample, samples that count, feeds; the last batch repeats its last sample up to the batch size."""
        for start in range(0, self.samples, self.batch):
            count = min(self.batch, self.samples - start)
            rows = np.minimum(np.arange(start, start + self.batch), self.samples - 1)
            yield start, count, {name: self._prepared(name, array[rows]) for name, array in self.arrays.items()}

    def _prepared(self, name: str, values: Array) -> Array:
        if self.images:
            return self.images.feed(values)
        return np.ascontiguousarray(values.astype(self.dtypes[name], copy=False))


def load_data(path: Path, model: onnx.ModelProto) -> EvalData:
    """Reads evaluation data and fits it to the inputs of a model.

    Raises:
        ModelError: the file can't be read, or its arrays don't fit the model.
    """
    held = read_npz(path)
    inputs = inputs_of(model)
    images = None
    if inputs and all(i.name in held for i in inputs):
        arrays = {i.name: held[i.name] for i in inputs}
        for i in inputs:
            i.check_shape(str(path), arrays[i.name])
    elif "images" in held and len(inputs) == 1:
        pixels = stored_images(str(path), "images", held["images"])
        images = pixel_input(str(path), inputs[0], pixels.shape[3], stored_preprocess(str(path), held))
        images.check_size(str(path), pixels.shape[1:3])
        arrays = {inputs[0].name: pixels}
    else:
        raise ModelError(
            f"{path}: has the arrays {listed(held)}, but needs one for each input of the model "
            f"({listed(i.name for i in inputs)}), or 'images' for a model with one input"
        )
    labels = held.get("labels")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ModelError(f"{path}: 'labels' has to be integers (N,), not {described(labels)}")
    samples = _samples(path, arrays if labels is None else {**arrays, "labels": labels})
    targets = {n: a for n, a in held.items() if n not in arrays and a.ndim and len(a) == samples}
    dtypes = {i.name: i.dtype for i in inputs}
    return EvalData(path, arrays, images, dtypes, _batch(path, inputs), labels, targets)


def _samples(path: Path, arrays: Mapping[str, Array]) -> int:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not max(counts.values()):
        raise ModelError(f"{path}: needs the same number of samples, at least one, in each array, not {counts}")
    return max(counts.values())


def _batch(path: Path, inputs: Sequence[Input]) -> int:
    """Samples per run: what the model fixes, else our choice."""
    fixed = {n for n in (i.fixed(0) for i in inputs) if n}
    if len(fixed) > 1:
        raise ModelError(f"{path}: the model's inputs have different fixed first dimensions {sorted(fixed)}")
    return fixed.pop() if fixed else _BATCH


def evaluate(model: Path | bytes, data: EvalData, name: str = "model") -> Score:
    """Runs a model on all samples.

    Args:
        model: a file or its bytes.
        data: result of `load_data`.
        name: of the model, for errors.

    Raises:
        ModelError: ONNX Runtime can't run the model, or no output fits the data.
    """
    session = open_optimized(model, name)
    names = [o.name for o in session.get_outputs()]
    total, elements = 0.0, 0
    predictions: list[Array] = []
    output, against = -1, ""
    for start, count, feeds in data.batches():
        try:
            results: Sequence[Any] = session.run(names, feeds)
        except Exception as error:
            raise ModelError(f"{name}: can't run on {data.path} ({first_line(error)})") from error
        if output < 0:
            output, against = _comparison(names, results, feeds, data)
        actual = results[output][:count]
        if against == "labels":
            predictions.append(_classes(actual))
            continue
        wanted = data.targets[against][start : start + count] if against in data.targets else feeds[against][:count]
        total += float(((actual.astype(np.float64) - wanted.astype(np.float64)) ** 2).sum())
        elements += actual.size
    if against == "labels" and data.labels is not None:
        found = np.concatenate(predictions).astype(np.int64)
        return Score("accuracy", float((found == data.labels).mean() * 100), data.samples, found)
    return Score("mse", total / elements, data.samples, np.zeros(0, np.int64))


def _comparison(names: Sequence[str], results: Sequence[Any], feeds: Mapping[str, Array], data: EvalData) -> tuple[int, str]:
    """Which output is compared, and with what: `labels`, the name of a target, or that of an input."""
    outputs = [(k, a) for k, a in enumerate(results) if isinstance(a, np.ndarray) and a.ndim and len(a) == data.batch]
    if data.labels is not None:
        for k, array in outputs:
            if _is_scores(array, int(data.labels.max())) or (array.ndim == 1 and array.dtype.kind in "iu"):
                return k, "labels"
    for k, array in outputs:
        for target in (names[k], "targets"):
            if target in data.targets and data.targets[target].shape[1:] == array.shape[1:]:
                return k, target
    for k, array in outputs:
        for name, value in feeds.items():
            if value.shape == array.shape and array.dtype.kind == "f":
                return k, name
    shapes = ", ".join(f"{n!r} {list(getattr(a, 'shape', ()))}" for n, a in zip(names, results, strict=True))
    raise ModelError(f"{data.path}: has no 'labels' or 'targets' that fit an output of the model ({shapes})")


def _is_scores(array: Array, largest: int) -> bool:
    """`(N, classes)`, axes of length 1 behind it allowed."""
    return array.ndim >= 2 and array.shape[1] > max(largest, 1) and array.size == array.shape[0] * array.shape[1]


def _classes(array: Array) -> Array:
    return array if array.ndim == 1 else array.reshape(len(array), -1).argmax(axis=1)
