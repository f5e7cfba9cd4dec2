"""Attributes of nodes: changed in the graph, and written with the type and the doc string they came with."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, NodeProto
from onnx import helper as onnx_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxprune.io.constants import write_tensor
from onnxprune.io.structure import copy_fields
from onnxprune.io.surgeon import remember, source_graph, source_proto

# How the body of a node is written: graph, the proto it was imported from, and the proto to fill.
WriteBody: TypeAlias = Callable[[gs.Graph, GraphProto, GraphProto], None]

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
    remember(node, rest)


def is_unchanged(node: gs.Node, origin: NodeProto) -> bool:
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


def write_attributes(node: gs.Node, target: NodeProto, write_body: WriteBody) -> None:
    """Writes the attributes of the node; those that still agree with its proto are copied.

    Raises:
        TypeError: A value has a type that no attribute has, or another than the attribute that the node had.
    """
    origin = source_proto(node) or NodeProto()
    for attribute in origin.attribute:
        if attribute.name in node.attrs:
            _write_attribute(node, attribute.name, attribute, target.attribute.add(), write_body)
        elif attribute.type not in _IMPORTED:
            target.attribute.add().CopyFrom(attribute)
    known = {attribute.name for attribute in origin.attribute}
    for name in node.attrs:
        if name not in known:
            _write_attribute(node, name, None, target.attribute.add(), write_body)


def _write_attribute(
    node: gs.Node, name: str, old: AttributeProto | None, target: AttributeProto, write_body: WriteBody
) -> None:
    value = node.attrs[name]
    if old is not None and _agrees(value, old):
        target.CopyFrom(old)
    elif isinstance(value, gs.Graph):
        _describe(target, name, AttributeProto.GRAPH, old)
        write_body(value, source_graph(value), target.g)
        target.g.SetInParent()
    elif isinstance(value, gs.Constant):
        _describe(target, name, AttributeProto.TENSOR, old)
        write_tensor(value, old.t if old is not None and old.type == AttributeProto.TENSOR else None, target.t)
    else:
        _write_plain_attribute(node, name, old, target)


def _write_plain_attribute(node: gs.Node, name: str, old: AttributeProto | None, target: AttributeProto) -> None:
    value = node.attrs[name]
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
