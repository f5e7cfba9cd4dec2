"""Applies a removal: a new model without the removed slices; the source stays as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.constants import constant_array, set_constant
from onnxprune.io.export import export_model
from onnxprune.io.surgeon import import_graph
from onnxprune.io.value_info import set_value_info
from onnxprune.shapes.infer import constant_of
from onnxprune.surgery.follow import Follower, pruned_shape
from onnxprune.surgery.weights import cut, keep_of
from onnxprune.trace.tracer import Trace


def walk(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes, bodies included, in a fixed order."""
    for node in graph.nodes:
        yield node
        for inner in node.subgraphs():
            yield from walk(inner)


def stored_weights(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Constants of the graph, its bodies and its Constant nodes by tensor name."""
    result: dict[str, gs.Constant] = {}
    for g in [graph, *graph.subgraphs(recursive=True)]:
        for name, t in g.tensors().items():
            if isinstance(t, gs.Constant):
                result.setdefault(name, t)
        for node in g.nodes:
            held = constant_of(node)
            if held is not None:
                result.setdefault(node.outputs[0].name, held)
    return result


def apply_alive(model: onnx.ModelProto, groups: Groups, alive: Mask) -> onnx.ModelProto:
    """The model without the labels that are not alive.

    Args:
        model: the source, as it was traced.
        groups: its analysis.
        alive: for each label whether it stays; legal (`Groups.violations` is empty).
    """
    trace = groups.trace
    graph = import_graph(model)
    nodes = {id(old): new for old, new in zip(walk(trace.graph), walk(graph), strict=True)}
    constants = stored_weights(graph)
    for weight in trace.weights.values():
        keep = keep_of(weight, alive)
        if keep and weight.stored:
            constant = constants[weight.name]
            set_constant(constant, np.ascontiguousarray(cut(constant_array(constant), keep)))
    follower = Follower(trace, alive, nodes, graph.opset)
    follower.run()
    _share_again(constants, trace.clones)
    owners = {id(n): g for g in [graph, *graph.subgraphs(recursive=True)] for n in g.nodes}
    for reader, new in follower.inserted:
        owner = owners[id(new)] = owners[id(reader)]
        owner.nodes.insert(next(k for k, n in enumerate(owner.nodes) if n is reader), new)
    _drop_unread(follower.replaced, owners)
    result = export_model(graph, model)
    set_value_info(result, _changed_shapes(trace, alive))
    return result


def _drop_unread(tensors: list[gs.Tensor], owners: dict[int, gs.Graph]) -> None:
    """Nodes go that made these tensors, where nothing reads them any more, and what they alone read."""
    needed = {id(t) for graph in owners.values() for t in graph.outputs}
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        for node in list(tensor.inputs):
            if not any(t.outputs or id(t) in needed for t in node.outputs):
                waiting += node.inputs
                owner = owners[id(node)]
                del owner.nodes[next(k for k, n in enumerate(owner.nodes) if n is node)]
                node.inputs.clear()
                node.outputs.clear()


def _share_again(constants: dict[str, gs.Constant], clones: dict[str, str]) -> None:
    """Clones that are still equal to their original are replaced by it."""
    for clone, original in clones.items():
        own, first = constants[clone], constants[original]
        if np.array_equal(constant_array(own), constant_array(first)):
            for node in list(own.outputs):
                for i, t in enumerate(node.inputs):
                    if t is own:
                        node.inputs[i] = first


def _changed_shapes(trace: Trace, alive: Mask) -> dict[str, list[int | None]]:
    """New lengths of the axes that shrank; None for axes that did not."""
    changed: dict[str, list[int | None]] = {}
    for scope in trace.inferred.scopes.values():
        for name, value in scope.items():
            new = pruned_shape(value, alive)
            if new is not None and new != value.shape and name not in changed:
                changed[name] = [n if n != old else None for n, old in zip(new, value.sizes, strict=True)]
    return changed
