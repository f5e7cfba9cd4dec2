"""What sparse weights would do to each linear node, and all of them together to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Samples, batch_size
from onnxprune.groups.group import Groups
from onnxprune.proof.session import open_session
from onnxprune.recover.job import LARGEST
from onnxprune.sparsity.patterns import Pattern
from onnxprune.sparsity.select import by_magnitude, by_reconstruction, lost
from onnxprune.statistics.accumulate import Accumulator, picked, pieces
from onnxprune.statistics.flow import lift
from onnxprune.statistics.linear import Linear, find_declined, find_linear
from onnxprune.statistics.positions import counted_rows, positions_of_each, spread
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.sensitivity import chosen, compared
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]
Sparse = dict[str, dict[str, Array]]
"""Pattern -> weight -> values."""
SAMPLES = 32
WORTH = "ONNX Runtime's CPU and CUDA kernels multiply zeros like any other number: this model would not run faster"


@dataclass
class NodeSparsity:
    """One node, by pattern.

    Attributes:
        node: its name.
        weight: the stored weight.
        elements: of it.
        reconstructed: relative error of its output where the other elements make up for the zeros.
        magnitude: the same where the smallest elements become 0 and the others stay.
        reason: why it was left out; the figures are empty then.
    """

    node: str
    weight: str
    elements: int
    reconstructed: list[float] = field(default_factory=list)
    magnitude: list[float] = field(default_factory=list)
    reason: str = ""


@dataclass
class ModelSparsity:
    """All nodes at the same time, by pattern.

    Attributes:
        patterns: that were asked for.
        nodes: in graph order.
        reconstructed: relative error of the model's outputs, the mean over float outputs.
        magnitude: likewise.
        samples: that the model ran on.
        worth: what a runtime makes of it.
    """

    patterns: list[str]
    nodes: list[NodeSparsity]
    reconstructed: list[float]
    magnitude: list[float]
    samples: int
    worth: str = WORTH


def measure_sparsity(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    patterns: Sequence[Pattern],
    *,
    budget: int = 1 << 30,
    providers: Providers = CPU,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> ModelSparsity:
    """Errors of sparse weights; nothing is changed. Weights of recurrent nodes and of embeddings stay whole.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        patterns: of zeros.
        budget: bytes of activations held in memory.
        providers: that the model runs on.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    stream = Stream(lift(model), samples, budget, providers)
    shape_of = groups.trace.shape_of
    linears = sorted(find_linear(stream.flow, shape_of), key=lambda x: x.node)
    held: list[Sparse] = [{}, {}]  # by kind of repair
    nodes = [NodeSparsity(d.name, d.weight, 0, reason=d.reason) for d in find_declined(stream.flow, shape_of)]
    for k, linear in enumerate(linears):
        progress("solving sparse weights", 0.9 * k / len(linears))
        nodes.append(_node(stream, linear, patterns, held))
    errors = [[_error(stream, by[p.text], progress) if p.text in by else 0.0 for p in patterns] for by in held]
    progress("running sparse models", 1.0)
    return ModelSparsity([p.text for p in patterns], nodes, errors[0], errors[1], min(samples.count, SAMPLES))


def _node(
    stream: Stream, linear: Linear, patterns: Sequence[Pattern], held: list[dict[str, dict[str, Array]]]
) -> NodeSparsity:
    stored = numpy_helper.to_array(stream.flow.initializers[linear.weight])
    row = NodeSparsity(linear.name, linear.weight, stored.size)
    matrix = linear.matrix(stored)
    taps = matrix.shape[1]
    if any(linear.weight in of_weight for by in held for of_weight in by.values()):
        row.reason = "it shares its weight with a node above"
    elif taps > LARGEST:
        row.reason = f"{taps:,} inputs of each output are too many"
    if row.reason:
        return row
    moments = _second_moments(stream, linear, matrix.shape)
    for pattern in patterns:
        for by, figures, repaired in zip(held, (row.reconstructed, row.magnitude), (True, False), strict=True):
            sparse = np.stack([
                by_reconstruction(w, h, pattern) if repaired else by_magnitude(w, pattern)
                for w, h in zip(matrix, moments, strict=True)
            ])  # fmt: skip
            by.setdefault(pattern.text, {})[linear.weight] = linear.stored(sparse, stored)
            figures.append(_relative(matrix, sparse, moments))
    return row


def _relative(matrix: Array, sparse: Array, moments: Array) -> float:
    """Relative error of all groups together."""
    whole = [float(np.einsum("km,km->", w, h @ w)) for w, h in zip(matrix, moments, strict=True)]
    parts = [lost(w, s, h) * own for w, s, h, own in zip(matrix, sparse, moments, whole, strict=True)]
    return sqrt(sum(parts) / sum(whole)) if sum(whole) > 0 else 0.0


def _second_moments(stream: Stream, linear: Linear, shape: tuple[int, ...]) -> Array:
    """Of what each group of the node reads, about 0 `(G, K, K)`."""
    groups, taps, _ = shape
    limit = positions_of_each(taps, stream.samples, groups)
    rows = Accumulator(groups, taps, 0, limit * stream.samples.count, linear.x)
    for view in stream.walk([linear.x, linear.y], hold=True):
        y, x = view.get(linear.y), view.get(linear.x)
        form = linear.form.arranged(y.shape, batch_size(view.batch))
        picks = spread(form.positions(y), limit)
        use = counted_rows(view.batch, stream.samples.mask, y, picks, form)
        for part, piece in pieces(form, x, picks):
            flat = picked(piece, use[part])
            rows.add(flat, flat[:, :, :0])
    m = rows.result()
    return np.asarray(m.xx / max(m.rows, 1) + m.x[:, :, None] * m.x[:, None, :])


def _error(stream: Stream, weights: Mapping[str, Array], progress: Callable[[str, float], None]) -> float:
    """Relative error of the model's outputs with other weights."""
    progress("running sparse models", 0.95)
    model, samples = stream.model, stream.samples
    outputs = [o.name for o in model.graph.output]
    runs = [_outputs(model, given, samples, outputs, stream.providers) for given in ({}, weights)]
    total = np.zeros((len(outputs), 2))
    for (batch, picks, before), (_, _, after) in zip(*runs, strict=True):
        total += [compared(a, b, batch, picks, samples.mask) for a, b in zip(before, after, strict=True)]
    seen = total[:, 1] > 0
    return float(np.sqrt((total[seen, 0] / total[seen, 1]).mean())) if seen.any() else 0.0


def _outputs(
    model: onnx.ModelProto, weights: Mapping[str, Array], samples: Samples, outputs: Sequence[str], providers: Providers
) -> Iterator[tuple[Any, Array, list[Array]]]:
    session, held = open_session(model, weights, optimize=True, often=True, providers=providers)
    inputs = {i.name for i in session.get_inputs()}
    for batch, picks in chosen(model, samples, SAMPLES):
        feeds = {n: a for n, a in batch.feeds.items() if n in inputs}
        yield batch, picks, list(session.run(list(outputs), feeds))
    del held
