"""What the removal of units does to the model's output, measured forward only.

An error curve tells what the readers of a group lose, noise at these readers (`sensitivity`) what a small loss does to the
output. What a removal loses is neither small nor noise: it comes with the sample, and it saturates. So for a few widths of
each group the removal is carried out on the dense model: in what its linear readers read, the channels that go are
replaced by the best linear guess from those that stay,

    x_R -> mean_R + S_RS S_SS^-1 (x_S - mean_S)

(S is the covariance that the criterion has already), and the relative squared error of the outputs is taken. That is one
forward pass for each width, and what the greedy elimination promises: its compensation, before any fit. S comes from other
samples than those that are looked at: on its own, a wide layer with few samples seems to do without most of its channels.
What recurrent nodes read of their own states changes with every step, so there the weights get the guess in place of the
tensor (`gate_weights`), and what others read is guessed from the states that come of it: two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibrate.batch import Batch, Samples, splits
from onnxprune.errors import ModelError
from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Entry, Journal
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow
from onnxprune.statistics.channels import ChannelStatistics, labels_on
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.gate_weights import GateWeights, find_gate_weights
from onnxprune.statistics.linear import find_linear
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.recurrent import Recurrent, find_recurrent, with_states
from onnxprune.statistics.sensitivity import chosen, compared, is_depthwise
from onnxprune.statistics.shrinkage import best_guess

Array = NDArray[Any]
Removals = Mapping[str, Sequence[Ids]]
SAMPLES = 32
_HELD = 1 << 28
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def removal_effects(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    statistics: Sequence[ChannelStatistics],
    removals: Removals,
    *,
    against: onnx.ModelProto | None = None,
    providers: Providers = CPU,
    journal: Journal | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, list[float]]:
    """Relative squared error of the model's outputs after each of some removals, the mean over float outputs.

    At most `SAMPLES` samples are looked at; which ones follows from their content. They are among those that are held out,
    where there are enough: then the statistics must be without them (`channel_statistics(apart=True)`).

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        statistics: of what linear nodes read, see `onnxprune.statistics.channels`.
        removals: by group id the classes that go, for each removal.
        against: the model whose outputs count as right; `model` where not given. It may have blocks that `model` lacks.
        providers: that the model runs on.
        journal: where finished results lie; its key is all of the above.
        progress: called with the stage and the share that is done.

    Returns: group id -> an error for each removal; groups that no linear node reads are left out, and all where no output is
        a float tensor, or ONNX Runtime has no kernels for the type.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    lifted = with_states(lift(model))
    outputs = [o.name for o in lifted.graph.output]
    flow = Flow(lifted)
    places = _places(flow, groups, statistics)
    states = [g for g in find_gate_weights(flow, groups, statistics) if g.slot == 2]
    if not (places or states) or not removals or is_narrow(model):
        return {}
    section = None
    if journal is not None:
        gone = {g: [part.tolist() for part in parts] for g, parts in removals.items()}
        where = [[p.name for p in places], [s.node.y for s in states]]
        section = journal.section("removals", model, against or model, samples, where, gone, asdict(providers))
        if (entry := section.get("all")) is not None:
            return dict(entry.data)
    probe = _Probe(_with_losses(lifted, places, states), outputs, places, states, providers, against)
    work = [(g, ids) for g, parts in removals.items() for ids in parts]
    totals = [np.zeros((len(outputs), 2)) for _ in work]
    known = _Known(groups, places, states)
    try:
        for b, (batch, rows) in enumerate(chosen(model, samples, SAMPLES, held=splits(samples))):
            probe.begin(batch)
            for n, (_, ids) in enumerate(work):
                progress("measuring removals", min((b + n / len(work)) / max(len(samples.batches), 1), 1.0))
                removal = known.of(n, ids)
                if removal.guesses or removal.fed:
                    totals[n] += probe.error(removal, batch, rows, samples.mask)
    except Exception as error:
        raise ModelError(f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}") from error
    found: dict[str, list[float]] = {}
    for (g, _), total in zip(work, totals, strict=True):
        seen = total[:, 1] > 0
        if seen.any():
            found.setdefault(g, []).append(float((total[seen, 0] / total[seen, 1]).mean()))
    found = {g: errors for g, errors in found.items() if len(errors) == len(removals[g]) and np.isfinite(errors).all()}
    if section is not None:
        section.put("all", Entry(data=found))
    return found


