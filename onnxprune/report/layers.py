"""What each node costs before and after: multiply-accumulates and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.profiling.macs import node_macs
from onnxprune.profiling.rounds import rounds
from onnxprune.surgery.follow import pruned_shape

Shapes = Mapping[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class Layer:
    """A node that multiplies or holds weights.

    Attributes:
        name: of the node; its first output where it has none.
        op: the operator.
        macs_before: multiply-accumulates of one run at the traced shapes; bodies count as often as they run, once where data
            decides.
        macs_after: the same in the result.
        params_before: elements of the float tensors that it reads; a tensor that several nodes read counts for each.
        params_after: the same in the result.
    """

    name: str
    op: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int


def layers(groups: Groups, result: gs.Graph, alive: Mask) -> list[Layer]:
    """Nodes of the source in their order, bodies behind their node, without those that cost nothing.

    Args:
        groups: analysis of the source.
        result: the graph of the pruned model.
        alive: which labels stay.
    """
    times = rounds(groups.trace.graph, groups.trace.inferred.scopes).times
    found = _rows(groups, groups.trace.graph, result, alive, times)
    return [row for row in found if row.macs_before or row.params_before]


def beside(rows: Sequence[Layer], groups: Groups, graph: gs.Graph) -> list[Layer]:
    """Rows of a model that was made from another one, beside what that had; a node that is gone has a row too.

    Args:
        rows: of the model, in its order.
        groups: analysis of the other one.
        graph: the other one.
    """
    source = _numbered(layers(groups, graph, np.ones(groups.classes.of_label.size, np.bool_)))
    none = Layer("", "", 0, 0, 0, 0)
    own = [(key, row, source.get(key, none)) for key, row in _numbered(rows).items()]
    left = [(key, replace(row, macs_before=was.macs_before, params_before=was.params_before)) for key, row, was in own]
    found = []
    for key, row in source.items():
        end = next((k for k, (other, _) in enumerate(left) if other == key), -1) + 1
        found += [r for _, r in left[:end]] if end else [replace(row, macs_after=0, params_after=0)]
        left = left[end:]
    return found + [r for _, r in left]


def _numbered(rows: Sequence[Layer]) -> dict[tuple[str, int], Layer]:
    """By name, and how many rows before have it: bodies share names."""
    count: Counter[str] = Counter()
    found = {}
    for row in rows:
        found[row.name, count[row.name]] = row
        count[row.name] += 1
    return found


def _rows(groups: Groups, source: gs.Graph, result: gs.Graph, alive: Mask, times: Mapping[int, int]) -> Iterator[Layer]:
    values = groups.trace.inferred.scopes.get(id(source), {})
    runs = times.get(id(source), 1)
    before = {name: v.shape for name, v in values.items()}
    after = {name: pruned_shape(v, alive) for name, v in values.items()}
    kept = {node.outputs[0].name: node for node in result.nodes if node.outputs}
    for node in source.nodes:
        if not node.outputs:
            continue
        output = node.outputs[0].name
        twin = kept.get(output)
        yield Layer(
            node.name or output,
            node.op,
            _macs(node, before) * runs,
            0 if twin is None else _macs(twin, after) * runs,
            _params(node),
            0 if twin is None else _params(twin),
        )
        for body, smaller in zip(node.subgraphs(), [] if twin is None else twin.subgraphs(), strict=False):
            yield from _rows(groups, body, smaller, alive, times)


def _macs(node: gs.Node, shapes: Shapes) -> int:
    ins, outs = ([shapes.get(t.name) for t in ts] for ts in (node.inputs, node.outputs))
    attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}
    return node_macs(node.op, node.domain or "", attrs, ins, outs)


def _params(node: gs.Node) -> int:
    """Elements of its stored float tensors."""
    stored = {t.name: t for t in node.inputs if isinstance(t, gs.Constant) and t.name}
    return sum(_size(t) for t in stored.values() if t.dtype is not None and "float" in str(t.dtype))


def _size(tensor: gs.Constant) -> int:
    size = 1
    for n in tensor.shape or ():
        size *= int(n)
    return size
