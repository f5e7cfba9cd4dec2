"""Candidates without surgery: the source with gates, and readers whose weights are stitched from solved groups.

A removal is run by gates of 0 (`onnxprune.statistics.gates`), in a session that stays open. What the readers of a group make
up for once some of its channels are gone has a closed form (`onnxprune.recover.merge`) that needs covariances only:

    x_R ~ mean_R + M (x_S - mean_S)        W' = W + M' W_R  in the rows of S        b' = b + (mean_R - M mean_S)' W_R

S are channels of the group that stay, and those of no group. So the change of a node's weights by one level of one group
does not depend on other groups: it is solved once and kept (the bank), and a candidate is a sum of such changes. Weights are
inputs of the session, so a candidate costs a run over the samples and nothing else. Recurrent nodes read such changes too
(`onnxprune.statistics.gate_weights`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.linalg import cho_factor, cho_solve

from onnxprune.calibrate.batch import Batch, Samples, splits
from onnxprune.errors import ModelError
from onnxprune.groups.classes import Ids
from onnxprune.groups.group import Group, Groups
from onnxprune.proof.session import first_line, open_session
from onnxprune.recover.merge import STRENGTH
from onnxprune.recover.slots import give_slots
from onnxprune.recover.target import Slot, follow
from onnxprune.statistics.channels import ChannelStatistics
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.gate_weights import GateWeights, find_gate_weights
from onnxprune.statistics.gates import GatedModel, owners
from onnxprune.statistics.linear import Linear, plain_linear
from onnxprune.statistics.recurrent import with_states
from onnxprune.statistics.sensitivity import SAMPLES, chosen, compared
from onnxprune.statistics.shrinkage import damped

Array = NDArray[Any]
Floats = NDArray[np.float64]
Removed = Mapping[str, Sequence[Sequence[int]]]
"""By group id the positions in each bucket that go; groups that are not named stay whole."""
Judged = tuple[Batch, NDArray[np.int64]]
"""A batch, and the rows of it that count."""

_BANK = 1 << 29  # bytes of changes that are kept
_TINY = 1e-30


@dataclass(frozen=True)
class _Block:
    """Channels that one group of a linear node reads.

    Attributes:
        index: of the node's group.
        statistics: of these channels.
        owner: by id of a prunable group the element that each channel belongs to, -1 where it is none of its; `(C,)`.
        free: channels of no group `(C,)`.
    """

    index: int
    statistics: ChannelStatistics
    owner: Mapping[str, Ids]
    free: NDArray[np.bool_]


@dataclass(frozen=True)
class _Reader:
    """A linear node whose weights can make up for what it lost.

    Attributes:
        linear: the node.
        matrix: its weights `(G, K, M)`.
        blocks: those of its groups that read channels of prunable groups.
        slot: where its output can be shifted.
    """

    linear: Linear
    matrix: Floats
    blocks: list[_Block]
    slot: Slot | None


class Stitched:
    """Runs candidates on samples.

    Args:
        model: that `groups` analyses; not changed.
        groups: its analysis.
        statistics: moments of what linear nodes read; without them nothing makes up for a removal.

    Raises:
        ModelError: ONNX Runtime can't load the model with gates.
    """

    def __init__(self, model: onnx.ModelProto, groups: Groups, statistics: Sequence[ChannelStatistics]) -> None:
        self.groups = groups
        base = with_states(lift(model))
        known = {s.tensor for s in statistics}
        give_slots(base, lift(base), [x for x in plain_linear(Flow(base)) if x.x in known], groups)
        flow = Flow(base)
        self.readers = list(_readers(flow, groups, statistics))
        self.of_group: dict[str, list[_Reader]] = {}
        for reader in self.readers:
            for g in {g for block in reader.blocks for g in block.owner}:
                self.of_group.setdefault(g, []).append(reader)
        changing = {r.linear.weight for r in self.readers} | {r.slot.tensor for r in self.readers if r.slot}
        self.dense = {n: np.ascontiguousarray(numpy_helper.to_array(flow.initializers[n])) for n in sorted(changing)}
        self.gated = GatedModel(base, groups)
        self.gates = find_gate_weights(flow, groups, statistics)
        self.dense |= {n: a for g in self.gates for n, a in g.nothing().items()}
        fed = _fed(self.gated.model, changing)
        _change_gates(fed, self.gates)
        self.outputs = [o.name for o in fed.graph.output]
        try:
            self.session, self._alive = open_session(fed, optimize=True, often=True)
        except RuntimeError as error:
            raise ModelError(f"ONNX Runtime can't load the model with gates: {first_line(error)}") from error
        self.inputs = {i.name for i in self.session.get_inputs()}
        self._bank: OrderedDict[tuple[Any, ...], dict[str, Array]] = OrderedDict()
        self._size = 0

    def feeds(self, removed: Removed, *, repair: bool = True) -> dict[str, Array]:
        """Gates and weights with which units are gone.

        Args:
            removed: what goes.
            repair: readers make up for it.
        """
        weights = dict(self.dense)
        for group in self.groups.groups if repair else ():
            if any(removed.get(group.id, ())):
                for name, change in self._solved(group, removed[group.id]).items():
                    weights[name] = (weights[name] + change).astype(weights[name].dtype)
        return {**self.gated.ones, **self.gated.without(removed), **weights}

    def run(self, batch: Batch, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for a batch, by name.

        Args:
            batch: of samples.
            feeds: of `feeds`.

        Raises:
            ModelError: ONNX Runtime can't run the model on the batch.
        """
        given = {n: a for n, a in {**batch.feeds, **feeds}.items() if n in self.inputs}
        try:
            return dict(zip(self.outputs, self.session.run(self.outputs, given), strict=True))
        except Exception as error:
            raise ModelError(f"ONNX Runtime can't run the model with gates on the samples: {first_line(error)}") from error

    def _solved(self, group: Group, removed: Sequence[Sequence[int]]) -> dict[str, Array]:
        """What the removal of some units of one group changes in weights and biases, from the bank if it is there."""
        key = (group.id, *(tuple(rows) for rows in removed))
        if key in self._bank:
            self._bank.move_to_end(key)
            return self._bank[key]
        starts = np.cumsum([0, *[len(b) for b in group.buckets]])
        gone = np.concatenate([np.asarray(rows, np.int64) + start for rows, start in zip(removed, starts, strict=False)])
        found: dict[str, Array] = {}
        for reader in self.of_group.get(group.id, ()):
            for name, change in self._change(reader, group.id, gone).items():
                found[name] = found[name] + change if name in found else change
        dead = np.isin(owners(group, self.groups.classes.count), gone)[self.groups.classes.of_label]
        for gates in self.gates:
            found |= gates.lost((gates.labels >= 0) & dead[gates.labels], gated=True)
        self._bank[key] = found
        self._size += sum(a.nbytes for a in found.values())
        while self._size > _BANK and len(self._bank) > 1:
            _, old = self._bank.popitem(last=False)
            self._size -= sum(a.nbytes for a in old.values())
        return found

    def _change(self, reader: _Reader, group: str, gone: NDArray[np.int64]) -> dict[str, Array]:
        """Of the weights of one node, and of its bias."""
        groups, rows, outputs = reader.matrix.shape
        change = np.zeros_like(reader.matrix)
        shift = np.zeros((groups, outputs))
        for block in reader.blocks:
            if group in block.owner:
                own = block.owner[group]
                lost = np.isin(own, gone)
                stays = ((own >= 0) | block.free) & ~lost
                matrix = reader.matrix[block.index].reshape(own.size, -1, outputs)
                part, moved = _compensation(block.statistics, stays, lost, matrix, shifts=reader.slot is not None)
                change[block.index] = part.reshape(rows, outputs)
                shift[block.index] = moved
        linear = reader.linear
        dense = self.dense[linear.weight]
        found = {linear.weight: linear.stored(reader.matrix + change, dense) - dense}
        if reader.slot is not None:
            factor = np.ones(shift.size) if reader.slot.own else reader.slot.factor
            shape = self.dense[reader.slot.tensor].shape
            found[reader.slot.tensor] = (factor * shift.ravel()).reshape(shape).astype(dense.dtype)
        return found


