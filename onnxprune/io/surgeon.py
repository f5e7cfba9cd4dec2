"""The boundary to onnx-graphsurgeon, on whose graph the surgery happens, without what its own import and export lose.

onnx-graphsurgeon drops what it has no field for: node doc strings and metadata, attributes of type TYPE_PROTO, GRAPHS
or SPARSE_TENSOR, unused initializers, inputs that are initializers, denotations, element types numpy lacks. So every
imported node and subgraph remembers the proto it came from. `onnxprune.io.export` writes that proto with the changes made to
the graph; `onnxprune.io.constants` and `onnxprune.io.attributes` make such changes.

A graph nobody touched exports to the model it came from, to the byte. `model` is never written to, and its weights are
copied once, at export.
"""

from collections.abc import Iterator

import onnx_graphsurgeon as gs
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError

# Where a gs.Node or gs.Graph keeps the proto it was imported from.
_ORIGIN = "onnxprune_origin"


def import_graph(model: ModelProto) -> gs.Graph:
    """The model as an onnx-graphsurgeon graph that shares the weights of `model`.

    Args:
        model: A self-contained model, as `load_model` returns it. It must stay unchanged as long as the graph is used.
            Copies that onnx-graphsurgeon makes of nodes or graphs don't remember their protos.

    Raises:
        ModelError: A string attribute is not UTF-8, which onnx-graphsurgeon can't represent.
    """
    _check_strings(model.graph)
    severity = G_LOGGER.severity
    # It warns of types numpy lacks, which are safe here.
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        graph = gs.import_onnx(model)
    finally:
        G_LOGGER.severity = severity
    # onnx-graphsurgeon appends to this list, which is the model's own.
    opsets = list(_copied_opsets(model))
    for each in (graph, *graph.subgraphs(recursive=True)):
        each.import_domains = opsets
    _remember_origins(graph, model.graph)
    return graph


def source_proto(node: gs.Node) -> NodeProto | None:
    """The proto the node was imported from, None for a node made since. Read only: it belongs to the source model."""
    origin: NodeProto | None = getattr(node, _ORIGIN, None)
    return origin


def source_graph(graph: gs.Graph) -> GraphProto:
    """The proto the graph was imported from, an empty one for a graph made since. Read only."""
    # A gs.Graph answers for unknown attributes with an error message of its own.
    return vars(graph).get(_ORIGIN) or GraphProto()


def remember(part: gs.Node | gs.Graph, proto: NodeProto | GraphProto) -> None:
    """From now on the part counts as imported from the proto."""
    setattr(part, _ORIGIN, proto)


def _check_strings(graph: GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            try:
                for text in (attribute.s, *attribute.strings):
                    text.decode()
            except UnicodeDecodeError:
                raise ModelError(
                    f"node {node.name!r} ({node.op_type}): attribute {attribute.name!r} is binary data, not UTF-8; "
                    "prune the model it was compiled from"
                ) from None
            for body in (attribute.g, *attribute.graphs):
                _check_strings(body)


def _copied_opsets(model: ModelProto) -> Iterator[Message]:
    for opset in model.opset_import:
        copy = type(opset)()
        copy.CopyFrom(opset)
        yield copy


def _remember_origins(graph: gs.Graph, proto: GraphProto) -> None:
    remember(graph, proto)
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        remember(node, node_proto)
        for attribute in node_proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _remember_origins(node.attrs[attribute.name], attribute.g)
