"""How much the model's output changes with an error at the readers of each group, measured forward only.

Local errors alone don't tell what to remove: a tenth of the variance of one branch of a residual sum is nothing, a tenth of
the stem's is all. So noise of `EPSILON` of its standard deviation, channel by channel, is added to the outputs of all linear
nodes that read a group, and the relative squared error of the model's outputs is divided by `EPSILON**2`. The noise is the
same at all positions of a sample: what a removal loses varies as slowly as activations do, and white noise is averaged away
by what follows (on EfficientNet-Lite0 it makes out the stem eight times as sensitive, compared with its branches, as a
removal without repair shows it to be):

    s_g = mean over outputs of E|f(y + e) - f(y)|^2 / E|f(y)|^2 / EPSILON^2

To first order an error of relative variance v at these nodes then costs `s_g * v` of the output: the diagonal of a
Gauss-Newton matrix, by one directional derivative for each sample instead of a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibrate.batch import Batch, Samples, batch_size, digests, held_out
from onnxprune.calibrate.signature import signature
from onnxprune.errors import ModelError
from onnxprune.groups.group import Group, Groups
from onnxprune.io.journal import Entry, Journal
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow
from onnxprune.statistics.channels import labels_on
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Convolution, Linear, find_linear
from onnxprune.statistics.providers import CPU, Providers

Array = NDArray[Any]
EPSILON = 0.1
SAMPLES = 64
_NONE = 1 << 32  # above all digests
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def output_sensitivity(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    *,
    only: Sequence[Group] | None = None,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, float]:
    """For each group with readers: squared error of the model's output for each share of their variance that is lost.

    Both are relative. At most `SAMPLES` samples are looked at; which ones, and the noise, follow from their content.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        only: groups to measure; all where not given.
        providers: that the model runs on.
        journal: where finished results lie; its key is all of the above.
        progress: called with the stage and the share that is done.

    Returns: group id -> sensitivity; empty where no output is a float tensor, or ONNX Runtime has no kernels for the type.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    lifted = lift(model)
    measured = groups.groups if only is None else only
    places = _places(Flow(lifted), groups, measured)
    if not places or is_narrow(model):
        return {}
    section = None
    if journal is not None:
        where = [[p.name, p.axis, str(p.dtype), sorted(p.groups)] for p in places]
        section = journal.section("sensitivity", model, samples, where, asdict(providers))
        if (entry := section.get("all")) is not None:
            return dict(entry.data)
    outputs = [o.name for o in lifted.graph.output]
    probe = _Probe(_with_noise(lifted, places), outputs, places, providers)
    try:
        for k, (batch, rows) in enumerate(chosen(model, samples)):
            progress("measuring sensitivity", k / max(len(samples.batches), 1))
            probe.read(batch, rows, samples.mask)
        wanted = {g.id: [p.name for p in places if g.id in p.groups] for g in measured}
        found = probe.errors({g: names for g, names in wanted.items() if names}, progress)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}") from error
    finite = [v for v in found.values() if np.isfinite(v)]
    result = {g: v if np.isfinite(v) else max(finite, default=1.0) for g, v in found.items()}
    if section is not None:
        section.put("all", Entry(data=result))
    return result


@dataclass(frozen=True)
class _Place:
    """The output of a linear node: its channel axis, its type, and the groups whose channels are read."""

    name: str
    axis: int
    dtype: np.dtype[Any]
    groups: frozenset[str]


def _places(flow: Flow, groups: Groups, measured: Sequence[Group]) -> list[_Place]:
    owners: dict[int, set[str]] = {}
    for group in measured:
        for c in _classes(group):
            owners.setdefault(c, set()).add(group.id)
    places = []
    for linear in find_linear(flow, groups.trace.shape_of):
        value, made = groups.trace.values.get(linear.x), groups.trace.values.get(linear.y)
        if value is None or made is None or value.shape is None or made.dtype not in _FLOATS:
            continue
        labels = labels_on(value, linear.form.read_axes(value.rank))
        if not labels or is_depthwise(flow, linear):
            continue
        classes = np.unique(groups.classes.of_label[np.concatenate(labels)])
        ids = frozenset(g for c in classes.tolist() for g in owners.get(c, ()))
        if ids:
            dtype = helper.tensor_dtype_to_np_dtype(int(made.dtype))
            places.append(_Place(linear.y, linear.form.channel_axis(made.rank), dtype, ids))
    return places


def _classes(group: Group) -> set[int]:
    return {int(c) for bucket in group.buckets for unit in bucket for c in unit}


def is_depthwise(flow: Flow, linear: Linear) -> bool:
    """Its outputs are channels of their own, and who reads those counts."""
    form = linear.form
    if not isinstance(form, Convolution) or form.groups == 1:
        return False
    dims = flow.initializers[linear.weight].dims
    return bool(dims[0] == form.groups == dims[0] * dims[1])


def _noise(name: str) -> str:
    return f"{name}_onnxprune_noise"


def _with_noise(model: onnx.ModelProto, places: Sequence[_Place]) -> onnx.ModelProto:
    """The model with an Add behind each of these tensors; the other summand is an input, and the sum has the old name."""
    wanted = {p.name for p in places}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in wanted:
                node.output[i] = f"{name}_onnxprune_raw"
                nodes.append(helper.make_node("Add", [node.output[i], _noise(name)], [name]))
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(held)
    for p in places:
        model.graph.input.append(
            helper.make_tensor_value_info(_noise(p.name), helper.np_dtype_to_tensor_dtype(p.dtype), None)
        )
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(p.name) for p in places if p.name not in known)
    return model


