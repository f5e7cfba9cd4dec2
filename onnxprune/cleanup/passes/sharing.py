"""Equal nodes and equal constants become one."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx_ir as ir

from onnxprune.cleanup.reading import full_name, roots
from onnxprune.cleanup.registry import model_pass
from onnxprune.cleanup.work import Work

_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout",
}  # fmt: skip


@model_pass("common-subexpressions", phase="share")
def common_subexpressions(work: Work) -> int:
    """f(x) = f(x): of two nodes with the same operator, attributes and inputs the later one goes.

    1. The operator is of the ONNX domain and the same in every run: random ones, Dropout in training and operators that we
       know nothing about stay.
    2. Nodes with bodies stay.
    3. Both are in the same graph, or the earlier one is in a graph around it.
    4. Of two outputs of the model, both stay: the second one is an Identity of the first.
    """
    count = 0
    for root in roots(work.model):
        work.root = root
        count += _share_in(work, root, {})
    return count


def _share_in(work: Work, graph: ir.Graph | ir.Function, outer: dict[Any, ir.Node]) -> int:
    seen = dict(outer)
    count = 0
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                count += _share_in(work, attribute.as_graph(), seen)
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                count += sum(_share_in(work, g, seen) for g in attribute.as_graphs())
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node and _join(work, node, first):
            count += 1
    return count


def _join(work: Work, node: ir.Node, first: ir.Node) -> bool:
    if full_name(node) == "Identity" and node.outputs[0].is_graph_output():
        return False
    for old, new in zip(node.outputs, first.outputs, strict=True):
        work.substitute(old, new)
    return True


def _key(node: ir.Node) -> Any:
    if full_name(node) != node.op_type or node.op_type in _RANDOM or not node.inputs:
        return None
    attributes = []
    for name, held in sorted(node.attributes.items()):
        if held.is_ref() or held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        value = held.value
        if held.type == ir.AttributeType.TENSOR:
            value = _content(held.as_tensor())
        attributes.append((name, held.type, tuple(value) if isinstance(value, list | tuple) else value))
    try:
        key = (node.op_type, node.overload, tuple(map(id, node.inputs)), len(node.outputs), tuple(attributes))
        hash(key)
    except TypeError:
        return None
    return key


@model_pass("equal-constants", phase="share")
def equal_constants(work: Work) -> int:
    """Equal initializers are stored once, under the name of the first.

    1. They have the same type, shape and bytes.
    2. An initializer that a caller may feed, or that is an output, stays.
    """
    count = 0
    known: dict[Any, ir.Value] = {}
    candidates = [v for v in work.model.graph.initializers.values() if not (v.is_graph_input() or v.is_graph_output())]
    alike: dict[Any, int] = {}
    for value in candidates:
        alike[_form(value)] = alike.get(_form(value), 0) + 1
    for value in candidates:
        if value.const_value is None or alike[_form(value)] < 2:
            continue
        first = known.setdefault(_content(value.const_value), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            count += 1
    return count


def _form(value: ir.Value) -> Any:
    held = value.const_value
    return None if held is None else (held.dtype, tuple(held.shape))


def _content(tensor: ir.TensorProtocol) -> Any:
    """What tells two tensors apart; a digest, for large ones."""
    form = (tensor.dtype, tuple(tensor.shape))
    if tensor.dtype == ir.DataType.STRING:
        return (*form, tuple(tensor.numpy().reshape(-1).tolist()))
    data = tensor.tobytes()
    return (*form, data if len(data) <= 64 else hashlib.sha256(data).digest())
