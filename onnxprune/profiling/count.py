"""Counts what the nodes of a graph cost."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, inliner

from onnxprune.io.load import load_model
from onnxprune.io.surgeon import import_graph
from onnxprune.profiling.macs import known_macs
from onnxprune.profiling.memory import VIEWS, node_name, peak, value_bytes
from onnxprune.profiling.profile import NodeCost, Profile
from onnxprune.profiling.rounds import Rounds, rounds
from onnxprune.shapes.infer import Inferred, constant_of, element_type
from onnxprune.trace.value import Value

Source = str | os.PathLike[str] | onnx.ModelProto

_INDICES = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING, TensorProto.UNDEFINED}
_PICKS = {"Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "Slice"}  # they read what they give, not the whole
_ASKS = {"Shape", "Size"}
_PACKED = {"MatMulNBits", "MatMulBnb4", "MatMulFpQ4"}  # the second input holds K * N weights


def profile(model: Source, shapes: Mapping[str, Sequence[int]] | None = None) -> Profile:
    """Counts what every node costs.

    Args:
        model: path or model; not changed.
        shapes: of inputs with symbolic dimensions. Others are taken for one sample: a symbolic first dimension is 1, further
            ones as in verification.

    Raises:
        ModelError: the model can't be read or is not valid, or a given shape names no input or contradicts it.
    """
    from onnxprune.prepare.prepare import best_sizes, check_shapes
    from onnxprune.shapes.dims import assignments, one_sample

    if not isinstance(model, onnx.ModelProto):
        model = load_model(model)
    check_shapes(model, shapes or {})
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = import_graph(model)
    candidates = [one_sample(model, shapes), *assignments(model, shapes)]
    chosen, inferred = best_sizes(graph, candidates)
    counter = _Counter(inferred, rounds(graph, inferred.scopes))
    counter.run(graph, "")
    params, stored = (sum(w[k] for w in counter.stored.values()) for k in (0, 1))
    return Profile(
        chosen, counter.nodes, params, stored, peak(graph, inferred.scopes), counter.once, _unknown(counter.nodes)
    )


def _unknown(nodes: Sequence[NodeCost]) -> list[str]:
    return [f"{n.op} {n.name!r}" for n in nodes if n.macs is None]


@dataclass
class _Counter:
    """Walks through all graphs.

    Attributes:
        inferred: shapes.
        rounds: how often bodies run.
        nodes: found so far.
        stored: name -> (elements, bytes) of each weight that is read, and id of it where two bodies have the same name.
        once: bodies with an open number of rounds.
    """

    inferred: Inferred
    rounds: Rounds
    nodes: list[NodeCost] = field(default_factory=list)
    stored: dict[int, tuple[int, int]] = field(default_factory=dict)
    once: list[str] = field(default_factory=list)

    def run(self, graph: gs.Graph, path: str, times: int | None = None) -> int:
        """Adds the nodes of a graph; returns their multiply-accumulates."""
        scope = self.inferred.scopes.get(id(graph), {})
        times = self.rounds.times[id(graph)] if times is None else times
        total = 0
        for node in graph.nodes:
            values = [scope.get(t.name) if t.name else None for t in node.outputs]
            if values and all(v is None or v.constant for v in values):
                for weight in self._weights(node):
                    self._note(weight, node)
                continue
            cost = self._cost(node, scope, times, path)
            self.nodes.append(cost)
            total += (cost.macs or 0) + self._bodies(node, cost.name, path, times)
        return total

    def _bodies(self, node: gs.Node, name: str, path: str, times: int) -> int:
        """Bodies of a node; of the branches of an If the dearer one counts."""
        bodies = {k: g for k, g in node.attrs.items() if isinstance(g, gs.Graph)}
        totals: dict[str, tuple[int, int, int]] = {}
        for key, body in bodies.items():
            inside = f"{path}{name}.{key}"
            if id(body) in self.rounds.open:
                self.once.append(inside)
            first = len(self.nodes)
            own = self.run(body, f"{inside} ", 0 if times == 0 else None)
            totals[key] = (own, first, len(self.nodes))
        if node.op != "If" or len(totals) < 2:
            return sum(t[0] for t in totals.values())
        taken = max(totals, key=lambda k: totals[k][0])
        for key, (_, first, last) in totals.items():
            if key != taken:
                self.nodes[first:last] = [_never(n) for n in self.nodes[first:last]]
        return totals[taken][0]

    def _cost(self, node: gs.Node, scope: Mapping[str, Value], times: int, path: str) -> NodeCost:
        weights = list(self._weights(node))
        for weight in weights:
            self._note(weight, node)
        sizes = [self._size(w, node) for w in weights]
        fed = {t.name: scope.get(t.name) for t in node.inputs if t.name and not _is_constant(t, scope)}
        made = [scope.get(t.name) for t in node.outputs if t.name]
        read, written = _sum([value_bytes(v) for v in fed.values()]), _sum([value_bytes(v) for v in made])
        held = sum(s[1] for s in sizes)
        ins = [v.shape if v else None for v in (scope.get(t.name) if t.name else None for t in node.inputs)]
        outs = [v.shape if v else None for v in (scope.get(t.name) if t.name else None for t in node.outputs)]
        attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}
        macs = known_macs(node.op, node.domain or "", attrs, ins, outs)
        moved = None if read is None or written is None else _moved(node.op, held, read, written) * times
        domain = f"{node.domain}." if node.domain not in (None, "", "ai.onnx") else ""
        return NodeCost(
            node_name(node),
            f"{domain}{node.op}",
            times,
            None if macs is None else macs * times,
            sum(s[0] for s in sizes),
            held,
            read,
            written,
            moved,
            path.strip(),
        )

    def _weights(self, node: gs.Node) -> Iterator[gs.Constant]:
        """Stored tensors that a node reads, also through nodes that compute from constants alone."""
        seen: set[int] = set()
        waiting = list(node.inputs)
        while waiting:
            t = waiting.pop()
            if id(t) in seen:
                continue
            seen.add(id(t))
            if isinstance(t, gs.Constant):
                yield t
            elif t.inputs:
                source = t.inputs[0]
                held = constant_of(source)
                if held is not None:
                    yield held
                elif self._folded(source):
                    waiting += list(source.inputs)

    def _folded(self, node: gs.Node) -> bool:
        """It computes from constants alone; those never change their name, whatever graph they lie in."""
        for scope in self.inferred.scopes.values():
            value = scope.get(node.outputs[0].name)
            if value is not None:
                return value.constant
        return False

    def _note(self, weight: gs.Constant, node: gs.Node) -> None:
        self.stored.setdefault(id(weight), self._size(weight, node))

    @staticmethod
    def _size(weight: gs.Constant, node: gs.Node) -> tuple[int, int]:
        """Parameters and bytes of a stored tensor."""
        dtype, count = element_type(weight), math.prod(int(n) for n in weight.shape)
        size = value_bytes(Value(weight.name, dtype, (count,))) or 0
        if node.op in _PACKED and node.inputs[1] is weight:
            return int(node.attrs["K"]) * int(node.attrs["N"]), size
        return (0 if dtype in _INDICES else count), size


def _is_constant(t: gs.Tensor, scope: Mapping[str, Value]) -> bool:
    value = scope.get(t.name)
    return isinstance(t, gs.Constant) or (value is not None and value.constant)


def _moved(op: str, weights: int, read: int, written: int) -> int:
    """Bytes that one run of a node reads and writes at least."""
    if op in VIEWS or op in _ASKS:
        return 0
    return (min(weights + read, written) if op in _PICKS else weights + read) + written


def _never(node: NodeCost) -> NodeCost:
    """A node of a branch that is not taken."""
    return replace(node, times=0, macs=None if node.macs is None else 0, moved_bytes=None if node.moved_bytes is None else 0)


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [n for n in sizes if n is not None]
    return sum(known) if len(known) == len(sizes) else None
