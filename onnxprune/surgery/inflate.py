"""The proof: the pruned weights back in the source graph, with zeros where slices were removed.

For exact groups the inflated and the pruned model compute the same function, whatever the graph is: every live path from a
removed channel ends in a zero weight. So one run of both on random inputs proves the surgery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.constants import constant_array, set_constant
from onnxprune.io.export import export_model
from onnxprune.io.surgeon import import_graph
from onnxprune.io.walk import nested_graphs
from onnxprune.surgery.apply import stored_weights
from onnxprune.surgery.weights import cut, keep_of, neutral_values, put_back
from onnxprune.trace.tracer import Weight
from onnxprune.trace.value import Value

_BIASES = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def inflated_weights(
    source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask
) -> Iterator[tuple[Weight, NDArray[Any]]]:
    """The weights of the pruned model in their old shapes: zeros, or the neutral value, where slices were removed.

    Args:
        source: as it was traced.
        pruned: result of `apply_alive`, possibly with weights changed by compensation.
        groups: analysis of the source.
        alive: for each label whether it stayed.
    """
    trace = groups.trace
    constants, small = stored_weights(import_graph(source)), stored_weights(import_graph(pruned))
    small |= {name: small[other] for name, other in _renamed(source, pruned).items() if other in small}
    for clone, original in trace.clones.items():
        small.setdefault(clone, small.get(original, constants[original]))
    neutral = neutral_values(trace.space)
    producers = _producers(trace.graph)
    for weight in trace.weights.values():
        keep = keep_of(weight, alive)
        fill = {a: neutral[labels] for a, labels in weight.labels.items() if labels.ndim == 1 and neutral[labels].any()}
        if weight.stored and weight.name in small:  # else no node reads it
            cut_weight = constant_array(small[weight.name])
            yield weight, put_back(cut_weight, weight.shape, keep, fill) if keep else cut_weight
        elif keep and not weight.stored:  # ConstantOfShape: the same constant with zeros in it
            yield weight, put_back(cut(_made(producers[weight.name], weight), keep), weight.shape, keep, fill)


def unlabelled_weights(
    source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Float tensors that have no axis to label, such as a bias of one element, where reconstruction changed them."""
    before, after = _floats(source), _floats(pruned)
    after |= {name: after[other] for name, other in _renamed(source, pruned).items() if other in after}
    for name in before.keys() & after.keys() - groups.trace.weights.keys():
        if before[name].dims == after[name].dims:
            old, new = numpy_helper.to_array(before[name]), numpy_helper.to_array(after[name])
            if not np.array_equal(old, new):
                yield name, new


def _floats(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Float tensors of the main graph by name, those of Constant nodes too."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {n: t for n, t in tensors.items() if t.data_type in _BIASES}


def _renamed(source: onnx.ModelProto, pruned: onnx.ModelProto) -> dict[str, str]:
    """Names that the pruned model lacks -> what the same nodes read there: equal tensors are shared."""
    here = {n for g in nested_graphs(pruned.graph) for n in _names(g)}
    after = {n.output[0]: n for g in nested_graphs(pruned.graph) for n in g.node if n.output}
    found: dict[str, str] = {}
    for graph in nested_graphs(source.graph):
        for node in graph.node:
            other = after.get(node.output[0]) if node.output else None
            if other is not None and other.op_type == node.op_type:
                pairs = zip(node.input, other.input, strict=False)
                found.update((old, new) for old, new in pairs if old and old != new and old not in here)
    return found


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (t.name for t in graph.initializer)
    yield from (o for n in graph.node for o in n.output)


def _producers(graph: gs.Graph) -> dict[str, gs.Node]:
    return {t.name: n for g in [graph, *graph.subgraphs(recursive=True)] for n in g.nodes for t in n.outputs}


def _made(node: gs.Node, weight: Weight) -> NDArray[Any]:
    held = node.attrs.get("value")
    sample = np.zeros(1, np.float32) if held is None else np.asarray(constant_array(held))
    return np.full(weight.shape, sample.ravel()[0], sample.dtype)


def inflate(source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask) -> onnx.ModelProto:
    """The source graph with the weights of the pruned model; see `inflated_weights`."""
    return put_in(source, {w.name: a for w, a in inflated_weights(source, pruned, groups, alive)})


def put_in(source: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The source with other values of some tensors, stored ones or outputs of ConstantOfShape."""
    graph = import_graph(source)
    constants, producers = stored_weights(graph), _producers(graph)
    for name, array in weights.items():
        if name in constants:
            set_constant(constants[name], array)
        else:
            node = producers[name]
            node.op, node.attrs, node.inputs = "Identity", {}, [gs.Constant(f"{name}_inflated", array)]
    return export_model(graph, source)


def with_new_biases(source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask) -> onnx.ModelProto:
    """The source with the biases that reconstruction gave to nodes which had none or shared one; itself without such.

    They stand in their full length, with zeros where channels were removed.
    """
    fresh = {t.name: t for t in pruned.graph.initializer} if pruned is not source else {}
    known = {t.name for t in source.graph.initializer}
    after = {n.output[0]: n for n in pruned.graph.node if n.output}
    changes: list[tuple[int, int, str, NDArray[Any]]] = []
    for k, node in enumerate(source.graph.node):
        other = after.get(node.output[0]) if node.output else None
        if other is None or other.op_type != node.op_type:
            continue
        for i, name in enumerate(other.input):
            tensor = fresh.get(name)
            if tensor is None or name in known or not name.endswith("_bias") or tensor.data_type not in _BIASES:
                continue
            old = groups.trace.weights.get(node.input[i]) if i < len(node.input) else None
            array = numpy_helper.to_array(tensor)
            if old is not None:
                full = put_back(array, old.shape, keep_of(old, alive), {})
            else:
                full = _spread(array, groups.trace.values[node.output[0]], alive)
            changes.append((k, i, name, full))
    if not changes:
        return source
    result = onnx.ModelProto()
    result.CopyFrom(source)
    for k, i, name, full in changes:
        inputs = result.graph.node[k].input
        inputs.extend([""] * (i + 1 - len(inputs)))
        inputs[i] = name
        result.graph.initializer.append(numpy_helper.from_array(full, name))
    return result


def _spread(array: NDArray[Any], value: Value, alive: Mask) -> NDArray[Any]:
    """A bias of the kept channels, on axis 1, as one of all channels."""
    full = np.zeros(value.sizes[1], array.dtype)
    f = value.field_on(1)
    full[slice(None) if f is None else alive[f.labels]] = array
    return full
