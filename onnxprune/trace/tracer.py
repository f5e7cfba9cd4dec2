"""One pass over the nodes in topological order: labels in, facts about labels out."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.shapes.infer import Inferred, Scope, constant_of, infer
from onnxprune.trace import registry
from onnxprune.trace.labels import Field, Labels, LabelSpace
from onnxprune.trace.op import Edit, Op
from onnxprune.trace.value import Value

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass
class Weight:
    """A tensor of the file whose axes carry labels.

    Attributes:
        name: tensor name (of the initializer, or the output of a Constant or ConstantOfShape node).
        shape: its shape.
        labels: axis -> labels `(size,)`, or `(blocks, size)` where each of `blocks` equal parts of axis 0 has its own.
        stored: False for ConstantOfShape, whose elements are not in the file.
    """

    name: str
    shape: tuple[int, ...]
    labels: dict[int, Labels]
    stored: bool = True


@dataclass
class Trace:
    """Everything one pass learnt.

    Attributes:
        graph: the traced graph.
        space: the labels and the facts about them.
        weights: labelled tensors by name.
        edits: numbers in the graph that follow labels.
        scopes: values by tensor name, for each graph by id.
        origins: constant element behind an origin id.
        unknown: operator -> nodes without a rule.
        failures: bugs of ours: rules that raised, with the node.
        clones: constants that were split per reader for the trace -> what they were; equal ones become one again.
    """

    graph: gs.Graph
    space: LabelSpace = field(default_factory=LabelSpace)
    weights: dict[str, Weight] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    inferred: Inferred = field(default_factory=Inferred)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    clones: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> Scope:
        """Values of the main graph by tensor name."""
        return self.inferred.scopes[id(self.graph)]

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor of the main graph at the traced sizes, where it is known."""
        value = self.values.get(name)
        return None if value is None else value.shape


def trace(graph: gs.Graph, shapes: Mapping[str, Sequence[int]], inferred: Inferred | None = None) -> Trace:
    """Traces a graph at concrete input shapes. The graph is not changed.

    Args:
        graph: topologically sorted, model-local functions inlined.
        shapes: concrete shape of every input that is fed.
        inferred: result of `infer` for the same shapes, where the caller has it.
    """
    result = Trace(graph, inferred=inferred or infer(graph, shapes))
    versions = {("" if i.domain == "ai.onnx" else i.domain): i.version for i in graph.import_domains or []}
    _Tracer(result, versions).run(graph, freeze_outputs=True)
    return result


