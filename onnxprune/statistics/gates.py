"""Gates: a multiplier of 1 for each unit, at every place where its channels end.

A channel ends where a node reads it and passes nothing of it on: at the weights that it is multiplied with, at a product of
two activations that is summed over it. What is put to 0 there, and only there, is removed: the outputs are those of the
pruned model. So a gate of a unit stands for the unit in gradients (`gate_gradients`) and in runs of the model without it
(`removals`), whatever lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Group, Groups
from onnxprune.proof.session import first_line, open_session
from onnxprune.statistics.flow import Flow
from onnxprune.trace.value import Value

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds, Feeds], dict[str, NDArray[Any]]]
_RECURRENT = {"LSTM", "GRU", "RNN"}
_SHAPES = {"Shape", "Size"}  # read no values
_CONTRACTIONS = {"Conv", "Einsum", "Gemm", "MatMul"}  # that end channels of what is made of constants alone
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}


@dataclass(frozen=True, eq=False)
class Gate:
    """One reader of one tensor at which channels end.

    Attributes:
        node: index of the reader in the main graph.
        slot: which of its inputs.
        tensor: what it reads there: an activation, or R of a recurrent node, which reads the node's own state.
        dtype: of the tensor.
        rank: of the tensor.
        axes: where its channels lie.
        classes: of each channel, in the tensor's sizes on `axes`.
        passed: classes that are not gated here although they are in `classes`: the node passes them on, or reads them
            elsewhere too.
        weight: the tensor is R.
    """

    node: int
    slot: int
    tensor: str
    dtype: int
    rank: int
    axes: tuple[int, ...]
    classes: Ids
    passed: Ids
    weight: bool = False

    @property
    def name(self) -> str:
        """Of the tensor behind the gate."""
        return f"{self.tensor}/gate/{self.node}/{self.slot}/{self.axes[0]}"

    def elements(self, owner: Ids) -> Ids:
        """For each channel which element it belongs to, -1 where it does not end here; `owner` has one for each class."""
        own = owner[self.classes]
        through = owner[self.passed]
        return np.where(np.isin(own, through[through >= 0]), -1, own)


def owners(group: Group, classes: int) -> Ids:
    """For each class which element of the group has it, counted through the buckets; -1 where none does."""
    result = np.full(classes, -1, np.int32)
    for k, unit in enumerate(unit for bucket in group.buckets for unit in bucket):
        result[unit] = k
    return result


def find_gates(model: onnx.ModelProto, groups: Groups) -> list[Gate]:
    """All gates of the main graph, in order.

    Args:
        model: that `groups` analyses.
        groups: its analysis.
    """
    flow, of_label = Flow(model), groups.classes.of_label
    unit_of = np.zeros(groups.classes.count, np.bool_)
    for group in groups.groups:
        unit_of[np.concatenate([u for bucket in group.buckets for u in bucket])] = True
    result = []
    for k, node in enumerate(flow.nodes):
        if node.op_type in _SHAPES or not (flow.varying[k] or node.op_type in _CONTRACTIONS):
            continue
        passed = [_classes(groups.trace.values.get(o), of_label) for o in node.output if o]
        for slot, name in enumerate(node.input):
            value = groups.trace.values.get(name)
            if value is None or value.shape is None or value.dtype not in _FLOATS:
                continue
            recurrent = node.op_type in _RECURRENT and slot == 2
            counts = not flow.varying[k] or (name in flow.producer and flow.varying[flow.producer[name]])
            if not counts and not recurrent:
                continue
            known = np.unique(np.concatenate([np.zeros(0, np.int32), *passed]))
            for axes, labels in _fields(value, recurrent):
                classes = of_label[labels]
                if not unit_of[classes].any() or (not recurrent and np.isin(classes, known).all()):
                    continue
                through = np.zeros(0, np.int32) if recurrent else known
                result.append(Gate(k, slot, name, value.dtype, value.rank, axes, classes, through, recurrent))
            if counts:
                passed.append(_classes(value, of_label))
    return result


def _fields(value: Value, recurrent: bool) -> Iterable[tuple[tuple[int, ...], NDArray[np.int32]]]:
    if not recurrent:
        yield from ((f.axes, f.labels) for f in value.fields)
    elif 2 in value.blocked:
        yield (0, 2), value.blocked[2]
    else:
        yield from ((f.axes, f.labels) for f in value.fields if f.axes[-1] == 2)


def _classes(value: Value | None, of_label: Ids) -> Ids:
    if value is None:
        return np.zeros(0, np.int32)
    return np.concatenate([np.zeros(0, np.int32), *(of_label[f.labels].ravel() for f in value.fields)])


def insert(model: onnx.ModelProto, gates: Sequence[Gate]) -> onnx.ModelProto:
    """The model with each gated tensor under a name of its own (`Gate.name`), behind an Identity that nobody else reads."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    before: dict[int, list[onnx.NodeProto]] = {}
    for gate in gates:
        reader = result.graph.node[gate.node]
        source = reader.input[gate.slot]  # the tensor, or what another gate made of it
        before.setdefault(gate.node, []).append(helper.make_node("Identity", [source], [gate.name]))
        reader.input[gate.slot] = gate.name
    _put_before(result, before)
    return result