def chosen(
    model: onnx.ModelProto, samples: Samples, count: int = SAMPLES, *, held: bool = False
) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
    """Batches, and which of their samples count: those with the smallest digests, of all or of those held out."""

    def marks_of(batch: Batch) -> NDArray[np.int64]:
        marks = digests(batch)[: batch.count]
        return np.where(held_out(batch)[: batch.count], marks, _NONE) if held else marks

    marks = np.sort(np.concatenate([marks_of(b) for b in samples.batches]))
    bound = min(marks[min(count, len(marks)) - 1], _NONE - 1)
    try:
        wanted = signature(model)
        sliced = wanted.batched and wanted.batch is None
    except ModelError:
        sliced = False
    for batch in samples.batches:
        rows = np.flatnonzero(marks_of(batch) <= bound)
        if not rows.size:
            continue
        if sliced and all(a.ndim and len(a) == batch_size(batch) for a in batch.feeds.values()):
            yield Batch({n: a[rows] for n, a in batch.feeds.items()}, len(rows)), np.arange(len(rows))
        else:
            yield batch, rows


@dataclass
class _Probe:
    """The model with noise, and the batches that it has seen without."""

    model: onnx.ModelProto
    outputs: list[str]
    places: list[_Place]
    providers: Providers
    batches: list[tuple[Batch, NDArray[np.int64], str | None]] = field(default_factory=list)
    moments: dict[str, tuple[int, Array, Array]] = field(default_factory=dict)
    shapes: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session, self.weights = open_session(self.model, optimize=True, often=True, providers=self.providers)
        self.inputs = {i.name for i in self.session.get_inputs()}

    def read(self, batch: Batch, rows: NDArray[np.int64], mask: str | None) -> None:
        """Takes the spread of each place from a batch."""
        for p, array in zip(self.places, self.run(batch, {}, [p.name for p in self.places]), strict=True):
            self.shapes[p.name, len(self.batches)] = array.shape
            flat = np.moveaxis(array, p.axis, -1).reshape(-1, array.shape[p.axis]).astype(np.float64)
            count, total, squares = self.moments.get(p.name, (0, np.zeros(flat.shape[1]), np.zeros(flat.shape[1])))
            self.moments[p.name] = count + len(flat), total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
        self.batches.append((batch, rows, mask))

    def errors(self, wanted: Mapping[str, list[str]], progress: Callable[[str, float], None]) -> dict[str, float]:
        """Sensitivity of each group."""
        totals: dict[str, Array] = {g: np.zeros((len(self.outputs), 2)) for g in wanted}
        for b, (batch, rows, mask) in enumerate(self.batches):
            dense = self.run(batch, {}, self.outputs)
            for k, (group, names) in enumerate(wanted.items()):
                progress("measuring sensitivity", (b + k / len(wanted)) / len(self.batches))
                noisy = self.run(
                    batch, {p.name: self.noise(p, b, batch) for p in self.places if p.name in names}, self.outputs
                )
                for o, (before, after) in enumerate(zip(dense, noisy, strict=True)):
                    totals[group][o] += compared(before, after, batch, rows, mask)
        result = {}
        for group, total in totals.items():
            known = total[:, 1] > 0
            if known.any():
                result[group] = float((total[known, 0] / total[known, 1]).mean()) / EPSILON**2
        return result

    def noise(self, place: _Place, b: int, batch: Batch) -> Array:
        """Gaussian, of `EPSILON` of the spread of each channel; the same at all positions of a sample."""
        count, total, squares = self.moments[place.name]
        deviation = EPSILON * np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
        shape = self.shapes[place.name, b]
        marks = digests(batch).tolist()
        own = marks if marks and shape[0] % len(marks) == 0 else [marks]
        drawn = np.stack([np.random.default_rng(m).standard_normal(len(deviation)) for m in own]) * deviation
        single = [1] * len(shape)
        single[0], single[place.axis] = shape[0], shape[place.axis]
        rows = np.repeat(drawn, shape[0] // len(own), axis=0)
        return np.broadcast_to(rows.reshape(single), shape).astype(place.dtype)

    def run(self, batch: Batch, noise: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        """Some tensors of one batch."""
        feeds = {n: a for n, a in batch.feeds.items() if n in self.inputs}
        feeds |= {_noise(p.name): np.asarray(noise.get(p.name, 0.0), p.dtype) for p in self.places}
        return list(self.session.run(list(wanted), feeds))


def compared(before: Any, after: Any, batch: Batch, rows: NDArray[np.int64], mask: str | None) -> Array:
    """Squared difference, and square of the first; zeros where it is no float tensor."""
    if not isinstance(before, np.ndarray) or before.dtype.kind != "f":
        return np.zeros(2)
    if before.shape != after.shape:  # how many boxes there are changed: as wrong as it can be
        return np.ones(2)
    if before.ndim and len(before) == batch_size(batch):
        before, after = before[rows], after[rows]
        if mask is not None and before.shape[:2] == batch.feeds[mask][rows].shape:
            counted = batch.feeds[mask][rows] != 0
            before, after = before[counted], after[counted]
    x, y = before.astype(np.float64), after.astype(np.float64)
    return np.array([((x - y) ** 2).sum(), (x**2).sum()])
