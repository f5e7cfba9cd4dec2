"""Random samples at home in a model: every BatchNormalization normalizes them by their own statistics.

A BatchNormalization stores mean and variance of every channel over the training data. Random samples have others, and the
gap grows from layer to layer. With the statistics of the samples in place of the stored ones, each channel has the mean and
the variance behind every normalization that it has on real data, whatever the samples are. Units are ranked and weights
fitted there; then the stored statistics come back.

Source: Li et al. 2017, "Revisiting Batch Normalization For Practical Domain Adaptation" (AdaBN), the other way round: the
model moves to the samples, and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Samples, batch_size
from onnxprune.recover.slots import write_weights
from onnxprune.statistics.flow import Flow, attributes, lift
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]

_FARTHEST = 100.0  # a channel's variance is at most this many times more or less changed than those around it
_EPSILON = 1e-5


@dataclass(frozen=True)
class Match:
    """How the samples differ from the stored statistics of one BatchNormalization, once all before it are at home.

    Attributes:
        output: of the node.
        mean: median distance of the means, in stored standard deviations.
        spread: median factor between the standard deviations, at least 1.
    """

    output: str
    mean: float
    spread: float


@dataclass(frozen=True)
class Home:
    """A model that is at home with samples.

    Attributes:
        model: with statistics of the samples in its BatchNormalization nodes; the source where it has none.
        matches: one for each such node.
    """

    model: onnx.ModelProto
    matches: list[Match]

    @property
    def text(self) -> str:
        """For the report; empty where nothing was changed."""
        if not self.matches:
            return ""
        mean, spread = (float(np.median([getattr(m, n) for m in self.matches])) for n in ("mean", "spread"))
        count = f"{len(self.matches)} BatchNormalization node{'s' if len(self.matches) > 1 else ''}"
        return (
            f"{count} matched to them (means were off by {mean:.2g} standard deviations, these by a factor of {spread:.2g})"
        )


def at_home(model: onnx.ModelProto, samples: Samples, budget: int = 1 << 30) -> Home:
    """The model with statistics of the samples in place of those that it stores. It is not changed itself.

    Args:
        model: as it was prepared: no two nodes share a stored vector.
        samples: to be normalized.
        budget: bytes of activations that are held in memory.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    stream = Stream(lift(model), samples, budget)
    matches = []
    for node in stream.flow.nodes:
        stored = _statistics(stream.flow, node)
        if stored is None:
            continue
        stream.compute([node.input[0]])
        mean, variance = _moments(stream, node.input[0], samples)
        ratio = variance / stored[1]
        usual = float(np.median(ratio))
        if not usual > 0:
            continue
        ratio = np.clip(ratio, usual / _FARTHEST, usual * _FARTHEST)
        distance = np.abs(mean - stored[0]) / np.sqrt(stored[1])
        matches.append(
            Match(node.output[0], float(np.median(distance)), float(np.exp(np.median(np.abs(np.log(ratio))) / 2)))
        )
        for name, array in zip(node.input[3:5], (mean, ratio * stored[1]), strict=True):
            stream.weights[name] = array.astype(numpy_helper.to_array(stream.flow.initializers[name]).dtype)
    if not matches:
        return Home(model, [])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    write_weights(result, stream.weights)
    return Home(result, matches)


def brought_back(model: onnx.ModelProto, stored: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the statistics that another one of the same nodes stores.

    Shifts that a fit has changed keep the size they have in front of the normalization.

    Args:
        model: the pruned model, fitted at home; not changed.
        stored: the same before the fit, with the statistics of the source.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    here, there = Flow(lift(model)), Flow(lift(stored))
    changed: dict[str, Array] = {}
    for node in here.nodes:
        if node.op_type != "BatchNormalization" or any(n not in here.initializers for n in node.input[3:5]):
            continue
        old = there.nodes[there.producer[node.output[0]]]
        mean, variance = (numpy_helper.to_array(there.initializers[n]) for n in old.input[3:5])
        fitted_with = numpy_helper.to_array(here.initializers[node.input[4]])
        changed |= dict(zip(node.input[3:5], (mean, variance), strict=True))
        shift, new = there.constant(old.input[2]), here.constant(node.input[2])
        if shift is not None and new is not None and node.input[2] in here.initializers:
            epsilon = attributes(node).get("epsilon", _EPSILON)
            factor = np.sqrt((fitted_with.astype(np.float64) + epsilon) / (variance.astype(np.float64) + epsilon))
            changed[node.input[2]] = (shift + (new - shift) * factor).astype(shift.dtype)
    write_weights(result, changed)
    return result


def _statistics(flow: Flow, node: onnx.NodeProto) -> tuple[Array, Array] | None:
    """Mean and variance that a node stores for itself, in float64; None where it does not."""
    if node.op_type != "BatchNormalization" or attributes(node).get("training_mode"):
        return None
    names = node.input[3:5]
    if any(n not in flow.initializers or len(flow.readers[n]) > 1 for n in names) or names[0] == names[1]:
        return None
    mean, variance = (numpy_helper.to_array(flow.initializers[n]).astype(np.float64) for n in names)
    return mean, np.maximum(variance, 1e-30)


def _moments(stream: Stream, name: str, samples: Samples) -> tuple[Array, Array]:
    """Mean and variance of each channel `(C,)` over samples and positions."""
    rows, total, squares = 0, np.zeros(1), np.zeros(1)
    shift = None
    for b, batch in enumerate(samples.batches):
        x = np.asarray(stream.get(name, b, batch.feeds))
        x = x[: batch.count * max(len(x) // batch_size(batch), 1)].astype(np.float64)
        axes = tuple(a for a in range(x.ndim) if a != 1)
        shift = x.mean(axis=axes, keepdims=True) if shift is None else shift
        x = x - shift
        rows += x.size // x.shape[1]
        total, squares = total + x.sum(axis=axes), squares + (x * x).sum(axis=axes)
    assert shift is not None
    mean = total / rows
    return mean + shift.ravel(), np.maximum(squares / rows - mean**2, 0)
