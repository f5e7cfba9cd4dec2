"""Equal initializers become one: stored once, read under one name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import onnx
from onnx import numpy_helper

from onnxprune.io.walk import nested_graphs


def share_initializers(model: onnx.ModelProto, keep: Collection[str] = ()) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with one tensor for all that have the same type, shape and bytes, and what each dropped name became.

    Tensors of Constant nodes of the main graph count too: they are read from the first initializer that is equal, or from
    the first such node. Inputs with a default (initializers that the graph lists as inputs, as all are below IR version 4)
    stay, as a user may feed another value; so do graph outputs and tensors that an annotation names. The model itself is
    returned where nothing is equal; it is never changed.

    Args:
        model: a self-contained model, as `onnxprune.io.load.load_model` returns it.
        keep: names that stay as they are.
    """
    known: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    graph = model.graph
    own = {*keep, *(i.name for i in graph.input), *(o.name for o in graph.output)}
    own |= {a.tensor_name for a in graph.quantization_annotation}
    own |= {p.value for a in graph.quantization_annotation for p in a.quant_parameter_tensor_names}
    for name, tensor in _constants(graph):
        if name in own or (key := _digest(tensor)) is None:
            continue
        first = known.setdefault(key, name)
        if first != name:
            renamed[name] = first
    if not renamed:
        return model, {}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _drop(result.graph, renamed)
    _constants_first(result.graph, set(renamed.values()))
    for body in nested_graphs(result.graph):
        for node in body.node:
            for k, name in enumerate(node.input):
                node.input[k] = renamed.get(name, name)
        for output in body.output if body is not result.graph else ():
            output.name = renamed.get(output.name, output.name)
    return result, renamed


def _constants(graph: onnx.GraphProto) -> list[tuple[str, onnx.TensorProto]]:
    """Initializers, then tensors of Constant nodes, by name."""
    held = [(t.name, t) for t in graph.initializer]
    return held + [(n.output[0], n.attribute[0].t) for n in graph.node if _is_constant(n)]


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and not node.domain and len(node.attribute) == 1 and node.attribute[0].name == "value"


def _digest(tensor: onnx.TensorProto) -> bytes | None:
    """A hash of type, shape and values, however they are stored; None for texts and what is not read."""
    if tensor.data_type == onnx.TensorProto.STRING or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    found = hashlib.blake2b(repr((tensor.data_type, tuple(tensor.dims))).encode(), digest_size=32)
    found.update(tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes())
    return found.digest()


def _drop(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Removes tensors, the Constant nodes that hold them, and what is said about them."""
    for items, gone in (
        (graph.initializer, [t.name in names for t in graph.initializer]),
        (graph.node, [_is_constant(n) and n.output[0] in names for n in graph.node]),
        (graph.value_info, [v.name in names for v in graph.value_info]),
    ):
        for k in reversed([k for k, there in enumerate(gone) if there]):
            del items[k]


def _constants_first(graph: onnx.GraphProto, names: set[str]) -> None:
    """Constant nodes that have new readers move to the front, so that none comes before them."""
    moved = [k for k, n in enumerate(graph.node) if _is_constant(n) and n.output[0] in names]
    if not moved:
        return
    order = moved + [k for k in range(len(graph.node)) if k not in set(moved)]
    nodes = [onnx.NodeProto.FromString(graph.node[k].SerializeToString()) for k in order]
    del graph.node[:]
    graph.node.extend(nodes)
