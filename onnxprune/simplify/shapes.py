"""Types and shapes of values, by ONNX's own inference, without the payloads of large constants."""

from __future__ import annotations

import contextlib

import onnx
import onnx_ir as ir

from onnxprune.simplify.work import Work, all_values

_SMALL = 1024  # bytes; larger constants can't be a shape


def infer_shapes(work: Work) -> None:
    """Adds what ONNX infers, data of shapes propagated, to what is known of types and shapes; takes nothing away."""
    model = work.model
    proto = _structure(model)
    with contextlib.suppress(Exception):  # a model that contradicts itself: what is declared has to do
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        found = {v.name: v for graph in _graphs(inferred.graph) for v in graph.value_info}
        for value in all_values(model):
            known = found.get(value.name or "")
            if known is not None and value.producer() is not None:
                _merge(value, known.type)


def _structure(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto, with large constants as inputs of their type and shape."""
    graph = model.graph
    held = [v for v in graph.initializers.values() if v.const_value is not None and v.const_value.nbytes > _SMALL]
    inputs = list(graph.inputs)
    fed = {id(v) for v in inputs}
    for value in held:
        assert value.name is not None
        del graph.initializers[value.name]
        if id(value) not in fed:
            graph.inputs.append(value)
    try:
        return ir.serde.serialize_model(model)
    finally:
        for value in held:
            if id(value) not in fed:
                graph.inputs.remove(value)
        for value in held:
            graph.initializers.add(value)


def _graphs(graph: onnx.GraphProto):  # type: ignore[no-untyped-def]
    from onnxprune.io.load import nested_graphs

    return nested_graphs(graph)


def _merge(value: ir.Value, proto: onnx.TypeProto) -> None:
    """What is known stays; what is inferred fills the gaps."""
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    if shape is None:
        return
    if value.shape is None:
        value.shape = shape
    elif len(shape) == len(value.shape):
        dims = [_better(a, b) for a, b in zip(value.shape, shape, strict=True)]
        if dims != list(value.shape):
            value.shape = ir.Shape(dims)


def _better(known: int | ir.SymbolicDim, found: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    if isinstance(known, int) or (isinstance(found, ir.SymbolicDim) and (found.value is None or known.value is not None)):
        return known
    return found