def _compensation(
    s: ChannelStatistics, stays: NDArray[np.bool_], lost: NDArray[np.bool_], weights: Floats, *, shifts: bool
) -> tuple[Floats, Floats]:
    """What is added to weights `(C, taps, outputs)`, and to outputs `(outputs,)`, so that some channels stand for others."""
    change = np.zeros_like(weights)
    here, gone = np.flatnonzero(stays), np.flatnonzero(lost)
    whole = weights[gone].sum(axis=1)
    if not gone.size or not here.size:
        return change, s.mean[gone] @ whole if shifts else np.zeros(weights.shape[2])
    covariance = damped(s.covariance, s.rows)
    second = covariance if shifts else covariance + np.outer(s.mean, s.mean)
    inner = second[np.ix_(here, here)]
    amount = max(STRENGTH * float(np.diagonal(inner).mean()), _TINY)
    m = cho_solve(cho_factor(inner + amount * np.eye(here.size), lower=True), second[np.ix_(here, gone)])
    change[here] = np.tensordot(m, weights[gone], axes=1)
    shift = (s.mean[gone] - s.mean[here] @ m) @ whole if shifts else np.zeros(weights.shape[2])
    return change, shift


def _change_gates(model: onnx.ModelProto, gates: Sequence[GateWeights]) -> None:
    """Gives recurrent nodes inputs that are added to their weights, behind the gates of units. Changes the model."""
    nodes = []
    for node in model.graph.node:
        nodes += [added for g in gates if g.node.y in node.output for added in g.changeable(node)] + [node]
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(held)
    model.graph.input.extend(info for g in gates for info in g.inputs())


