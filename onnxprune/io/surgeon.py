"""The boundary to onnx-graphsurgeon, on whose graph the surgery happens, without what its own import and export lose.

onnx-graphsurgeon drops what it has no field for: node doc strings and metadata, attributes of type TYPE_PROTO, GRAPHS
or SPARSE_TENSOR, unused initializers, inputs that are initializers, denotations, element types numpy lacks. So every
imported node and subgraph remembers the proto it came from, and `export_model` writes that proto with the changes made
to the graph:

1. A node that still agrees with its proto is copied; otherwise op, name, domain, inputs, outputs and the attributes
   that differ are replaced. A node made during the surgery has no proto and is written from the graph alone.
2. An initializer is copied unless its `gs.Constant` got new values, which are written with the old element type, name,
   doc string and metadata. It is dropped if its last consumer is gone, not if it never had one. New ones come last.
3. Whatever describes a value that is gone (value_info, quantization annotations) is dropped; dims of changed
   initializers are brought up to date where they are declared. For all other shapes there is `set_value_info`.
4. Functions and training info are copied as they are; the surgery has to leave them alone.

A graph nobody touched exports to the model it came from, to the byte. `model` is never written to, and its weights are
copied once, at export.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)
from onnx import helper as onnx_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.io.structure import copy_fields
from onnxprune.io.walk import nested_graphs

Array: TypeAlias = NDArray[Any]
Dim: TypeAlias = int | str | None

# Where a gs.Node or gs.Graph keeps the proto it was imported from.
_ORIGIN = "onnxprune_origin"

# Attribute types onnx-graphsurgeon imports; it leaves out the others.
_IMPORTED = frozenset(
    (
        AttributeProto.FLOAT,
        AttributeProto.INT,
        AttributeProto.STRING,
        AttributeProto.TENSOR,
        AttributeProto.GRAPH,
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.STRINGS,
    )
)

_DATA_FIELDS = frozenset(
    (
        "dims",
        "data_type",
        "segment",
        "float_data",
        "int32_data",
        "string_data",
        "int64_data",
        "double_data",
        "uint64_data",
        "raw_data",
        "external_data",
        "data_location",
    )
)

_REWRITTEN_FIELDS = frozenset(
    ("node", "initializer", "sparse_initializer", "input", "output", "value_info", "quantization_annotation")
)


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


def source_proto(node: gs.Node) -> NodeProto | None:
    """The proto the node was imported from, None for a node made since. Read only: it belongs to the source model."""
    origin: NodeProto | None = getattr(node, _ORIGIN, None)
    return origin


def constant_array(constant: gs.Constant) -> Array:
    """The values, read without keeping them in the graph; possibly a read-only view.

    Types numpy lacks come as those of ml_dtypes (bfloat16, int4, float8_e4m3fn ...), sparse tensors dense.
    """
    values = constant._values
    if isinstance(values, SparseValues):
        return _dense(values.tensor)
    if isinstance(values, LazyValues):
        return np.asarray(numpy_helper.to_array(values.tensor))
    return np.asarray(values)


def set_constant(constant: gs.Constant, array: Array) -> None:
    """Replaces the values; the array is cast to the element type the constant has.

    Raises:
        TypeError: The cast would change the kind of number, such as float to int.
    """
    dtype = np.dtype(_element_dtype(constant))
    if dtype != array.dtype and _kind(dtype) != _kind(array.dtype):
        raise TypeError(f"constant {constant.name!r} holds {dtype}, got {array.dtype}; convert the array first")
    constant.values = np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(array.shape)


def set_attribute(node: gs.Node, name: str, value: object) -> None:
    """Sets an attribute; one the node already has keeps its type and doc string on export."""
    node.attrs[name] = _plain(value)


def delete_attribute(node: gs.Node, name: str) -> None:
    """Removes an attribute, of whatever type, so that the default of the op holds; none there is no error."""
    node.attrs.pop(name, None)
    origin = source_proto(node)
    if origin is None or all(a.name != name or a.type in _IMPORTED for a in origin.attribute):
        return
    # The graph does not hold this one, so only the proto can say that it is gone.
    rest = NodeProto()
    copy_fields(origin, rest, skip=("attribute",))
    for attribute in origin.attribute:
        if attribute.name != name:
            rest.attribute.add().CopyFrom(attribute)
    setattr(node, _ORIGIN, rest)


def set_value_info(model: ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> None:
    """Brings declared shapes up to date, in place: value_info, inputs and outputs of the graph and its subgraphs.

    An entry in a subgraph counts as the same value as one of that name outside. Entries without a shape stay so, no
    entries are added, and entries of values that no longer exist are dropped.

    Args:
        model: A model of the caller's own, as `export_model` returns it.
        shapes: For each value its dims: an int or a name replaces the dim, None leaves it.

    Raises:
        ModelError: A value has another rank than it is declared with.
    """
    for graph in nested_graphs(model.graph):
        existing = _defined_names(graph)
        stale = [i for i, info in enumerate(graph.value_info) if info.name not in existing]
        for i in reversed(stale):
            del graph.value_info[i]
        for info in (*graph.value_info, *graph.input, *graph.output):
            if info.name in shapes:
                _set_dims(info, shapes[info.name])


def _set_dims(info: ValueInfoProto, dims: Sequence[Dim]) -> None:
    kind = info.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return
    tensor_type = info.type.tensor_type if kind == "tensor_type" else info.type.sparse_tensor_type
    if not tensor_type.HasField("shape"):
        return
    declared = tensor_type.shape.dim
    if len(declared) != len(dims):
        raise ModelError(
            f"value {info.name!r} is declared with {len(declared)} dims but has {list(dims)}; run shape inference anew"
        )
    for dim, new in zip(declared, dims, strict=True):
        if isinstance(new, str):
            dim.dim_param = new
        elif new is not None and dim.HasField("dim_value"):
            dim.dim_value = int(new)
        elif new is not None:
            dim.Clear()  # a symbol or an expression of symbols: the number holds for the traced sizes only


# Import


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
    setattr(graph, _ORIGIN, proto)
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        setattr(node, _ORIGIN, node_proto)
        for attribute in node_proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _remember_origins(node.attrs[attribute.name], attribute.g)


# Names: which values a graph uses and defines


def _used_names(graph: GraphProto) -> set[str]:
    """Names that nodes, subgraphs or outputs read; too many where a subgraph reuses a name, which does no harm."""
    used: set[str] = set()
    for each in nested_graphs(graph):
        used.update(value.name for value in each.output)
        for node in each.node:
            used.update(node.input)
    return used


def _defined_names(graph: GraphProto) -> set[str]:
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
    return names


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


# Export


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
    inner = outer | own
    for node in graph.nodes:
        _write_node(node, target.node.add(), inner)
    _write_initializers(graph, source, target, outer)
    _write_interface(graph, source, target)
    gone = _defined_names(source) - _defined_names(target)
    for info in source.value_info:
        if info.name not in gone:
            target.value_info.add().CopyFrom(info)
    for annotation in source.quantization_annotation:
        if annotation.tensor_name not in gone:
            target.quantization_annotation.add().CopyFrom(annotation)
    _declare_changed_initializers(source, target)


def _write_initializers(graph: gs.Graph, source: GraphProto, target: GraphProto, outer: frozenset[str]) -> None:
    constants = {name: t for name, t in _constants(graph).items() if name not in outer}
    used_before = _used_names(source)
    # Still used, yet by no node of the graph: captured by a body that onnx-graphsurgeon does not import.
    captured = _used_names(target) - {name for node in target.node for name in node.output}

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
            _write_tensor(constant, None, target.initializer.add())
            written.add(constant.name)


def _write_initializer(constant: gs.Constant | None, tensor: TensorProto, target: GraphProto) -> None:
    if constant is None:
        target.initializer.add().CopyFrom(tensor)
    else:
        _write_tensor(constant, tensor, target.initializer.add())


def _write_tensor(constant: gs.Constant, source: TensorProto | None, target: TensorProto) -> None:
    """Writes a constant; `source` is the proto it was imported from, None for a new one."""
    values = constant._values
    if isinstance(values, LazyValues) and not isinstance(values, SparseValues):
        lazy = source if source is not None and source.name == values.tensor.name else values.tensor
        target.CopyFrom(lazy)
        if target.name != constant.name:
            target.name = constant.name
        return
    array = constant_array(constant)
    if source is not None:
        array = array.astype(onnx_helper.tensor_dtype_to_np_dtype(source.data_type), copy=False)
    target.CopyFrom(numpy_helper.from_array(array))
    if source is not None:
        copy_fields(source, target, skip=_DATA_FIELDS)
    if target.name != constant.name:
        target.name = constant.name


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


def _declare_changed_initializers(source: GraphProto, target: GraphProto) -> None:
    """Corrects inputs (IR version < 4) and value_info that declare an initializer whose dims have changed."""
    old = {tensor.name: list(tensor.dims) for tensor in source.initializer}
    new = {tensor.name: list(tensor.dims) for tensor in target.initializer}
    for info in (*target.input, *target.value_info):
        dims = new.get(info.name)
        if dims is None or dims == old.get(info.name) or not info.type.tensor_type.HasField("shape"):
            continue
        if len(info.type.tensor_type.shape.dim) != len(dims):
            del info.type.tensor_type.shape.dim[:]
            for _ in dims:
                info.type.tensor_type.shape.dim.add()
        _set_dims(info, dims)


def _write_node(node: gs.Node, target: NodeProto, outer: frozenset[str]) -> None:
    origin = source_proto(node)
    inputs = [tensor.name for tensor in node.inputs]
    outputs = [tensor.name for tensor in node.outputs]
    if origin is None:
        target.CopyFrom(onnx_helper.make_node(node.op, inputs, outputs, name=node.name or None, domain=node.domain))
        for name, value in node.attrs.items():
            _write_attribute(node, name, value, None, target, outer)
        return
    if _is_unchanged(node, origin):
        target.CopyFrom(origin)
    else:
        copy_fields(origin, target, skip=("attribute",))
        _write_attributes(node, origin, target, outer)
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


def _is_unchanged(node: gs.Node, origin: NodeProto) -> bool:
    """Whether all attributes are those of the proto and none is a graph, whose nodes would have to be compared."""
    imported = [attribute for attribute in origin.attribute if attribute.type in _IMPORTED]
    if len(imported) != len(node.attrs):
        return False
    for attribute in imported:
        if attribute.type == AttributeProto.GRAPH or attribute.name not in node.attrs:
            return False
        if not _agrees(node.attrs[attribute.name], attribute):
            return False
    return True


def _agrees(value: object, attribute: AttributeProto) -> bool:
    if attribute.ref_attr_name:
        return isinstance(value, gs.Node.AttributeRef) and value.name == attribute.ref_attr_name
    if attribute.type == AttributeProto.TENSOR:
        return isinstance(value, gs.Constant) and isinstance(value._values, LazyValues)
    if attribute.type == AttributeProto.GRAPH:
        return False
    old = onnx_helper.get_attribute_value(attribute)
    if isinstance(old, bytes):
        old = old.decode()
    elif attribute.type == AttributeProto.STRINGS:
        old = [text.decode() for text in old]
    plain = _plain(value)
    return type(plain) is type(_plain(old)) and bool(plain == _plain(old))


def _plain(value: object) -> object:
    """Numbers of Python for those of numpy, lists for other sequences."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _write_attributes(node: gs.Node, origin: NodeProto, target: NodeProto, outer: frozenset[str]) -> None:
    for attribute in origin.attribute:
        if attribute.name in node.attrs:
            _write_attribute(node, attribute.name, node.attrs[attribute.name], attribute, target, outer)
        elif attribute.type not in _IMPORTED:
            target.attribute.add().CopyFrom(attribute)
    known = {attribute.name for attribute in origin.attribute}
    for name, value in node.attrs.items():
        if name not in known:
            _write_attribute(node, name, value, None, target, outer)


