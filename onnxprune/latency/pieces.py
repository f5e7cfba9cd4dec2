"""Cuts a graph into pieces that can be run by themselves.

A piece is one node that multiplies and adds, with the nodes behind it up to the next one: what ONNX Runtime fuses with it
(normalization, bias, activation, residual sum) is in the same piece. Every node is in exactly one piece, but for those that
depend on constants and shapes alone: each piece has its own copy of what it needs of them, as ONNX Runtime folds them.

No piece can be left and entered again: a node goes to the latest piece among those that it reads from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.profiling.macs import is_counted

Arrays = Mapping[str, NDArray[Any]]

_STRUCTURAL = 64  # elements; longer float tensors are weights, whose values take no part in the time
_INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}


@dataclass
class Piece:
    """Part of a graph.

    Attributes:
        name: of the first tensor that it computes; the same in the pruned model.
        nodes: positions of its nodes in the graph, ascending.
        copied: positions of nodes that depend on constants and shapes alone, ascending.
        inputs: tensors that other pieces or the user provide.
        outputs: tensors that other pieces or the user read.
    """

    name: str
    nodes: list[int]
    copied: list[int] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    @property
    def all_nodes(self) -> list[int]:
        """Positions of what it runs."""
        return sorted(self.nodes + self.copied)


def cut_graph(graph: GraphProto) -> list[Piece]:
    """The pieces of a graph, in graph order.

    Args:
        graph: topologically sorted.
    """
    given = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    producer = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    still = _still(graph, given)
    piece_of: dict[int, int] = {}
    pieces: list[Piece] = []
    for k, node in enumerate(graph.node):
        if k in still:
            continue
        before = [piece_of[producer[n]] for n in reads(node) if n in producer and producer[n] in piece_of]
        if is_counted(node.op_type, node.domain) or not before:
            piece_of[k] = len(pieces)
            pieces.append(Piece(next(n for n in node.output if n), [k]))
        else:
            piece_of[k] = max(before)
            pieces[piece_of[k]].nodes.append(k)
    _connect(graph, pieces, piece_of, producer, given)
    return pieces


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its bodies take from outside included."""
    yield from (n for n in node.input if n)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in _BODIES else ():
            own = {t.name for t in (*body.input, *body.initializer)} | {n for inner in body.node for n in inner.output}
            yield from (n for inner in body.node for n in reads(inner) if n not in own)


_BODIES = {AttributeProto.GRAPH, AttributeProto.GRAPHS}


def _still(graph: GraphProto, given: set[str]) -> set[int]:
    """Positions of nodes whose results depend on constants and shapes alone."""
    names = set(given)
    result = set()
    for k, node in enumerate(graph.node):
        if node.op_type in ("Shape", "Size") or all(n in names for n in reads(node)):
            result.add(k)
            names.update(node.output)
    return result


def _connect(
    graph: GraphProto, pieces: Sequence[Piece], piece_of: Mapping[int, int], producer: Mapping[str, int], given: set[str]
) -> None:
    """Finds for each piece the constant nodes it needs, and what goes in and out."""
    wanted = {o.name for o in graph.output}
    for at, piece in enumerate(pieces):
        copied: set[int] = set()
        inputs: dict[str, None] = {}
        queue = list(piece.nodes)
        while queue:
            for name in reads(graph.node[queue.pop()]):
                source = producer.get(name)
                if source is None:
                    if name not in given:
                        inputs[name] = None
                elif source not in piece_of:
                    if source not in copied:
                        copied.add(source)
                        queue.append(source)
                elif piece_of[source] != at:
                    inputs[name] = None
                    wanted.add(name)
        piece.copied, piece.inputs = sorted(copied), list(inputs)  # in the order of discovery: equal for equal layers
    for piece in pieces:
        made = [n for k in piece.nodes for n in graph.node[k].output if n]
        piece.outputs = [n for n in made if n in wanted]


def extract(model: ModelProto, piece: Piece, arrays: Arrays) -> ModelProto:
    """A model of one piece.

    Args:
        model: that the piece was cut from.
        piece: of it.
        arrays: what goes in and out, by name; only types and shapes are looked at.
    """
    graph = model.graph
    nodes = [graph.node[k] for k in piece.all_nodes]
    needed = {n for node in nodes for n in reads(node)}
    ins = [_declared(n, arrays[n]) for n in piece.inputs]
    outs = [_declared(n, arrays[n]) for n in piece.outputs]
    made = helper.make_graph(nodes, piece.name, ins, outs, [t for t in graph.initializer if t.name in needed])
    made.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in needed)
    result = ModelProto(ir_version=model.ir_version, graph=made)
    result.opset_import.extend(model.opset_import)
    return result


def _declared(name: str, array: NDArray[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def structure(model: ModelProto) -> str:
    """A hash of what decides how long a model runs: operators, attributes, wiring, types and shapes; not the weights.

    Names of nodes and tensors don't count, so equal layers have the same. Integers and short constants do.
    """
    held = hashlib.sha256()
    for opset in sorted((o.domain, o.version) for o in model.opset_import):
        held.update(f"{opset}".encode())
    _add_graph(held, model.graph, {})
    return held.hexdigest()[:32]


def _add_graph(held: Any, graph: GraphProto, outer: Mapping[str, int]) -> None:
    ids = dict(outer)

    def number(name: str) -> int:
        return -1 if not name else ids.setdefault(name, len(ids))

    tensors = {t.name: t for t in graph.initializer}
    for info in graph.input:
        held.update(f"in {number(info.name)} ".encode() + info.type.SerializeToString(deterministic=True))
    for node in graph.node:
        for name in node.input:
            if name in tensors and name not in ids:
                held.update(f"weight {number(name)} ".encode() + _content(tensors[name]))
        held.update(f"{node.domain} {node.op_type} {[number(n) for n in node.input]}".encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            _add_attribute(held, attribute, ids)
        held.update(f"{[number(n) for n in node.output]}".encode())
    held.update(f"out {[number(o.name) for o in graph.output]}".encode())


def _add_attribute(held: Any, attribute: AttributeProto, ids: Mapping[str, int]) -> None:
    held.update(attribute.name.encode())
    if attribute.type == AttributeProto.TENSOR:
        held.update(_content(attribute.t))
    elif attribute.type in _BODIES:
        for body in (attribute.g, *attribute.graphs):
            _add_graph(held, body, ids)
    else:
        bare = AttributeProto()
        bare.CopyFrom(attribute)
        bare.doc_string = ""
        held.update(bare.SerializeToString(deterministic=True))


def _content(tensor: TensorProto) -> bytes:
    """Type and shape; with integers, and with short tensors, what they hold."""
    head = f"{tensor.data_type} {list(tensor.dims)} ".encode()
    size = 1
    for n in tensor.dims:
        size *= n
    if size > _STRUCTURAL or (tensor.data_type not in _INTEGERS and size > 1):
        return head
    held = TensorProto()
    held.CopyFrom(tensor)
    held.name = held.doc_string = ""
    return head + bytes(held.SerializeToString(deterministic=True))
