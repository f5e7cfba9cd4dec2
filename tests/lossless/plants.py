"""Plants lossless units into a model: weights of one unit that make it zero, constant, unread, a duplicate or a multiple."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.groups.group import Group, Groups
from onnxprune.io.constants import constant_array
from onnxprune.lossless.find import Lossless, prune_lossless
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import relative_error
from onnxprune.proof.session import run
from onnxprune.surgery.apply import stored_weights
from onnxprune.surgery.inflate import put_in

# (operator, input) -> axis along which the weight reads channels
READS = {
    ("Conv", 1): 1,
    ("ConvTranspose", 1): 0,
    ("MatMul", 1): 0,
    ("LSTM", 1): 2,
    ("LSTM", 2): 2,
    ("GRU", 1): 2,
    ("GRU", 2): 2,
    ("RNN", 1): 2,
    ("RNN", 2): 2,
}


@dataclass
class Planted:
    """A model under test: its analysis and its weights, to be changed at will."""

    model: onnx.ModelProto

    def __post_init__(self) -> None:
        self.prepared, self.groups = analysed(self.model, width=False, shapes=None)
        stored = stored_weights(self.groups.trace.graph)
        self.weights = {n: np.array(constant_array(stored[n])) for n, w in self.groups.trace.weights.items() if w.stored}
        self.edited: set[str] = set()

    def slices(self, unit: np.ndarray, *, reading: bool) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Places of a unit in the weights: where they read it, or where they write it."""
        readers = {t.name: (n, i) for n in self.groups.trace.graph.nodes for i, t in enumerate(n.inputs)}
        classes = self.groups.classes.of_label
        for weight in self.groups.trace.weights.values():
            if not weight.stored or weight.name not in readers:
                continue
            node, i = readers[weight.name]
            axis_read = READS.get((node.op, i))
            if node.op == "Gemm" and i == 1:
                axis_read = int(node.attrs.get("transB", 0))
            grouped = node.attrs.get("group", 1) > 1 and i == 1
            for axis, labels in weight.labels.items():
                if (axis == axis_read and not grouped) != reading:
                    continue
                block = len(weight.labels[axis])
                for cell in np.argwhere(np.isin(classes[labels], unit)):
                    index: list[object] = [slice(None)] * len(weight.shape)
                    index[axis] = int(cell[-1])
                    if labels.ndim == 2:
                        size = weight.shape[0] // block
                        index[0] = slice(int(cell[0]) * size, (int(cell[0]) + 1) * size)
                    yield weight.name, tuple(index)

    def change(self, name: str, index: tuple[object, ...], value: np.ndarray | float) -> None:
        self.weights[name][index] = value
        self.edited.add(name)

    def unread(self, unit: np.ndarray) -> None:
        """Nobody reads it."""
        for name, index in self.slices(unit, reading=True):
            self.change(name, index, 0.0)

    def zero(self, unit: np.ndarray) -> None:
        """All that writes it is 0."""
        for name, index in self.slices(unit, reading=False):
            self.change(name, index, 0.0)

    def multiple(self, source: np.ndarray, unit: np.ndarray, factor: float = 1.0) -> None:
        """What writes it is a multiple of what writes another one, behind the last BatchNormalization where there is one."""
        pairs = list(zip(self.slices(source, reading=False), self.slices(unit, reading=False), strict=True))
        last = {t.name for n in self.groups.trace.graph.nodes if n.op == "BatchNormalization" for t in n.inputs[1:3]}
        normalized = any(name in last for (name, _), _ in pairs)
        for (name, a), (other, b) in pairs:
            assert name == other
            scaled = factor if not normalized or name in last else 1.0
            self.change(name, b, self.weights[name][a] * np.asarray(scaled, self.weights[name].dtype))

    def build(self) -> onnx.ModelProto:
        """The model with the plants."""
        return put_in(self.prepared.model, {n: self.weights[n] for n in self.edited})


def outcome(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Lossless, Groups, float]:
    """The result of the lossless mode, and the largest relative difference of any output on random inputs."""
    prepared, groups = analysed(model, width=False, shapes=None)
    pruned, found = prune_lossless(prepared, groups)
    gone = [c.classes for c in found.choices]
    assert not gone or groups.violations(groups.alive_labels(np.concatenate(gone))) == []
    onnx.checker.check_model(pruned, full_check=True)
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 0)
    names = [o.name for o in model.graph.output]
    error = max(map(relative_error, run(model, feeds, names), run(pruned, feeds, names)))
    return pruned, found, groups, error


def unit_of(group: Group, k: int) -> np.ndarray:
    """The k-th unit: one element of each bucket."""
    return np.concatenate([b[k] for b in group.buckets])
