"""Types and shapes of values, by ONNX's own inference, without the payloads of large constants."""

from __future__ import annotations

import contextlib
from typing import Any

import onnx
import onnx_ir as ir
import sympy

from onnxprune.cleanup.reading import all_values
from onnxprune.cleanup.symbol_rules import propagate
from onnxprune.cleanup.symbols import as_int
from onnxprune.cleanup.work import Work
from onnxprune.io.walk import nested_graphs

_MOST_SWEEPS = 8
_SMALL = 1024  # bytes; larger constants can't be a shape


def infer_shapes(work: Work) -> None:
    """Adds what follows to what is known of types, shapes and shape arithmetic; takes nothing away.

    ONNX infers, then integers are followed; where they say what a Reshape or an Expand makes, ONNX infers again.
    """
    for _ in range(_MOST_SWEEPS):
        _infer(work)
        work.symbols.values.clear()
        propagate(work, work.symbols)
        if not _fill_in(work):
            return


def _infer(work: Work) -> None:
    """ONNX's inference. Names that it gives to unknown dimensions hold until the next one, which may know more."""
    model = work.model
    for value in all_values(model):
        if value.shape is None or value.producer() is None:
            continue
        if value.type is None:
            value.shape = None  # ONNX has no place for a shape without a type
        elif any(map(_generated, value.shape)):
            value.shape = ir.Shape([None if _generated(d) else d for d in value.shape])
    proto = _structure(model)
    with contextlib.suppress(Exception):  # a model that contradicts itself: what is declared has to do
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        found = {v.name: v for graph in nested_graphs(inferred.graph) for v in graph.value_info}
        for value in all_values(model):
            known = found.get(value.name or "")
            if known is not None and value.producer() is not None:
                _merge(value, known.type)


def _fill_in(work: Work) -> bool:
    """Dimensions that only the arithmetic of shapes tells; whether there were any."""
    found = False
    for node in work.nodes(("Reshape", "Expand", "ConstantOfShape")):
        out = node.outputs[0]
        shape = work.shape(out)
        if shape is not None and None not in shape:
            continue
        dims = _made_shape(work, node)
        if dims is None:
            continue
        named = [
            known if known is not None else work.symbols.dim(d)
            for known, d in zip(shape or [None] * len(dims), dims, strict=False)
        ]
        if out.type is None and node.op_type != "ConstantOfShape":
            out.type = node.inputs[0].type if node.inputs[0] is not None else None
        if out.type is not None and list(shape or ()) != named:
            out.shape = ir.Shape(named)
            found = True
    return found


def _made_shape(work: Work, node: ir.Node) -> list[Any] | None:
    """The shape that a node is told to make, in numbers and expressions."""
    target = work.symbols.elements(work, node.inputs[0 if node.op_type == "ConstantOfShape" else 1])
    if target is None or target.ndim != 1:
        return None
    dims = list(target)
    if node.op_type == "ConstantOfShape":
        return dims
    shape = work.symbols.shape(work, node.inputs[0])
    if node.op_type == "Expand":
        return None if shape is None else _broadcast(shape, dims)
    for k, d in enumerate(dims):
        if as_int(d) == 0 and not work.attribute(node, "allowzero", 0):
            dims[k] = shape[k] if shape is not None and k < len(shape) else None
    if any(as_int(d) == -1 for d in dims):
        at = next(k for k, d in enumerate(dims) if as_int(d) == -1)
        others = [d for k, d in enumerate(dims) if k != at]
        dims[at] = None
        if shape is not None and None not in shape and None not in others:
            dims[at] = _quotient(shape, others)
    return dims


def _quotient(shape: list[Any], others: list[Any]) -> Any:
    """Elements of x over those of the other dimensions, where that is an integer for sure."""
    total, part = sympy.prod(shape), sympy.prod(others)
    if part == 0:
        return None
    found = sympy.cancel(total / part) if not isinstance(total / part, int) else total / part
    plain = sympy.sympify(found)
    return plain if plain.is_integer and plain.is_nonnegative else None


def _broadcast(shape: list[Any], target: list[Any]) -> list[Any] | None:
    rank = max(len(shape), len(target))
    a, b = ([1] * (rank - len(s)) + s for s in (shape, target))
    dims = []
    for x, y in zip(a, b, strict=True):
        if as_int(x) == 1:
            dims.append(y)
        elif as_int(y) == 1 or x == y or (as_int(x) or 0) > 1:
            dims.append(x)
        elif (as_int(y) or 0) > 1:
            dims.append(y)
        else:
            dims.append(None)
    return dims


def _structure(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto, with large constants as inputs of their type and shape."""
    graph = model.graph
    everything = list(graph.initializers.values())
    large = [v for v in everything if v.const_value is not None and v.const_value.nbytes > _SMALL]
    fed = {id(v) for v in graph.inputs}
    added = [v for v in large if id(v) not in fed]
    for value in large:
        del graph.initializers[str(value.name)]
    graph.inputs.extend(added)
    try:
        return ir.serde.serialize_model(model)
    finally:
        for _ in added:
            graph.inputs.pop()
        graph.initializers.clear()
        for value in everything:  # in their order
            graph.initializers.add(value)


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


def _generated(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None and dim.value.startswith("unk__")


def _better(known: int | ir.SymbolicDim, found: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    if isinstance(known, int) or (isinstance(found, ir.SymbolicDim) and (found.value is None or known.value is not None)):
        return known
    return found
