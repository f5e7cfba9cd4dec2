"""What a class costs: the weights it touches, their parameters, and the multiply-accumulates they do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Classes, Ids
from onnxprune.profiling.macs import node_macs
from onnxprune.profiling.rounds import rounds
from onnxprune.trace.tracer import Trace
from onnxprune.trace.value import Value


@dataclass
class Costs:
    """Per class.

    Attributes:
        axes: (weight, axis) by axis id.
        pairs: class -> axis ids, as a sorted array of (class, axis id, slices).
        signature: 0 for classes that touch no weight.
        params: parameters.
        macs: multiply-accumulates.
        readers: names of the nodes that read a weight.
    """

    axes: list[tuple[str, int]]
    pairs: NDArray[np.int64]
    signature: NDArray[np.int32]
    params: NDArray[np.float64]
    macs: NDArray[np.float64]
    readers: dict[str, list[str]] = field(default_factory=dict)

    def members(self, classes: Ids) -> tuple[int, ...]:
        """Ids of the axes that some classes touch."""
        found: set[int] = set()
        for c in np.unique(classes):
            a, b = np.searchsorted(self.pairs[:, 0], [c, c + 1])
            found.update(self.pairs[a:b, 1].tolist())
        return tuple(sorted(found))

    def width(self, unit: Ids, members: list[tuple[str, int]]) -> int:
        """Slices that a unit takes from the first axis it touches."""
        first = self.axes.index(members[0]) if members else -1
        total = 0
        for c in np.unique(unit):
            a, b = np.searchsorted(self.pairs[:, 0], [c, c + 1])
            rows = self.pairs[a:b]
            total += int(rows[rows[:, 1] == first, 2].sum())
        return max(total, 1)


def costs(trace: Trace, classes: Classes) -> Costs:
    """Costs of all classes."""
    axes: list[tuple[str, int]] = []
    rows = []
    params = np.zeros(classes.count)
    for weight in trace.weights.values():
        size = float(np.prod(weight.shape, dtype=np.float64))
        for axis, labels in weight.labels.items():
            ids, slices = np.unique(classes.of_label[labels], return_counts=True)
            rows.append(np.stack([ids, np.full(ids.size, len(axes)), slices], axis=1))
            axes.append((weight.name, axis))
            if weight.stored:
                params[ids] += slices * (size / labels.size)
    pairs = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int64)
    touched = np.bincount(pairs[:, 0], minlength=classes.count).astype(np.int32)
    macs = np.zeros(classes.count)
    readers: dict[str, list[str]] = {}
    times = rounds(trace.graph, trace.inferred.scopes).times
    for graph, scope in _scopes(trace):
        for node in graph.nodes:
            values = [scope.get(t.name) if t.name else None for t in node.inputs]
            for value in values:
                if value is not None and value.name in trace.weights:
                    readers.setdefault(value.name, []).append(node.name or node.outputs[0].name)
            outs = [scope[t.name].shape if t.name in scope else None for t in node.outputs]
            total = node_macs(node.op, node.domain or "", dict(node.attrs), [v.shape if v else None for v in values], outs)
            if total:
                _share(classes, macs, total * times.get(id(graph), 1), [v for v in values if v is not None])
    return Costs(axes, pairs, touched, params, macs, readers)


def _scopes(trace: Trace):  # type: ignore[no-untyped-def]
    graphs = {id(trace.graph): trace.graph} | {id(g): g for g in trace.graph.subgraphs(recursive=True)}
    return [(graphs[k], scope) for k, scope in trace.inferred.scopes.items() if k in graphs]


def _share(classes: Classes, macs: NDArray[np.float64], total: float, values: list[Value]) -> None:
    """A class accounts for the share of a node's work that its slices of one operand are; the largest counts."""
    share: dict[int, float] = {}
    for value in values:
        for labels in [f.labels for f in value.fields] + list(value.blocked.values()):
            ids, counts = np.unique(classes.of_label[labels], return_counts=True)
            for c, part in zip(ids.tolist(), (counts / labels.size).tolist(), strict=True):
                share[c] = max(share.get(c, 0.0), part)
    for c, part in share.items():
        macs[c] += total * part
