"""The loss whose gradients say what a unit is worth, with labels that the model draws itself.

With labels from the model's own output distribution, the mean of squared gradients is the Fisher information, which is the
curvature of the divergence between the pruned and the dense model; no labels are needed (Martens 2020, "New Insights and
Perspectives on the Natural Gradient Method", section 5). Given labels take their place.

| output | distribution | loss |
|---|---|---|
| scores of classes `(N, C)` | softmax of them | cross entropy |
| scores of tokens `(N, T, V)` | softmax for each token | sum of cross entropies over tokens that are no padding |
| any other floats | normal, its deviation the output's root mean square | half the squared distance from a draw |

Scores may be logits, probabilities, or logarithms of them: rows tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import softmax

from onnxprune.errors import UsageError
from onnxprune.statistics.flow import Flow

Array = NDArray[Any]
Kind = Literal["classes", "tokens", "values"]
_IGNORED = -100  # a label that does not count, as in most training code
_CLOSE = 1e-3


@dataclass(frozen=True)
class Loss:
    """The part of the loss that one output makes up.

    Attributes:
        output: its name.
        kind: `classes` `(N, C)`, `tokens` `(N, T, V)`, or `values`.
        probabilities: its rows are probabilities.
        scale: root mean square of an output of `values`, see `scaled`.
    """

    output: str
    kind: Kind
    probabilities: bool = False
    scale: float = 1.0

    def distribution(self, y: Array) -> Array:
        """Probabilities over the last axis."""
        y = np.asarray(y, np.float64)
        if self.probabilities:
            y = np.maximum(y, 0)
            return np.asarray(y / np.maximum(y.sum(axis=-1, keepdims=True), 1e-30))
        return np.asarray(softmax(y, axis=-1))

    def draw(self, y: Array, rng: np.random.Generator) -> Array:
        """Labels of one sample: `()` of classes, `(T,)` of tokens; for values, standard normal numbers `y.shape`."""
        if self.kind == "values":
            return rng.standard_normal(y.shape)
        cumulative = np.cumsum(self.distribution(y), axis=-1)
        places = (cumulative < rng.random(cumulative.shape[:-1])[..., None]).sum(axis=-1)
        return np.asarray(np.minimum(places, y.shape[-1] - 1))

    def seed(self, y: Array, label: Array, counted: Array | None) -> Array:
        """Gradient of the loss of one sample with respect to the output.

        Args:
            y: the output of the sample, without its first axis.
            label: as `draw` returns it.
            counted: tokens that are no padding `(T,)`; None: all.
        """
        if self.kind == "values":
            return np.asarray(label / self.scale)
        p = self.distribution(y)
        at = np.expand_dims(np.maximum(label, 0), -1)
        if self.probabilities:
            found = np.zeros_like(p)
            np.put_along_axis(found, at, -1 / np.maximum(np.take_along_axis(p, at, -1), 1e-12), axis=-1)
        else:
            found = p
            np.put_along_axis(found, at, np.take_along_axis(p, at, -1) - 1, axis=-1)
        weight = np.asarray(label != _IGNORED, np.float64)
        if self.kind == "tokens" and counted is not None:
            weight = weight * counted
        return np.asarray(found * weight[..., None])

    def value(self, y: Array, label: Array, counted: Array | None) -> float:
        """The loss of one sample, but for a constant: what `seed` is the gradient of, at the dense model."""
        if self.kind == "values":
            return float((np.asarray(y, np.float64) * label).sum() / self.scale)
        p = np.take_along_axis(self.distribution(y), np.expand_dims(np.maximum(label, 0), -1), -1)[..., 0]
        losses = -np.log(np.maximum(p, 1e-30)) * (label != _IGNORED)
        return float((losses if counted is None or self.kind == "classes" else losses * counted).sum())


def losses(
    model: onnx.ModelProto, outputs: Mapping[str, Array], samples: int, labels: Array | None, *, batched: bool
) -> list[Loss]:
    """What the loss is made of.

    Args:
        model: whose outputs they are.
        outputs: of one run, `(N, ...)` where the model has a batch axis.
        samples: N.
        labels: of all samples, `(S,)` for classes or `(S, T)` for tokens; None: they are drawn.
        batched: the first axis counts samples.

    Raises:
        UsageError: no output is of floats, or none fits the labels.
    """
    found = [
        _describe(name, y, _vocabularies(model), labels)
        for name, y in outputs.items()
        if isinstance(y, np.ndarray) and y.dtype.kind == "f" and y.size and (not batched or (y.ndim and len(y) == samples))
    ]
    if not found:
        shown = ", ".join(f"{n!r} {getattr(y, 'dtype', '')} {list(getattr(y, 'shape', ()))}" for n, y in outputs.items())
        raise UsageError(f"the model's outputs give no loss: none is of floats with a row for each sample ({shown})")
    if labels is None:
        return found
    fitting = [f for f in found if f.kind == ("tokens" if labels.ndim == 2 else "classes")]
    if not fitting:
        shown = ", ".join(f"{f.output!r} {list(outputs[f.output].shape)}" for f in found)
        raise UsageError(f"labels {list(labels.shape)} fit no output of the model ({shown})")
    first = fitting[0]
    size = outputs[first.output].shape[-1]
    if labels.max(initial=0) >= size or (labels[labels != _IGNORED] < 0).any():
        raise UsageError(f"labels {labels.min()}..{labels.max()} do not fit the {size} classes of output {first.output!r}")
    return [first]


def _describe(name: str, y: Array, vocabularies: set[int], labels: Array | None) -> Loss:
    rows = np.asarray(y, np.float64)
    if y.ndim >= 2 and y.shape[-1] > 1:
        sums = rows.sum(axis=-1)
        proper = bool(rows.min() >= 0 and np.abs(sums - 1).max() < _CLOSE)
        logarithms = bool(rows.max() <= 0 and np.abs(np.exp(rows).sum(axis=-1) - 1).max() < _CLOSE)
        unit = bool(np.abs(np.square(rows).sum(axis=-1) - 1).max() < _CLOSE) and not proper  # an embedding
        tokens = y.shape[-1] in vocabularies or "logits" in name.lower() or proper or logarithms
        if y.ndim == 2 and not unit:
            return Loss(name, "classes", proper)
        if y.ndim == 3 and (tokens or (labels is not None and labels.ndim == 2)):
            return Loss(name, "tokens", proper)
    return Loss(name, "values")


def scaled(parts: Sequence[Loss], runs: Iterable[tuple[Mapping[str, Array], int]], most: int = 32) -> list[Loss]:
    """The same with the scales of the first samples, so that outputs of different size count alike.

    Args:
        parts: of the loss.
        runs: outputs, and how many of their first rows count.
        most: samples that are looked at.
    """
    if all(p.kind != "values" for p in parts):
        return list(parts)
    squares, elements, seen = np.zeros(len(parts)), np.zeros(len(parts)), 0
    for outputs, count in runs:
        rows = min(count, most - seen)
        for k, part in enumerate(parts):
            y = np.asarray(outputs[part.output][:rows], np.float64)
            squares[k] += np.square(y).sum()
            elements[k] += y.size
        seen += rows
        if seen >= most:
            break
    scales = np.sqrt(squares / np.maximum(elements, 1))
    return [replace(p, scale=float(s)) if p.kind == "values" and s > 0 else p for p, s in zip(parts, scales, strict=True)]


def _vocabularies(model: onnx.ModelProto) -> set[int]:
    """Rows of tables that integer inputs index."""
    flow = Flow(model)
    sizes = set()
    for node in flow.nodes:
        if node.op_type == "Gather" and node.input[0] in flow.initializers and node.input[1] in flow.inputs:
            dims = flow.initializers[node.input[0]].dims
            if len(dims) == 2:
                sizes.add(int(dims[0]))
    return sizes
