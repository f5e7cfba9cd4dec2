"""From a file or a proto to the IR that passes work on, and back, without what that IR has no place for.

The source's proto is kept, without payloads. What is written is the IR's graph, dressed in the source's own declarations:

1. Inputs and outputs are those of the source, to the byte. Inputs that are initializers, as all initializers are below IR
   version 4, are constants: those that are left are listed as inputs in their old order, and below version 4 new ones last.
2. `value_info` is what the source declares for the values that are left; nothing that was inferred is added.
3. Model and graph metadata, opset imports, training info and annotations of tensors that are left are the source's.
4. Sparse initializers are inputs while passes run, so that nothing is assumed of them.

Payloads in external files stay there, and are read when a pass asks for their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx import ModelProto, ValueInfoProto, helper

from onnxprune.cleanup.reading import all_values
from onnxprune.cleanup.work import DECLARED
from onnxprune.io.structure import copy_structure
from onnxprune.io.walk import nested_graphs

_READ = 1 << 16  # bytes; smaller payloads of external files are read at once, and their file is closed


@dataclass
class Source:
    """A model as it was given.

    Attributes:
        bare: its proto, without payloads.
        folder: where its external files are, None where it has none.
        defaults: names of inputs that are initializers and constants all the same.
        told: what it declares for values by name, where it declares one thing only.
    """

    bare: ModelProto
    folder: Path | None
    defaults: frozenset[str]
    told: dict[str, ValueInfoProto]


def take_in(proto: ModelProto, folder: Path | None = None, *, keep_defaults: bool = False) -> tuple[ir.Model, Source]:
    """The model as passes work on it. The proto is not changed, but its payloads are shared.

    Args:
        proto: a valid model; with external data only where `folder` says where.
        folder: of the external files.
        keep_defaults: inputs with an initializer stay inputs, from IR version 4 on; below, they are constants anyway.
    """
    model = ir.serde.deserialize_model(_plain(proto))
    bare = copy_structure(proto)
    for field in (bare.training_info, bare.graph.sparse_initializer):
        del field[:]
    bare.training_info.extend(proto.training_info)
    bare.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    held = set(model.graph.initializers)
    frozen = proto.ir_version < 4 or not keep_defaults
    constant = {v.name for v in model.graph.inputs if v.name in held} if frozen else set()
    source = Source(bare, folder, frozenset(str(n) for n in constant), _told(bare))
    if constant:
        kept = [v for v in model.graph.inputs if v.name not in constant]
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
    for value in all_values(model):
        value.meta[DECLARED] = (value.type, value.shape)
    if folder is not None:
        ir.external_data.set_base_dir(model.graph, folder)
        _read_small(model)
    return model, source


def _plain(proto: ModelProto) -> ModelProto:
    """The model with sparse initializers as inputs; itself where it has none."""
    if not proto.graph.sparse_initializer:
        return proto
    plain = ModelProto()
    plain.CopyFrom(proto)
    known = {i.name for i in plain.graph.input}
    for tensor in plain.graph.sparse_initializer:
        if tensor.values.name not in known:
            plain.graph.input.append(
                helper.make_tensor_value_info(tensor.values.name, tensor.values.data_type, list(tensor.dims))
            )
    del plain.graph.sparse_initializer[:]
    return plain


def _read_small(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        held = value.const_value
        if isinstance(held, ir.ExternalTensor) and held.nbytes <= _READ:
            value.const_value = ir.tensor(held.numpy().copy(), name=held.name, dtype=held.dtype)
            held.release()


def give_back(model: ir.Model, source: Source) -> ModelProto:
    """The proto of what passes made of the model; payloads of external files stay external."""
    found = {id(v): (v.type, v.shape) for v in all_values(model)}
    values = list(all_values(model))
    reshaped = {str(v.name) for v in values if not _as_declared(v, source.told.get(str(v.name)))}
    for value in values:  # what was inferred is not written
        value.type, value.shape = value.meta.get(DECLARED, (None, None)) if value.name not in reshaped else (None, None)
    try:
        made = ir.serde.serialize_model(model)
    finally:
        for value in values:
            value.type, value.shape = found[id(value)]
    _dress(made, source, reshaped)
    return made


def _as_declared(value: ir.Value, info: ValueInfoProto | None) -> bool:
    """The value has the type and shape that the source declares for its name, as far as both are known."""
    if info is None:
        return DECLARED not in value.meta or value.meta[DECLARED][1] is None or _fits(value, value.meta[DECLARED][1])
    if DECLARED not in value.meta and value.shape is None:
        return False
    kind = ir.serde.deserialize_type_proto_for_type(info.type)
    return (value.type is None or value.type == kind) and _fits(value, ir.serde.deserialize_type_proto_for_shape(info.type))


def _fits(value: ir.Value, shape: ir.Shape | None) -> bool:
    if shape is None or value.shape is None:
        return True
    if len(shape) != len(value.shape):
        return False
    return not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(shape, value.shape, strict=True))


def _dress(made: ModelProto, source: Source, reshaped: set[str]) -> None:
    bare = source.bare
    graph = made.graph
    weights = {t.name for t in graph.initializer}
    declared = [i for i in bare.graph.input if i.name not in source.defaults or i.name in weights]
    _refill(graph.input, declared)
    if bare.ir_version < 4:
        listed = {i.name for i in graph.input}
        for tensor in graph.initializer:
            if tensor.name not in listed:
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    _refill(graph.output, bare.graph.output)
    _declare(made, source.told, reshaped)
    for name in ("doc_string", "name"):
        if bare.graph.HasField(name):
            setattr(graph, name, getattr(bare.graph, name))
        else:
            graph.ClearField(name)
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if bare.HasField(name):
            setattr(made, name, getattr(bare, name))
        else:
            made.ClearField(name)
    _refill(made.metadata_props, bare.metadata_props)
    _refill(graph.metadata_props, bare.graph.metadata_props)
    _refill(made.training_info, bare.training_info)
    _restore_opsets(made, bare)
    graph.sparse_initializer.extend(bare.graph.sparse_initializer)
    names = _names(made)
    kept = [a for a in bare.graph.quantization_annotation if a.tensor_name in names]
    _refill(graph.quantization_annotation, kept)


def _refill(field: object, items: Iterable[object]) -> None:
    copies = list(items)
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def _restore_opsets(made: ModelProto, bare: ModelProto) -> None:
    """Imports in the order of the source, at the version of the result."""
    now = {o.domain: o.version for o in made.opset_import}
    del made.opset_import[:]
    for old in bare.opset_import:
        made.opset_import.add(domain=old.domain, version=now.pop(old.domain, old.version))
    for domain, version in now.items():
        if domain != "ai.onnx":
            made.opset_import.add(domain=domain, version=version)


def _told(bare: ModelProto) -> dict[str, ValueInfoProto]:
    told: dict[str, ValueInfoProto] = {}
    ambiguous: set[str] = set()
    for graph in nested_graphs(bare.graph):
        for info in graph.value_info:
            if told.setdefault(info.name, info).type != info.type:
                ambiguous.add(info.name)
    return {name: info for name, info in told.items() if name not in ambiguous}


def _declare(made: ModelProto, told: Mapping[str, ValueInfoProto], reshaped: set[str]) -> None:
    """Declarations of the source, of all values that are left, but for those that have another shape now."""
    for graph in nested_graphs(made.graph):
        own = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
        outside = {v.name for v in (*graph.input, *graph.output)} | reshaped
        _refill(graph.value_info, [told[n] for n in own if n in told and n not in outside])


def _names(model: ModelProto) -> set[str]:
    graph = model.graph
    made = {o for n in graph.node for o in n.output}
    return made | {t.name for t in graph.initializer} | {i.name for i in graph.input}