@dataclass
class _Tracer:
    result: Trace
    versions: Mapping[str, int]

    def run(self, graph: gs.Graph, *, freeze_outputs: bool) -> list[Value]:
        """Traces one graph or body; returns its outputs."""
        scope = self.result.inferred.scopes[id(graph)]
        self.label_weights(graph, scope)
        if freeze_outputs:
            for t in graph.inputs:
                value = scope.get(t.name)
                if value is not None and value.shape is not None and not isinstance(t, gs.Constant):
                    value.why = dict.fromkeys(range(len(value.shape)), f"graph input {t.name!r}")
        for node in graph.nodes:
            self.node(node, scope)
            if graph is self.result.graph:
                self.result.space.touched.clear()
        outputs = [scope.get(t.name) or Value(t.name, 0, None) for t in graph.outputs]
        if freeze_outputs:
            for value in outputs:
                self.freeze(value, f"it reaches graph output {value.name!r}")
        return outputs

    def freeze(self, value: Value, reason: str) -> None:
        """Freezes all axes of a value."""
        for f in value.fields:
            self.result.space.freeze(f.labels, reason)
        for labels in value.blocked.values():
            self.result.space.freeze(labels, reason)

    def label_weights(self, graph: gs.Graph, scope: Scope) -> None:
        """Fresh labels for every axis of every float tensor that the graph holds."""
        readers: dict[str, list[tuple[gs.Node, int]]] = {}
        for node in graph.nodes:
            for i, t in enumerate(node.inputs):
                readers.setdefault(t.name, []).append((node, i))
        outputs = {t.name for t in graph.outputs}
        local = [t.name for t in graph.tensors().values() if isinstance(t, gs.Constant)]
        local += [n.outputs[0].name for n in graph.nodes if constant_of(n) is not None]
        for name in dict.fromkeys(local):
            value = scope[name]
            uses = readers.get(name, [])
            quantized = bool(uses) and all(n.op == "DequantizeLinear" and i in (0, 2) for n, i in uses)
            if uses and all(n.op in ("Resize", "Upsample") and i > 0 for n, i in uses):
                continue  # factors of sizes, not channels
            if (value.dtype in _FLOATS or quantized) and value.shape and name not in self.result.weights:
                self.label(value, [] if name in outputs else uses)

    def label(self, value: Value, uses: Sequence[tuple[gs.Node, int]], *, stored: bool = True) -> None:
        """Labels one tensor, per block where all its readers are grouped alike."""
        shape = value.sizes
        layouts: list[dict[int, int]] = []
        for node, i in uses:
            find = registry.find_layout(node.domain or "", node.op)
            layouts.append(find(dict(node.attrs), i, shape) if find else {})
        blocks = layouts[0] if layouts and all(x == layouts[0] for x in layouts) else {}
        weight = Weight(value.name, shape, {}, stored)
        for axis, size in enumerate(shape):
            if size < 2:
                continue
            if blocks.get(axis, 1) > 1:
                weight.labels[axis] = value.blocked[axis] = self.result.space.fresh(blocks[axis], size)
            else:
                weight.labels[axis] = self.result.space.fresh(size)
                value.fields.append(Field((axis,), weight.labels[axis], True))
        if weight.labels:
            self.result.weights[value.name] = weight

    def node(self, node: gs.Node, scope: Scope) -> None:
        """Applies the rule of one node."""
        if constant_of(node) is not None:
            return
        ins = [scope.get(t.name) if t.name else None for t in node.inputs]
        outs = [scope.get(t.name) or Value(t.name, 0, None) for t in node.outputs]
        bodies = [g for g in node.attrs.values() if isinstance(g, gs.Graph)]
        has_fields = any(v is not None and (v.fields or v.blocked) for v in ins)
        virtual = node.op in ("ConstantOfShape", "Expand") or bodies
        if not has_fields and not virtual:
            self.explain(node, ins, outs)
            return
        domain = node.domain or ""
        domain = "" if domain == "ai.onnx" else domain
        self.freeze_foreign_blocks(node, ins)
        op = Op(node, self.versions.get(domain, 1), ins, outs, self.result.space)
        op.trace_body = self.body
        rule = registry.find(domain, node.op, op.version)
        if rule is None or any(v.shape is None and v.name for v in outs) or any(v and v.shape is None for v in ins):
            if rule is None:
                reason = f"{op.what}: no rule for {domain or 'ai.onnx'}::{node.op}"
                self.result.unknown.setdefault(f"{domain or 'ai.onnx'}::{node.op}", []).append(node.name)
            else:
                reason = f"{op.what}: its shapes are unknown"
            self.give_up(op, bodies, reason)
            return
        start = len(op.space.touched)
        try:
            rule(op)
            self.check(op)
            self.freeze_untouched(op, op.space.touched[start:])
        except Exception as error:  # a bug of ours must not cost the user the rest of the model
            self.result.failures.append(f"{op.what}: {type(error).__name__}: {error}")
            self.give_up(op, [], f"{op.what}: internal error of its rule")
            return
        for value in op.made:
            labels = {f.axes[0]: f.labels for f in value.fields}
            self.result.weights[value.name] = Weight(value.name, value.sizes, labels, stored=False)
        self.result.edits += op.edits

    def freeze_untouched(self, op: Op, touched: Sequence[Labels]) -> None:
        """Labels that a rule passes over in silence are needed as they are."""
        arrays = [f.labels.ravel() for v in op.outs for f in v.fields] + [x.ravel() for x in touched]
        known = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        for value in op.ins:
            if value is None:
                continue
            for f in value.fields:
                planes = op.space.grid(f.labels).axis_labels if f.joint else [None]
                if all(own is not None and np.isin(own, known).all() for own in planes):
                    continue
                self.freeze_missing(op, value, f.labels, known)
            for labels in value.blocked.values():
                self.freeze_missing(op, value, labels, known)

    @staticmethod
    def freeze_missing(op: Op, value: Value, labels: Labels, known: Labels) -> None:
        """Freezes labels of an input that are not known to be accounted for."""
        missing = labels[~np.isin(labels, known)]
        if missing.size:
            op.space.freeze(missing, f"{op.what} needs all of {value.name!r}")

    def freeze_foreign_blocks(self, node: gs.Node, ins: Sequence[Value | None]) -> None:
        """A weight labelled per group is read by an operator that knows no groups (from within a body)."""
        find = registry.find_layout(node.domain or "", node.op)
        for i, value in enumerate(ins):
            if value is None or not value.blocked:
                continue
            expected = find(dict(node.attrs), i, value.sizes) if find else {}
            if expected != {axis: len(labels) for axis, labels in value.blocked.items()}:
                for labels in value.blocked.values():
                    self.result.space.freeze(labels, f"{node.op} {node.name!r} reads a grouped weight as a whole")

    def give_up(self, op: Op, bodies: Sequence[gs.Graph], reason: str) -> None:
        """Freezes all that a node reads, captures of its bodies included."""
        op.freeze_all(reason)
        for value in op.outs:
            value.fields = []
            value.why = dict.fromkeys(range(len(value.shape or ())), reason)
        for body in bodies:
            for name in _captures(body):
                captured = ChainMap(*self.result.inferred.scopes.values()).get(name)
                if captured is not None:
                    self.freeze(captured, reason)

    @staticmethod
    def explain(node: gs.Node, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        """A node that reads no labels: its outputs can't shrink for the reason its inputs can't."""
        first = next((v.why for v in ins if v is not None and v.why), {})
        for value in outs:
            if value.shape is not None and first:
                reason = next(iter(first.values()))
                value.why = {a: first.get(a, reason) for a in range(len(value.shape))}

    def check(self, op: Op) -> None:
        """Fields must match the shapes; joint fields are recorded as grids."""
        for value in op.outs:
            if not value.name:
                value.fields = []
                continue
            axes = [a for f in value.fields for a in f.axes]
            if len(set(axes)) < len(axes):
                raise ValueError(f"two fields share an axis of {value.name!r}")
            for f in [f for f in value.fields if f.labels.size == 1]:
                self.result.space.freeze(f.labels, "it makes up a whole tensor by itself")
            value.fields = [f for f in value.fields if f.labels.size > 1]
            for f in value.fields:
                if f.labels.shape != tuple(value.sizes[a] for a in f.axes):
                    raise ValueError(f"field {f.axes} {f.labels.shape} on {value.name!r} {value.sizes}")
                if f.joint:
                    self.result.space.grid(f.labels)

    def body(self, graph: gs.Graph, inputs: Sequence[Value | None]) -> list[Value]:
        """Traces a body whose inputs were given fields by the rule."""
        scope = self.result.inferred.scopes[id(graph)]
        for t, value in zip(graph.inputs, inputs, strict=False):
            if value is not None:
                scope[t.name].fields, scope[t.name].why = value.fields, value.why
        return self.run(graph, freeze_outputs=False)


def _captures(graph: gs.Graph) -> set[str]:
    """Names that a body reads from outside."""
    own = {t.name for t in graph.inputs} | {t.name for n in graph.nodes for t in n.outputs}
    read = {t.name for n in graph.nodes for t in n.inputs} | {t.name for t in graph.outputs}
    for node in graph.nodes:
        for inner in node.subgraphs():
            read |= _captures(inner)
    return read - own