@dataclass
class _Place:
    """A tensor that linear nodes read.

    Attributes:
        name: of the tensor.
        axes: of its channels.
        readers: indices of the nodes.
        dtype: of the tensor.
        labels: of its channels `(C,)`.
        blocks: channels that some node sums over, with their statistics.
    """

    name: str
    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    labels: NDArray[np.int32]
    readers: set[int] = field(default_factory=set)
    blocks: list[tuple[slice, ChannelStatistics]] = field(default_factory=list)


@dataclass(frozen=True)
class _Guess:
    """Channels of a place that go, and how they are guessed: `x[kept] @ map + shift`."""

    place: _Place
    kept: NDArray[np.int64]
    gone: NDArray[np.int64]
    map: NDArray[np.float32]
    shift: NDArray[np.float32]


@dataclass(frozen=True)
class _Removal:
    """What a removal does at each place, and what it adds to the weights of recurrent nodes."""

    guesses: list[_Guess]
    fed: dict[str, Array]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(g.map.nbytes for g in self.guesses) + sum(a.nbytes for a in self.fed.values())


def _places(flow: Flow, groups: Groups, statistics: Sequence[ChannelStatistics]) -> list[_Place]:
    by_tensor: dict[str, list[ChannelStatistics]] = {}
    for s in statistics:
        by_tensor.setdefault(s.tensor, []).append(s)
    found: dict[tuple[str, tuple[int, ...]], _Place] = {}
    inputs = [node.consumers()[0] for node in find_recurrent(flow) if isinstance(node, Recurrent)]
    for linear in (*find_linear(flow, groups.trace.shape_of), *inputs):
        value = groups.trace.values.get(linear.x)
        if value is None or value.shape is None or value.dtype not in _FLOATS or is_depthwise(flow, linear):
            continue
        axes = linear.form.read_axes(value.rank)
        labels = labels_on(value, axes)
        if labels and linear.x in by_tensor:
            dtype = helper.tensor_dtype_to_np_dtype(int(value.dtype))
            place = found.setdefault((linear.x, axes), _Place(linear.x, axes, dtype, labels[0]))
            place.readers.add(linear.node)
    for place in found.values():
        place.blocks = list(_blocks(place, by_tensor[place.name]))
    return [p for p in found.values() if p.blocks]


def _blocks(place: _Place, statistics: Sequence[ChannelStatistics]) -> Iterator[tuple[slice, ChannelStatistics]]:
    """Statistics by where their channels lie, the widest of those that overlap."""
    taken = np.zeros(place.labels.size, np.bool_)
    for s in sorted(statistics, key=lambda s: -s.labels.size):
        for start in range(0, place.labels.size, s.labels.size):
            block = slice(start, start + s.labels.size)
            if not taken[block].any() and np.array_equal(place.labels[block], s.labels):
                taken[block] = True
                yield block, s
                break


class _Known:
    """Guesses by the number of the removal; those that do not fit into `_HELD` bytes are made again when they are needed."""

    def __init__(self, groups: Groups, places: Sequence[_Place], states: Sequence[GateWeights]) -> None:
        self.groups, self.places, self.states = groups, places, states
        self.held: dict[int, _Removal] = {}
        self.used = 0

    def of(self, number: int, classes: Ids) -> _Removal:
        """Those of a removal."""
        if number in self.held:
            return self.held[number]
        dead = np.zeros(self.groups.classes.count, np.bool_)
        dead[classes] = True
        dead = dead[self.groups.classes.of_label]
        made = _Removal(_guesses(self.places, dead), {})
        for s in self.states:
            made.fed.update(s.lost((s.labels >= 0) & dead[s.labels]))
        if self.used + made.size <= _HELD:
            self.held[number] = made
            self.used += made.size
        return made


def _guesses(places: Sequence[_Place], dead: Mask) -> list[_Guess]:
    """What a removal does at each place; `dead` has one for each label."""
    found = []
    for place in places:
        gone = (place.labels >= 0) & dead[place.labels]
        if not gone.any():
            continue
        kept = np.flatnonzero(~gone)
        mapped = np.zeros((place.labels.size, place.labels.size), np.float64)
        shift = np.zeros(place.labels.size)
        for block, s in place.blocks:
            here = gone[block]
            matrix, constant = best_guess(s.mean, s.covariance, s.rows, here)
            r, c = block.start + np.flatnonzero(~here), block.start + np.flatnonzero(here)
            mapped[np.ix_(r, c)] = matrix
            shift[c] = constant
        own = np.flatnonzero(gone)
        small = mapped[np.ix_(kept, own)].astype(np.float32)
        found.append(_Guess(place, kept, own, small, shift[own].astype(np.float32)))
    return found


