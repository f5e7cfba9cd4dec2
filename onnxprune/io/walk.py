"""What a model holds, however deep it is nested: graphs, tensors, names."""

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

# Types of attributes in which there may be tensors.

CARRIES_TENSORS = (
    AttributeProto.TENSOR,
    AttributeProto.GRAPH,
    AttributeProto.SPARSE_TENSOR,
    AttributeProto.TENSORS,
    AttributeProto.GRAPHS,
    AttributeProto.SPARSE_TENSORS,
)


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph, then every subgraph in it, outer ones first; graphs in functions and training info last."""
    yield from nested_graphs(model.graph)
    for function in model.functions:
        yield from _subgraphs(function.node)
    for training in model.training_info:
        yield from nested_graphs(training.initialization)
        yield from nested_graphs(training.algorithm)


def nested_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph, then the graphs in its nodes' attributes, outer ones first."""
    yield graph
    yield from _subgraphs(graph.node)


def _subgraphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nested_graphs(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from nested_graphs(graph)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that holds data: initializers, sparse ones, and attributes, in all graphs and functions."""
    for graph in graphs(model):
        yield from graph.initializer
        yield from _sparse_parts(graph.sparse_initializer)
        yield from _attribute_tensors(graph.node)
    for function in model.functions:
        yield from _attribute_tensors(function.node)


def _attribute_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type in CARRIES_TENSORS:
                yield from attribute.tensors
                yield from _sparse_parts(attribute.sparse_tensors)
                if attribute.HasField("sparse_tensor"):
                    yield from _sparse_parts([attribute.sparse_tensor])


def _sparse_parts(sparse: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def defined_names(graph: GraphProto) -> set[str]:
    """Names of the values that a graph itself defines: inputs, initializers, outputs of its nodes."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
    return names


def used_names(graph: GraphProto) -> set[str]:
    """Names that nodes, subgraphs or outputs read; too many where a subgraph reuses a name, which does no harm."""
    used: set[str] = set()
    for each in nested_graphs(graph):
        used.update(value.name for value in each.output)
        for node in each.node:
            used.update(node.input)
    return used