def _readers(flow: Flow, groups: Groups, statistics: Sequence[ChannelStatistics]) -> Iterator[_Reader]:
    """Linear nodes that read channels of groups, each with a weight of its own and known statistics."""
    owner_of = {g.id: owners(g, groups.classes.count) for g in groups.groups}
    taken: set[str] = set()
    for linear in plain_linear(flow):
        x, y = groups.trace.values.get(linear.x), groups.trace.values.get(linear.y)
        if x is None or x.shape is None or y is None or y.shape is None or flow.users(linear.weight) > 1:
            continue
        f = x.field_on(linear.form.channel_axis(x.rank))
        if f is None or f.joint or linear.weight not in flow.initializers:
            continue
        matrix = linear.matrix(numpy_helper.to_array(flow.initializers[linear.weight]))
        size = f.labels.size // len(matrix)
        blocks = []
        for index in range(len(matrix)):
            labels = f.labels[index * size : (index + 1) * size]
            block = _block(index, labels, linear.x, statistics, groups, owner_of)
            if block is not None:
                blocks.append(block)
        if blocks:
            outputs = matrix.shape[0] * matrix.shape[2]
            slot = follow(flow, linear, (linear.form.channel_axis(y.rank),), y.rank, outputs).slot
            fits = slot is not None and slot.tensor in flow.initializers and slot.tensor not in taken
            fits = fits and slot is not None and flow.users(slot.tensor) == 1 and slot.scale == 1.0
            taken |= {slot.tensor} if slot else set()
            yield _Reader(linear, matrix, blocks, slot if fits else None)


def _block(
    index: int,
    labels: NDArray[np.int32],
    tensor: str,
    statistics: Sequence[ChannelStatistics],
    groups: Groups,
    owner_of: Mapping[str, Ids],
) -> _Block | None:
    found = next((s for s in statistics if s.tensor == tensor and np.array_equal(s.labels, labels)), None)
    if found is None or labels.size < 2:
        return None
    classes = groups.classes.of_label[labels]
    owner = {g: own[classes] for g, own in owner_of.items() if (own[classes] >= 0).any()}
    if not owner:
        return None
    return _Block(index, found, owner, ~np.any([own >= 0 for own in owner.values()], axis=0))


def _fed(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """The model with some initializers as inputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    given = {i.name for i in result.graph.input}
    kept = []
    for tensor in result.graph.initializer:
        if tensor.name not in names:
            kept.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
        elif tensor.name not in given:
            result.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def judged(model: onnx.ModelProto, samples: Samples, most: int = SAMPLES) -> list[Judged]:
    """Batches to compare candidates on; which samples count follows from their content.

    Args:
        model: that the samples are for.
        samples: calibration samples.
        most: samples, at most; of those held out, where there are enough.
    """
    return list(chosen(model, samples, most, held=splits(samples)))


class OutputError:
    """Relative squared error of the outputs of candidates, on a part of the calibration samples.

    Args:
        stitched: runs candidates.
        batches: that are looked at, and which of their samples count.
        mask: input whose zeros mark padding; None where there is none.
    """

    def __init__(self, stitched: Stitched, batches: Sequence[Judged], mask: str | None) -> None:
        self.stitched, self.mask, self.batches = stitched, mask, batches
        nothing = stitched.feeds({})
        self.dense = [stitched.run(batch, nothing) for batch, _ in self.batches]

    def of(self, removed: Removed, *, repair: bool = True) -> float:
        """The mean over outputs of E|f - f'|^2 / E|f|^2.

        Args:
            removed: what goes.
            repair: readers make up for it.
        """
        feeds = self.stitched.feeds(removed, repair=repair)
        names = self.stitched.outputs
        total = np.zeros((len(names), 2))
        for (batch, rows), dense in zip(self.batches, self.dense, strict=True):
            found = self.stitched.run(batch, feeds)
            total += [compared(dense[n], found[n], batch, rows, self.mask) for n in names]
        known = total[:, 1] > 0
        return float((total[known, 0] / total[known, 1]).mean()) if known.any() else 0.0
