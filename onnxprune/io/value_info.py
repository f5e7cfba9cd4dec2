"""Declared shapes of values: what a model says in value_info, inputs and outputs."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from onnx import GraphProto, ModelProto, ValueInfoProto

from onnxprune.errors import ModelError
from onnxprune.io.walk import defined_names, nested_graphs

Dim: TypeAlias = int | str | None


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
        existing = defined_names(graph)
        stale = [i for i, info in enumerate(graph.value_info) if info.name not in existing]
        for i in reversed(stale):
            del graph.value_info[i]
        for info in (*graph.value_info, *graph.input, *graph.output):
            if info.name in shapes:
                _set_dims(info, shapes[info.name])


def declare_changed_initializers(source: GraphProto, target: GraphProto) -> None:
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
