"""From the graph back to a model, in which everything is as it was but for what the surgery changed.

1. A node that still agrees with its proto is copied; otherwise op, name, domain, inputs, outputs and the attributes
   that differ are replaced. A node made during the surgery has no proto and is written from the graph alone.
2. An initializer is copied unless its `gs.Constant` got new values, which are written with the old element type, name,
   doc string and metadata. It is dropped if its last consumer is gone, not if it never had one. New ones come last.
3. Whatever describes a value that is gone (value_info, quantization annotations) is dropped; dims of changed
   initializers are brought up to date where they are declared. For all other shapes there is `set_value_info`.
4. Functions and training info are copied as they are; the surgery has to leave them alone.
"""

from collections.abc import Iterator
from functools import partial

import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx import helper as onnx_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxprune.io.attributes import WriteBody, is_unchanged, write_attributes
from onnxprune.io.constants import write_tensor
from onnxprune.io.structure import copy_fields
from onnxprune.io.surgeon import source_proto
from onnxprune.io.value_info import declare_changed_initializers
from onnxprune.io.walk import defined_names, used_names

_REWRITTEN_FIELDS = frozenset(
    ("node", "initializer", "sparse_initializer", "input", "output", "value_info", "quantization_annotation")
)


def export_model(graph: gs.Graph, source: ModelProto) -> ModelProto:
    """The graph as a model; what the graph does not say is taken from `source`, the model it was imported from."""
    model = ModelProto()
    copy_fields(source, model, skip=("graph", "opset_import"))
    for opset in source.opset_import:
        model.opset_import.add().CopyFrom(opset)
    _write_graph(graph, source.graph, model.graph, frozenset())
    _import_new_domains(graph, model)
    if source.HasField("graph"):
        model.graph.SetInParent()
    return model


def _write_graph(graph: gs.Graph, source: GraphProto, target: GraphProto, outer: frozenset[str]) -> None:
    """Writes the graph into the empty proto `target`.

    Args:
        graph: The graph.
        source: The proto it was imported from; empty for a new subgraph.
        target: The proto to fill.
        outer: Names of the constants that the graphs around this one define.
    """
    copy_fields(source, target, skip=_REWRITTEN_FIELDS)
    if not target.name and graph.name:
        target.name = graph.name
    own = {tensor.name for tensor in source.initializer} | {s.values.name for s in source.sparse_initializer}
    own.update(tensor.name for tensor in _own_constants(graph))
    write_body = partial(_write_graph, outer=outer | own)
    for node in graph.nodes:
        _write_node(node, target.node.add(), write_body)
    _write_initializers(graph, source, target, outer)
    _write_interface(graph, source, target)
    gone = defined_names(source) - defined_names(target)
    for info in source.value_info:
        if info.name not in gone:
            target.value_info.add().CopyFrom(info)
    for annotation in source.quantization_annotation:
        if annotation.tensor_name not in gone:
            target.quantization_annotation.add().CopyFrom(annotation)
    declare_changed_initializers(source, target)


def _write_initializers(graph: gs.Graph, source: GraphProto, target: GraphProto, outer: frozenset[str]) -> None:
    constants = {name: t for name, t in _constants(graph).items() if name not in outer}
    used_before = used_names(source)
    # Still used, yet by no node of the graph: captured by a body that onnx-graphsurgeon does not import.
    captured = used_names(target) - {name for node in target.node for name in node.output}

    def stays(name: str) -> bool:
        return name in constants or name in outer or name not in used_before or name in captured

    written = set()
    for tensor in source.initializer:
        if stays(tensor.name):
            _write_initializer(constants.get(tensor.name), tensor, target)
            written.add(tensor.name)
    for sparse in source.sparse_initializer:
        name = sparse.values.name
        constant = constants.get(name)
        if stays(name) and (constant is None or isinstance(constant._values, SparseValues)):
            target.sparse_initializer.add().CopyFrom(sparse)
            written.add(name)
    for constant in _own_constants(graph):
        if constant.name not in written and constant.name not in outer:
            write_tensor(constant, None, target.initializer.add())
            written.add(constant.name)


def _write_initializer(constant: gs.Constant | None, tensor: TensorProto, target: GraphProto) -> None:
    if constant is None:
        target.initializer.add().CopyFrom(tensor)
    else:
        write_tensor(constant, tensor, target.initializer.add())


def _write_interface(graph: gs.Graph, source: GraphProto, target: GraphProto) -> None:
    """Writes inputs and outputs: the declarations of `source` as far as they are still there, then new ones."""
    initializers = {tensor.name for tensor in target.initializer}
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for info in source.input:
        if inputs.pop(info.name, None) is not None or info.name in initializers:
            target.input.add().CopyFrom(info)
    for tensor in inputs.values():
        target.input.add().CopyFrom(OnnxExporter.export_value_info_proto(tensor, do_type_check=False))
    declared = {info.name: info for info in source.output}
    for tensor in graph.outputs:
        info = declared.get(tensor.name) or OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
        target.output.add().CopyFrom(info)


def _write_node(node: gs.Node, target: NodeProto, write_body: WriteBody) -> None:
    origin = source_proto(node)
    inputs = [tensor.name for tensor in node.inputs]
    outputs = [tensor.name for tensor in node.outputs]
    if origin is None:
        target.CopyFrom(onnx_helper.make_node(node.op, inputs, outputs, name=node.name or None, domain=node.domain))
        write_attributes(node, target, write_body)
        return
    if is_unchanged(node, origin):
        target.CopyFrom(origin)
    else:
        copy_fields(origin, target, skip=("attribute",))
        write_attributes(node, target, write_body)
    for field, names in ((target.input, inputs), (target.output, outputs)):
        if list(field) != names:
            del field[:]
            field.extend(names)
    if target.op_type != node.op:
        target.op_type = node.op
    if target.name != node.name:
        target.name = node.name
    if target.domain != (node.domain or ""):
        target.domain = node.domain or ""


def _import_new_domains(graph: gs.Graph, model: ModelProto) -> None:
    """Adds the opsets of domains that came with new nodes; version 1 unless the graph imports another."""
    present = {"" if opset.domain == "ai.onnx" else opset.domain for opset in model.opset_import}
    wanted = {opset.domain: opset.version for opset in graph.import_domains or ()}
    for each in (graph, *graph.subgraphs(recursive=True)):
        for node in each.nodes:
            domain = "" if node.domain in (None, "ai.onnx") else node.domain
            if source_proto(node) is None and domain not in present:
                model.opset_import.add(domain=domain, version=wanted.get(domain, 1))
                present.add(domain)


def _constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """The constants that the graph's nodes, its outputs or its subgraphs use."""
    found = {tensor.name: tensor for tensor in graph.outputs if isinstance(tensor, gs.Constant)}
    for node in graph.nodes:
        for body in node.subgraphs():
            found.update(_constants(body))
    for node in graph.nodes:
        found.update((tensor.name, tensor) for tensor in node.inputs if isinstance(tensor, gs.Constant))
    return found


def _own_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for node in graph.nodes:
        yield from (tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))
    yield from (tensor for tensor in graph.outputs if isinstance(tensor, gs.Constant))
