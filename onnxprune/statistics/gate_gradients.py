"""Gradients of the loss with respect to gates, sample by sample.

The model runs once over the samples and once back (`onnxprune.gradient`). A gate's gradient is activation times gradient,
summed over positions; a unit's is the sum over all places where its channels end, because one gate stands at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.sparse import csr_array

from onnxprune.calibrate.batch import Batch, Samples, batch_size
from onnxprune.calibrate.signature import Signature, signature
from onnxprune.errors import ModelError, UsageError
from onnxprune.gradient.backward import Backward, Found, expanded
from onnxprune.gradient.loss import Loss, losses, scaled
from onnxprune.gradient.sample_loss import SampleLoss
from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Entry, Journal
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow
from onnxprune.statistics.flow import lift
from onnxprune.statistics.gate_differences import gate_differences
from onnxprune.statistics.gates import Gate, find_gates, gated_elements, insert, owners

_ARRAYS = ("squares", "magnitudes", "known")
DIFFERENCES = 1024  # units, at most, that are worth two runs over all samples each
Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass
class GateGradients:
    """What the gradients say about each element of each group, all buckets one after the other.

    Attributes:
        squares: group id -> mean over samples of the squared gradient of the element's gate `(elements,)`.
        magnitudes: group id -> mean over samples of the sum of magnitudes over the element's channels `(elements,)`.
        known: group id -> elements whose gates are exact; nothing is known of the others.
        samples: how many.
        losses: what the loss was made of.
        labels: `drawn` from the model's outputs, or `given`.
        stopped: operators without a derivative -> their nodes.
        differences: elements known by central differences, because such an operator lies behind them.
    """

    squares: dict[str, Floats]
    magnitudes: dict[str, Floats]
    known: dict[str, Mask]
    samples: int
    losses: list[Loss]
    labels: str
    stopped: dict[str, list[str]] = field(default_factory=dict)
    differences: int = 0

    def fill(self, found: Mapping[str, Floats]) -> None:
        """Elements that were not known, from gradients `(samples, elements)`, NaN where there is none."""
        for group, rows in found.items():
            new = ~self.known[group] & np.isfinite(rows).all(axis=0)
            self.squares[group][new] = np.square(rows[:, new]).mean(axis=0)
            self.magnitudes[group][new] = np.abs(rows[:, new]).mean(axis=0)
            self.known[group] |= new
            self.differences += int(new.sum())
            self.samples = len(rows)

    @property
    def backend(self) -> str:
        """One line for the report."""
        kinds = ", ".join(dict.fromkeys(loss.kind for loss in self.losses))
        text = f"reverse mode on {self.samples:,} samples, labels {self.labels} ({kinds})"
        if self.stopped:
            missed = sum(int((~k).sum()) for k in self.known.values())
            text += f"; no derivative of {', '.join(sorted(self.stopped))}, so central differences for {self.differences:,} "
            text += f"units and none for {missed:,}"
        return text


def gate_gradients(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    *,
    seed: int = 0,
    budget: int = 1 << 30,
    journal: Journal | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> GateGradients:
    """Gradients of gates over all samples.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: with labels, or without: then they are drawn.
        seed: of the draws. Those of a sample follow from its content, so that order and batches do not matter.
        budget: bytes of activations that are held; batches are cut to fit where the model lets them.
        journal: where finished gradients lie; its key is all of the above.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
        UsageError: the model's outputs give no loss, no gradient reaches a unit, or labels do not fit.
    """
    if is_narrow(model):
        raise UsageError("gradients need a model that ONNX Runtime can run on a CPU; this one is bfloat16: use l2 or obs")
    section = None
    if journal is not None:
        section = journal.section("gradients", model, *_units(groups), samples, samples.labels, seed, budget)
        if (entry := section.get("all")) is not None:
            return _read(entry)
    lifted = lift(model)
    run = _Pass(lifted, groups, samples, seed, budget)
    found = run.run(progress) if run.usable else run.nothing()
    missed = {g: ~known for g, known in found.known.items()}
    if 0 < sum(int(m.sum()) for m in missed.values()) <= DIFFERENCES and run.lost:
        found.fill(gate_differences(lifted, groups, samples, run.loss, missed, progress))
    if not any(k.any() for k in found.known.values()):
        stopped = f": no derivative passes {', '.join(sorted(found.stopped))}" if found.stopped else ""
        raise UsageError(f"no gradient of the outputs reaches a unit{stopped}; use obs or l2")
    if section is not None:
        section.put("all", _written(found))
    return found


def _units(groups: Groups) -> Iterator[object]:
    """Everything about groups that gradients follow from."""
    yield groups.classes.of_label
    for group in groups.groups:
        yield group.id
        for bucket in group.buckets:
            yield from ([unit.size for unit in bucket], np.concatenate([np.zeros(0, np.int32), *bucket]))


def _written(found: GateGradients) -> Entry:
    """For the journal."""
    arrays = {f"{n}.{g}": array for n in _ARRAYS for g, array in getattr(found, n).items()}
    plain = {"samples": found.samples, "labels": found.labels, "stopped": found.stopped, "differences": found.differences}
    return Entry(arrays, {**plain, "losses": [asdict(loss) for loss in found.losses]})


def _read(entry: Entry) -> GateGradients:
    """From the journal."""
    squares, magnitudes, known = (
        {n.removeprefix(f"{kind}."): a for n, a in entry.arrays.items() if n.startswith(f"{kind}.")} for kind in _ARRAYS
    )
    data = entry.data
    losses = [Loss(**loss) for loss in data["losses"]]
    return GateGradients(
        squares, magnitudes, known, data["samples"], losses, data["labels"], data["stopped"], data["differences"]
    )


class _Pass:
    def __init__(self, model: onnx.ModelProto, groups: Groups, samples: Samples, seed: int, budget: int) -> None:
        self.groups, self.samples, self.seed, self.budget = groups, samples, seed, budget
        self.signature: Signature = signature(model)
        self.gates = find_gates(model, groups)
        self.alive: list[object] = []  # what sessions hold on to
        gated = insert(model, self.gates)
        self.model = expanded(gated)
        try:
            self.loss = self._loss()
        except ModelError:
            if self.model is gated:
                raise
            self.model = gated  # a function body that ONNX Runtime can't run: its operator stops the gradient
            self.loss = self._loss()
        self.back = Backward(self.model, [g.name for g in self.gates], [p.output for p in self.loss.parts])
        self.usable = [g for g in self.gates if g.name not in self.back.broken]
        self.lost = [g for g in self.gates if g.name in self.back.broken]
        self.known = gated_elements(groups, self.gates, without=self.lost)
        self.places = {(g, i): _Place.of(own, n) for g, i, own, n in self._pairs()}
        self.states = {g.node: next(o for o in model.graph.node[g.node].output if o) for g in self.gates if g.weight}
        self.axes: dict[int, dict[Gate, int] | None] = {}  # by batch size
        self.bytes = 0.0  # of the tensors of one sample, the most so far
        self.session = self._session(self.back.fetched)

    def _pairs(self) -> Iterator[tuple[Gate, str, Ids, int]]:
        """Gates and groups whose channels end there, with the element of each channel and the number of elements."""
        for group in self.groups.groups:
            owner = owners(group, self.groups.classes.count)
            for gate in self.usable:
                own = gate.elements(owner)
                if (own >= 0).any():
                    yield gate, group.id, own, sum(len(b) for b in group.buckets)

    # ---- runs ----

    def _session(self, outputs: list[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in outputs)
        try:
            session, alive = open_session(model, often=True)
        except RuntimeError as error:
            raise ModelError(f"ONNX Runtime can't load the model for its gradients: {first_line(error)}") from error
        self.alive.append(alive)

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            try:
                return dict(zip(outputs, session.run(outputs, feeds), strict=True))
            except Exception as error:
                text = f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}"
                raise ModelError(text) from error

        return run

    def _loss(self) -> SampleLoss:
        first, batched = self.samples.batches[0], self.signature.batched
        run = self._session([o.name for o in self.model.graph.output])
        outputs = run(first.feeds)
        if self.alone and not any(len(y) == batch_size(first) for y in outputs.values() if np.ndim(y)):
            batched, outputs = False, run({n: a[:1] for n, a in first.feeds.items()})  # such as (T, N, C)
        parts = losses(self.model, outputs, batch_size(first), self.samples.labels, batched=batched)
        if batched or not self.signature.batched:
            parts = scaled(parts, ((run(b.feeds), b.count if batched else batch_size(b)) for b in self.samples.batches))
        return SampleLoss(parts, self.samples, self.seed, batched)

    @property
    def alone(self) -> bool:
        """A sample can be run by itself."""
        return self.signature.batched and self.signature.batch in (None, 1)

    def _pieces(self) -> Iterator[tuple[Batch, int]]:
        """Batches that fit into the budget, and the number of their first sample."""
        free = self.signature.batched and self.signature.batch is None
        start, rows = 0, 1 if free else 0
        for batch in self.samples.batches:
            at = 0
            while at < batch.count:
                step = min(rows, batch.count - at) if free else batch.count
                feeds = {n: a[at : at + step] for n, a in batch.feeds.items()} if free else batch.feeds
                yield Batch(feeds, step), start + at
                at += step
                if free and self.loss.batched:
                    rows = max(int(self.budget / max(self.bytes, 1)), 1)
            start += batch.count

    def nothing(self) -> GateGradients:
        """Before the first sample."""
        squares, magnitudes = ({g: np.zeros(k.size) for g, k in self.known.items()} for _ in range(2))
        labels = "drawn" if self.samples.labels is None else "given"
        return GateGradients(squares, magnitudes, self.known, 0, list(self.loss.parts), labels, self.back.stopped)

    def run(self, progress: Callable[[str, float], None]) -> GateGradients:
        """All samples, forwards and back."""
        result = self.nothing()
        for batch, start in self._pieces():
            progress("gradients", start / max(self.samples.count, 1))
            values = self.session(batch.feeds)
            self.bytes = max(self.bytes, 2 * sum(v.nbytes for v in values.values()) / batch_size(batch))
            for found, axes in self._found(values, batch, start):
                result.samples += self._add(result, found, axes)
        for total in (*result.squares.values(), *result.magnitudes.values()):
            total /= max(result.samples, 1)
        return result

    def _add(self, result: GateGradients, found: Mapping[str, Found], axes: Mapping[Gate, int] | None) -> int:
        """Adds what one run back has found; returns its number of samples."""
        sums: dict[str, Floats] = {}
        rows = 1
        for gate in self.usable:
            if gate.name not in found:
                continue
            own = _by_sample(found[gate.name], gate, axes)
            rows = len(own)
            for group in result.squares:
                place = self.places.get((gate, group))
                if place is not None:
                    flat = own.reshape(rows, -1)[:, place.channels]
                    sums[group] = sums.get(group, 0) + flat @ place.sums
                    result.magnitudes[group] += np.abs(flat).sum(axis=0) @ place.sums
        for group, total in sums.items():
            result.squares[group] += np.square(total).sum(axis=0)
        return rows

    def _found(
        self, values: Mapping[str, Array], batch: Batch, start: int
    ) -> Iterator[tuple[dict[str, Found], Mapping[Gate, int] | None]]:
        """Gradients of all samples at once where every tensor tells them apart, else of one after the other."""
        seeds = self.loss.seeds(values, self.loss.targets(values, batch, start))
        held = {**batch.feeds, **values}
        axes = self._sample_axes(batch, values)
        if axes is not None:
            yield self.back.gradients(held, seeds), axes
            return
        for k in range(self.loss.count(batch)):
            own = {n: np.zeros_like(s) for n, s in seeds.items()}
            for n, s in seeds.items():
                own[n][k if self.loss.batched else ...] = s[k if self.loss.batched else ...]
            yield self.back.gradients(held, own), None

    def _sample_axes(self, batch: Batch, values: Mapping[str, Array]) -> dict[Gate, int] | None:
        """For each gate the axis that counts samples, found by a run with one sample less; None where one has none."""
        rows = batch_size(batch)
        if rows == 1 or not self.loss.batched or self.signature.batch is not None:
            return None
        if rows not in self.axes:
            less = self.session({n: a[1:] for n, a in batch.feeds.items()})
            self.axes[rows] = _counting_axes(self.usable, self.states, values, less, rows)
        return self.axes[rows]


@dataclass(frozen=True)
class _Place:
    """Which channels of a gate belong to a group, and to which of its elements.

    Attributes:
        channels: of the flattened gate `(c,)`.
        sums: sparse `(c, elements)` of ones: gradients of channels times this are those of elements.
    """

    channels: NDArray[np.intp]
    sums: csr_array

    @classmethod
    def of(cls, own: Ids, elements: int) -> _Place:
        flat = own.ravel()
        channels = np.flatnonzero(flat >= 0)
        ones = np.ones(channels.size)
        return cls(channels, csr_array((ones, (np.arange(channels.size), flat[channels])), (channels.size, elements)))


def _counting_axes(
    gates: list[Gate], states: Mapping[int, str], values: Mapping[str, Array], less: Mapping[str, Array], rows: int
) -> dict[Gate, int] | None:
    result = {}
    for gate in gates:
        name = states[gate.node] if gate.weight else gate.name
        a, b = values[name].shape, less[name].shape
        axes = [k for k, (n, m) in enumerate(zip(a, b, strict=True)) if n != m]
        if len(axes) != 1 or a[axes[0]] != rows or (axes[0] in gate.axes and not gate.weight):
            return None
        result[gate] = axes[0]
    return result


def _by_sample(found: Found, gate: Gate, axes: Mapping[Gate, int] | None) -> Floats:
    """Activation times gradient `(samples, *channels)`, summed over positions; without axes all is one sample."""
    if found.product:
        own = found.gradient if len(gate.axes) == 2 else found.gradient[:, 0]
        return np.asarray(own if axes is not None else own.sum(axis=0, keepdims=True))
    product = found.value * found.gradient
    kept = sorted([*gate.axes] if axes is None else [axes[gate], *gate.axes])
    others = tuple(a for a in range(product.ndim) if a not in kept)
    summed = product.sum(axis=others, dtype=np.float64)
    return np.asarray(summed[None] if axes is None else np.moveaxis(summed, kept.index(axes[gate]), 0))
