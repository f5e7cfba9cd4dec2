"""Numbers inside the graph that count slices: attributes, targets of Reshape, bounds of Slice, indices of Gather.

Static values are computed once more in the pruned graph: what comes from Shape has changed by itself, what comes from
constants has not. Where a node that is not static itself reads a value, it has to be the value it read before, but for the
edits that its rule asked for. A difference is mended at the constant it was moved from where all readers agree on that,
else right before the reader.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.io.attributes import delete_attribute, set_attribute
from onnxprune.io.constants import set_constant
from onnxprune.io.surgeon import source_proto
from onnxprune.shapes.evaluate import evaluate
from onnxprune.shapes.infer import constant_of
from onnxprune.trace.op import Edit
from onnxprune.trace.tracer import Trace
from onnxprune.trace.value import Value, length

Array = NDArray[Any]
Statics = MutableMapping[str, Array]


def pruned_shape(value: Value, alive: Mask) -> tuple[int, ...] | None:
    """Shape of a value after the removal."""
    if value.shape is None:
        return None
    shape = list(value.shape)
    for f in value.fields:
        for position, axis in enumerate(f.axes):
            shape[axis] = length(alive, f.labels, position)
    for axis, labels in value.blocked.items():
        shape[axis] = length(alive, labels, 1)
    return tuple(shape)


def apply_edit(edit: Edit, array: Array, alive: Mask) -> Array:
    """An integer input as its reader needs it after the removal."""
    if edit.kind == "index":
        kept = alive[edit.labels]
        rank = np.cumsum(kept) - 1
        picked = np.asarray(array) % kept.size
        return np.asarray(rank[picked][kept[picked]], array.dtype)
    changed = np.array(array)
    changed.reshape(-1)[edit.element] = length(alive, edit.labels, edit.position) + edit.add
    return changed


@dataclass
class Follower:
    """Makes the numbers of a graph follow a removal.

    Attributes:
        trace: of the source graph.
        alive: which labels stay.
        nodes: source node id -> node of the graph under surgery.
    """

    trace: Trace
    alive: Mask
    nodes: Mapping[int, gs.Node]
    opset: int
    edits: dict[tuple[int, int], list[Edit]] = field(default_factory=dict)
    patched: dict[str, Array] = field(default_factory=dict)

    def run(self) -> None:
        """Attributes first, then integer inputs."""
        for edit in self.trace.edits:
            if edit.node.op == "Split":
                continue
            if isinstance(edit.slot, str):
                self.attribute(edit, self.nodes[id(edit.node)])
            elif self.matters(edit):
                self.edits.setdefault((id(edit.node), edit.slot), []).append(edit)
        self.splits()
        self.mend_constants()
        for use in list(self.uses(self.statics())):
            self.mend_before_reader(use)

    def matters(self, edit: Edit) -> bool:
        """Some label is removed on which the number depends."""
        return not bool(self.alive[edit.labels if edit.due is None else edit.due].all())

    def attribute(self, edit: Edit, node: gs.Node) -> None:
        """Sets one attribute or one element of a list attribute."""
        now = length(self.alive, edit.labels, edit.position)
        if now == edit.labels.shape[edit.position] and (edit.due is None or not self.matters(edit)):
            return
        name = str(edit.slot)
        if edit.kind == "value":
            set_attribute(node, name, float(edit.value))
        elif edit.element is None:
            set_attribute(node, name, now + edit.add)
        else:
            values = list(node.attrs[name])
            values[edit.element] = now + edit.add
            set_attribute(node, name, values)

    def splits(self) -> None:
        """Sizes of Split: explicit wherever the parts are not equal any more."""
        by_node: dict[int, list[Edit]] = {}
        for edit in self.trace.edits:
            if edit.node.op == "Split" and self.matters(edit):
                by_node.setdefault(id(edit.node), []).append(edit)
        for key in by_node:
            node = self.nodes[key]
            scope = self.scope_of[key]
            axis = int(node.attrs.get("axis", 0))
            sizes = [scope[t.name].sizes[axis] for t in node.outputs]
            every = [e for e in self.trace.edits if id(e.node) == key]
            for edit in every:
                sizes[int(edit.element or 0)] = length(self.alive, edit.labels, edit.position)
            explicit = "split" in node.attrs or len(node.inputs) > 1
            if not explicit and len(set(sizes)) == 1:
                continue
            if self.opset < 13:
                set_attribute(node, "split", sizes)
                continue
            constant = gs.Constant(f"{node.outputs[0].name}_sizes", np.array(sizes, np.int64))
            if "num_outputs" in node.attrs:
                delete_attribute(node, "num_outputs")
            if len(node.inputs) > 1:
                self.replaced.append(node.inputs[1])
                self.settled.add((key, 1))
                node.inputs[1] = constant
            else:
                node.inputs.append(constant)

    # ---- static values ----

    @property
    def scope_of(self) -> dict[int, Mapping[str, Value]]:
        """Values that each source node sees."""
        graphs = {id(self.trace.graph): self.trace.graph}
        graphs |= {id(g): g for g in self.trace.graph.subgraphs(recursive=True)}
        return {id(n): s for k, s in self.trace.inferred.scopes.items() if k in graphs for n in graphs[k].nodes}

    def statics(self) -> dict[int, Statics]:
        """Static values after the removal, by source graph id; only those that differ from the source."""
        result: dict[int, Statics] = {}

        def visit(graph: gs.Graph, outer: Statics) -> None:
            own: Statics = ChainMap({}, outer) if outer else {}
            result[id(graph)] = own
            scope = self.trace.inferred.scopes.get(id(graph), {})
            own.update({n: a for n, a in self.patched.items() if n in scope})
            for node in graph.nodes:
                self.recompute(node, scope, own)
                for inner in node.subgraphs():
                    visit(inner, own)

        visit(self.trace.graph, {})
        return result

    def recompute(self, node: gs.Node, scope: Mapping[str, Value], changed: Statics) -> None:
        """Values of one node, where an input or the shape of one has changed."""
        outs = [scope.get(t.name) for t in node.outputs]
        if not outs or any(v is None or v.static is None for v in outs) or constant_of(node) is not None or not node.inputs:
            return
        ins = [scope.get(t.name) if t.name else None for t in node.inputs]
        shapes = [None if v is None else pruned_shape(v, self.alive) for v in ins]
        if node.op in ("Shape", "Size"):
            if ins[0] is None or shapes[0] == ins[0].shape:
                return
        elif not any(t.name in changed for t in node.inputs):
            return
        proto = source_proto(node)
        values = [None if v is None else changed.get(v.name, v.static) for v in ins]
        results = evaluate(proto, self.opset, values, shapes) if proto is not None else None
        for t, old, new in zip(node.outputs, outs, results or [], strict=False):
            if old is not None and old.static is not None and not np.array_equal(new, old.static):
                changed[t.name] = new

    def uses(self, statics: Mapping[int, Statics]) -> Iterator[Use]:
        """Places where a node that is not static reads a value that is not what it should be."""
        for key, graph in self.graphs().items():
            scope, changed = self.trace.inferred.scopes.get(key, {}), statics.get(key, {})
            for node in graph.nodes:
                if all((v := scope.get(t.name)) is not None and v.static is not None for t in node.outputs if t.name):
                    continue
                for i, t in enumerate(node.inputs):
                    value = scope.get(t.name) if t.name else None
                    if value is None or value.static is None or (id(node), i) in self.settled:
                        continue
                    edits = self.edits.get((id(node), i), [])
                    wanted = value.static
                    for edit in edits:
                        if edit.kind == "index" or np.asarray(value.static).size > int(edit.element or 0):
                            wanted = apply_edit(edit, wanted, self.alive)
                    actual = changed.get(t.name, value.static)
                    if not np.array_equal(actual, wanted):
                        yield Use(node, i, value, np.asarray(actual), np.asarray(wanted))

    def graphs(self) -> dict[int, gs.Graph]:
        """Source graphs by id."""
        return {id(self.trace.graph): self.trace.graph} | {id(g): g for g in self.trace.graph.subgraphs(recursive=True)}

    # ---- mending ----

    def mend_constants(self) -> None:
        """Changes elements of constants on whose new value all readers agree."""
        wishes: dict[int, set[Any]] = {}
        for key, graph in self.graphs().items():
            scope = self.trace.inferred.scopes.get(key, {})
            for node in graph.nodes:
                static = all((v := scope.get(t.name)) is not None and v.static is not None for t in node.outputs if t.name)
                for i, t in enumerate(node.inputs):
                    value = scope.get(t.name) if t.name else None
                    if value is None or value.static is None or value.origin is None:
                        continue
                    if static:  # arithmetic reads the constant too: it keeps what it was, moves pass it on
                        if self.computes(node, scope):
                            for o, x in zip(value.origin.ravel(), np.ravel(value.static), strict=True):
                                wishes.setdefault(int(o), set()).add(x.item())
                        continue
                    wanted = value.static
                    for edit in self.edits.get((id(node), i), []):
                        wanted = apply_edit(edit, wanted, self.alive)
                    if wanted.shape == value.static.shape:
                        for o, x in zip(value.origin.ravel(), wanted.ravel(), strict=True):
                            wishes.setdefault(int(o), set()).add(x.item())
        self.patch({o: next(iter(v)) for o, v in wishes.items() if o >= 0 and len(v) == 1})

    @staticmethod
    def computes(node: gs.Node, scope: Mapping[str, Value]) -> bool:
        """A static node that does not only move elements."""
        outs = [scope[t.name] for t in node.outputs if t.name]
        return any(v.origin is None or (v.origin < 0).all() for v in outs)

    def patch(self, wishes: Mapping[int, Any]) -> None:
        """Sets elements of constants."""
        values = {n: v for s in self.trace.inferred.scopes.values() for n, v in s.items() if v.static is not None}
        for o, x in wishes.items():
            name, element = self.trace.inferred.origins[o]
            old = self.patched.get(name, values[name].static)
            if old is not None and np.ravel(old)[element] != x:
                new = np.array(old)
                new.reshape(-1)[element] = x
                self.patched[name] = new
        for graph in {id(n.inputs): n for n in self.nodes.values()}.values():
            self.write_constants(graph)

    def write_constants(self, node: gs.Node) -> None:
        """Writes patched constants that a node reads or holds."""
        for t in node.inputs:
            if isinstance(t, gs.Constant) and t.name in self.patched and not t.inputs:
                set_constant(t, self.patched[t.name])
        if node.op == "Constant" and node.outputs[0].name in self.patched:
            array = self.patched[node.outputs[0].name]
            held = constant_of(node)
            if held is not None:
                set_constant(held, array)
            elif "value_int" in node.attrs:
                set_attribute(node, "value_int", int(array))
            else:
                set_attribute(node, "value_ints", [int(x) for x in array])

    def mend_before_reader(self, use: Use) -> None:
        """Gives one reader the value it needs: a constant, or a constant for some elements."""
        node = self.nodes[id(use.node)]
        name = f"{use.value.name}_for_{node.name or node.outputs[0].name}_{use.position}"
        constant = gs.Constant(name, np.asarray(use.wanted))
        old = node.inputs[use.position]
        if use.actual.shape != use.wanted.shape or isinstance(old, gs.Constant) or self.opset < 9:
            self.replaced.append(old)
            node.inputs[use.position] = constant
            return
        mask = gs.Constant(f"{name}_changed", np.asarray(use.actual != use.wanted))
        out = gs.Variable(f"{name}_followed")
        self.inserted.append((node, gs.Node("Where", f"{name}_follow", inputs=[mask, constant, old], outputs=[out])))
        node.inputs[use.position] = out

    inserted: list[tuple[gs.Node, gs.Node]] = field(default_factory=list)
    replaced: list[gs.Tensor] = field(default_factory=list)
    settled: set[tuple[int, int]] = field(default_factory=set)  # source node id and input that has what it needs


@dataclass
class Use:
    """A node that reads a static value which is not what it needs."""

    node: gs.Node
    position: int
    value: Value
    actual: Array
    wanted: Array