def _write_attribute(
    node: gs.Node, name: str, value: object, old: AttributeProto | None, parent: NodeProto, outer: frozenset[str]
) -> None:
    target = parent.attribute.add()
    if old is not None and _agrees(value, old):
        target.CopyFrom(old)
    elif isinstance(value, gs.Graph):
        # A gs.Graph answers for unknown attributes with an error message of its own.
        source: GraphProto = vars(value).get(_ORIGIN) or GraphProto()
        _describe(target, name, AttributeProto.GRAPH, old)
        _write_graph(value, source, target.g, outer)
        target.g.SetInParent()
    elif isinstance(value, gs.Constant):
        _describe(target, name, AttributeProto.TENSOR, old)
        _write_tensor(value, old.t if old is not None and old.type == AttributeProto.TENSOR else None, target.t)
    else:
        _write_plain_attribute(node, name, value, old, target)


def _write_plain_attribute(
    node: gs.Node, name: str, value: object, old: AttributeProto | None, target: AttributeProto
) -> None:
    kind = old.type if old is not None and old.type in _IMPORTED else None
    plain = float(value) if kind == AttributeProto.FLOAT and isinstance(value, int) else _plain(value)
    if kind == AttributeProto.FLOATS and isinstance(plain, list):
        plain = [float(item) for item in plain]
    try:
        if kind is None:
            new = OnnxExporter.export_attributes({name: plain})[0]
        else:
            new = onnx_helper.make_attribute(name, plain, attr_type=kind)
    except (TypeError, ValueError) as error:
        raise TypeError(f"node {node.name!r} ({node.op}): attribute {name!r} can't be {value!r} ({error})") from None
    target.CopyFrom(new)
    if old is not None and old.HasField("doc_string"):
        target.doc_string = old.doc_string


def _describe(target: AttributeProto, name: str, kind: AttributeProto.AttributeType, old: AttributeProto | None) -> None:
    target.name = name
    target.type = kind
    if old is not None and old.HasField("doc_string"):
        target.doc_string = old.doc_string


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


# Protos


def _dense(sparse: SparseTensorProto) -> Array:
    """A sparse tensor as an array; its indices are linear, (NNZ,), or one row a value, (NNZ, rank)."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _element_dtype(constant: gs.Constant) -> np.dtype[Any]:
    values = constant._values
    if isinstance(values, SparseValues):
        return onnx_helper.tensor_dtype_to_np_dtype(values.tensor.values.data_type)
    if isinstance(values, LazyValues):
        return onnx_helper.tensor_dtype_to_np_dtype(values.tensor.data_type)
    return np.asarray(values).dtype


def _kind(dtype: np.dtype[Any]) -> str:
    """'f' for every float and 'i' for every integer type; those of ml_dtypes have no kind of their own."""
    if dtype.kind in "ui" or dtype.name.startswith(("int", "uint")):
        return "i"
    return "f" if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")) else dtype.kind