def _loss(name: str) -> str:
    return f"{name}_onnxprune_loss"


def _with_losses(model: onnx.ModelProto, places: Sequence[_Place], states: Sequence[GateWeights]) -> onnx.ModelProto:
    """The model whose linear nodes read a sum of the tensor and an input, and recurrent ones weights with changes."""
    of_node = {node: p for p in places for node in p.readers}
    recurrent = {s.node.node: s for s in states}
    nodes, done = [], set()
    for k, node in enumerate(model.graph.node):
        p = of_node.get(k)
        if p is not None:
            lossy = f"{p.name}_onnxprune_lossy"
            if p.name not in done:
                done.add(p.name)
                nodes.append(helper.make_node("Add", [p.name, _loss(p.name)], [lossy]))
            node.input[:] = [lossy if name == p.name else name for name in node.input]
        if k in recurrent:
            nodes += recurrent[k].changeable(node)
        nodes.append(node)
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(held)
    for p in places:
        kind = helper.np_dtype_to_tensor_dtype(p.dtype)
        model.graph.input.append(helper.make_tensor_value_info(_loss(p.name), kind, None))
    model.graph.input.extend(info for s in states for info in s.inputs())
    known = {t.name for t in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(helper.make_empty_tensor_value_info(p.name) for p in places if p.name not in known)
    return model


@dataclass
class _Probe:
    """The model with places for losses, and what it, or another one, makes of a batch without."""

    model: onnx.ModelProto
    outputs: list[str]
    places: list[_Place]
    states: list[GateWeights]
    providers: Providers
    against: onnx.ModelProto | None = None

    def __post_init__(self) -> None:
        self.session, self.weights = open_session(self.model, optimize=True, often=True, providers=self.providers)
        self.inputs = {i.name for i in self.session.get_inputs()}
        outputs = {o.name for o in self.session.get_outputs()}
        self.made = [p.name for p in self.places if p.name in outputs]
        self.whole = {n: a for s in self.states for n, a in s.nothing().items()}
        self.whole |= {_loss(p.name): np.zeros((), p.dtype) for p in self.places}
        self.right = None
        if self.against is not None:
            self.right, self.held = open_session(self.against, optimize=True, often=True, providers=self.providers)

    def begin(self, batch: Batch) -> None:
        """Runs a batch as it is."""
        names = list(dict.fromkeys([*self.outputs, *self.made]))
        self.dense = dict(batch.feeds) | dict(zip(names, self._run(batch, {}, names), strict=True))
        self.wanted = [self.dense[o] for o in self.outputs]
        if self.right is not None:
            feeds = {i.name: batch.feeds[i.name] for i in self.right.get_inputs() if i.name in batch.feeds}
            self.wanted = self.right.run(self.outputs, feeds)

    def error(self, removal: _Removal, batch: Batch, rows: NDArray[np.int64], mask: str | None) -> Array:
        """Squared error and square of each output `(outputs, 2)`."""
        read = self.dense
        if removal.fed and removal.guesses and self.made:
            read = read | dict(zip(self.made, self._run(batch, removal.fed, self.made), strict=True))
        losses = {_loss(g.place.name): _lost(g, read[g.place.name]) for g in removal.guesses}
        after = self._run(batch, losses | removal.fed, self.outputs)
        pairs = zip(self.wanted, after, strict=True)
        return np.array([compared(before, lossy, batch, rows, mask) for before, lossy in pairs])

    def _run(self, batch: Batch, changes: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        feeds = {n: a for n, a in batch.feeds.items() if n in self.inputs} | self.whole | dict(changes)
        return list(self.session.run(list(wanted), feeds))


def _lost(guess: _Guess, x: Array) -> Array:
    """What is to be added to a tensor."""
    axes = guess.place.axes
    behind = tuple(range(x.ndim - len(axes), x.ndim))
    flat = np.moveaxis(x, axes, behind)
    shape = flat.shape
    flat = flat.reshape(-1, guess.place.labels.size).astype(np.float32)
    lost = np.zeros_like(flat)
    lost[:, guess.gone] = flat[:, guess.kept] @ guess.map + guess.shift - flat[:, guess.gone]
    return np.moveaxis(lost.reshape(shape), behind, axes).astype(guess.place.dtype)