def _put_before(model: onnx.ModelProto, before: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
    nodes = []
    for k, node in enumerate(model.graph.node):
        nodes += [*before.get(k, ()), onnx.NodeProto.FromString(node.SerializeToString())]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class GatedModel:
    """A model with one more input for each group: a multiplier for each element, all buckets one after the other.

    Args:
        model: that `groups` analyses; not changed.
        groups: its analysis.

    Attributes:
        model: with the inputs `inputs`.
        inputs: group id -> name of the input, float `(elements,)`.
        known: group id -> for each element whether gates stand for it: it ends in the main graph.
    """

    def __init__(self, model: onnx.ModelProto, groups: Groups) -> None:
        self.groups, self.gates = groups, find_gates(model, groups)
        self.inputs = {g.id: f"gate/{g.id}" for g in groups.groups}
        self.known = gated_elements(groups, self.gates)
        self.model = self._build(model)

    @cached_property
    def ones(self) -> dict[str, NDArray[np.float32]]:
        """Feeds with which the model is what it was."""
        counts = {g.id: sum(len(b) for b in g.buckets) for g in self.groups.groups}
        return {self.inputs[i]: np.ones(n, np.float32) for i, n in counts.items()}

    def without(self, removed: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, NDArray[np.float32]]:
        """Feeds with which units are gone.

        Args:
            removed: group id -> positions in each bucket.
        """
        feeds = {n: a.copy() for n, a in self.ones.items()}
        for group in self.groups.groups:
            start = 0
            for bucket, rows in zip(group.buckets, removed.get(group.id, [()] * len(group.buckets)), strict=True):
                feeds[self.inputs[group.id]][[start + k for k in rows]] = 0
                start += len(bucket)
        return feeds

    def with_element(self, group: str, element: int, value: float) -> dict[str, NDArray[np.float32]]:
        """Feeds with which one multiplier is another."""
        name = self.inputs[group]
        changed = self.ones[name].copy()
        changed[element] = value
        return {**self.ones, name: changed}

    def open(self) -> Run:
        """A session: from feeds of the model, and of gates where they are not 1, to outputs by name.

        Raises:
            ModelError: ONNX Runtime can't load the model; or, when it is called, can't run it.
        """
        names = [o.name for o in self.model.graph.output]
        try:
            session, alive = open_session(self.model, optimize=True, often=True)
        except RuntimeError as error:
            raise ModelError(f"ONNX Runtime can't load the model with gates: {first_line(error)}") from error

        def run(feeds: Feeds, gates: Feeds) -> dict[str, NDArray[Any]]:
            assert alive  # arrays of the weights
            known = {i.name for i in session.get_inputs()}
            given = {n: a for n, a in {**feeds, **self.ones, **gates}.items() if n in known}
            try:
                return dict(zip(names, session.run(names, given), strict=True))
            except Exception as error:
                text = f"ONNX Runtime can't run the model with gates on the samples: {first_line(error)}"
                raise ModelError(text) from error

        return run

    def _build(self, model: onnx.ModelProto) -> onnx.ModelProto:
        result = onnx.ModelProto()
        result.CopyFrom(model)
        before: dict[int, list[onnx.NodeProto]] = {}
        result.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "gate/one"))
        for group in self.groups.groups:
            owner = owners(group, self.groups.classes.count)
            elements = sum(len(b) for b in group.buckets)
            name = self.inputs[group.id]
            result.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [elements]))
            used = False
            for gate in self.gates:
                own = gate.elements(owner)
                if (own >= 0).any():
                    nodes = self._multiply(result, gate, group.id, np.where(own < 0, elements, own))
                    before.setdefault(gate.node, []).extend(nodes)
                    used = True
            if used:
                padded = helper.make_node("Concat", [name, "gate/one"], [f"{name}/padded"], axis=0)
                before.setdefault(0, []).insert(0, padded)
        _put_before(result, before)
        return result

    @staticmethod
    def _multiply(model: onnx.ModelProto, gate: Gate, group: str, places: Ids) -> list[onnx.NodeProto]:
        """Nodes that multiply what a gate's reader gets with the group's multipliers."""
        stem = f"{gate.name}/{group}"
        shape = [places.shape[gate.axes.index(a)] if a in gate.axes else 1 for a in range(gate.rank)]
        index = places.reshape(shape).astype(np.int64)
        model.graph.initializer.append(numpy_helper.from_array(index, f"{stem}/index"))
        reader = model.graph.node[gate.node]
        nodes = [helper.make_node("Gather", [f"gate/{group}/padded", f"{stem}/index"], [f"{stem}/factor"], axis=0)]
        factor = f"{stem}/factor"
        if gate.dtype != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [factor], [f"{stem}/cast"], to=gate.dtype))
            factor = f"{stem}/cast"
        nodes.append(helper.make_node("Mul", [reader.input[gate.slot], factor], [stem]))
        reader.input[gate.slot] = stem
        return nodes


def gated_elements(groups: Groups, gates: Sequence[Gate], *, without: Iterable[Gate] = ()) -> dict[str, Mask]:
    """For each group which elements its gates stand for.

    Args:
        groups: an analysis.
        gates: all gates of its model.
        without: gates of which nothing is known; so nothing is of the elements that end there.
    """
    trace, lost = groups.trace, set(without)
    inner = [s for g, s in trace.inferred.scopes.items() if g != id(trace.graph)]
    in_bodies = [_classes(v, groups.classes.of_label) for scope in inner for v in scope.values()]
    captured = np.unique(np.concatenate([np.zeros(0, np.int32), *in_bodies]))
    result = {}
    for group in groups.groups:
        owner = owners(group, groups.classes.count)
        seen = np.zeros(sum(len(b) for b in group.buckets), np.bool_)
        missed = np.zeros_like(seen)
        for gate in gates:
            own = gate.elements(owner)
            (missed if gate in lost else seen)[own[own >= 0]] = True
        own = owner[captured]
        missed[own[own >= 0]] = True
        result[group.id] = seen & ~missed
    return result
