"""Reads a model file completely, or says in one line what is wrong with it.

`load_model` returns a proto that needs no other file: external data is read into `raw_data`. `sha256_model` and
`model_size` describe a model's content, wherever its tensor data was stored. Nothing here serializes a payload (the
`raw_data` of a tensor): payloads are what makes a model exceed protobuf's 2 GiB, so checks, hashes and sizes work on
the model's *structure*, a copy without them.
"""

import hashlib
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx.checker
import onnx.defs
import onnx.helper
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxprune.errors import ModelError

MIN_OPSET = 7
MAX_PROTOBUF_BYTES = 2**31 - 1

# Payloads up to this many bytes stay in the structure that is checked: the checker looks at their number of values.
_CHECKED_PAYLOAD_BYTES = 1024

_FOREIGN_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the model; run `git lfs pull`"),
    (0, b"\x1f\x8b", "is gzip-compressed; decompress it first"),
    (0, b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint?); export it to ONNX first"),
    (0, b"\x80\x02", "is a Python pickle (a PyTorch checkpoint?); export it to ONNX first"),
    (0, b"\x89HDF", "is an HDF5 file (a Keras model?); convert it to ONNX first"),
    (4, b"ORTM", "is in ONNX Runtime's ORT format; use the ONNX file it was made from"),
    (4, b"TFL3", "is a TensorFlow Lite model; convert it to ONNX first"),
)

_CARRIES_TENSORS = (
    AttributeProto.TENSOR,
    AttributeProto.GRAPH,
    AttributeProto.SPARSE_TENSOR,
    AttributeProto.TENSORS,
    AttributeProto.GRAPHS,
    AttributeProto.SPARSE_TENSORS,
)

_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}


def load_model(path: str | os.PathLike[str]) -> ModelProto:
    """Reads a model with all its data and checks it against the ONNX specification.

    Args:
        path: A binary ONNX file. Its external data has to lie in the same folder or below.

    Returns:
        The model, self-contained: no tensor refers to another file.

    Raises:
        ModelError: The file is missing, empty, truncated or not an ONNX model; the IR version or opset is not
            supported; external data is missing, too short or outside the model's folder; a node or tensor is invalid.
            Ops of domains onnx doesn't know are allowed.
    """
    source = Path(path)
    model = read_proto(source)
    _check_versions(model, source)
    _check_payloads(model, source)
    _read_external_data(model, source)
    _check_specification(model, source)
    return model


def load_in_place(path: str | os.PathLike[str], *, oldest: int = MIN_OPSET) -> ModelProto:
    """Reads a model, but leaves external data where it is: these tensors have no `raw_data`. That it is sound is checked.

    Args:
        path: A binary ONNX file.
        oldest: The oldest opset that is taken.

    Raises:
        ModelError: As `load_model`.
    """
    source = Path(path)
    model = read_proto(source)
    _check_versions(model, source, oldest)
    _check_payloads(model, source)
    folder = os.path.realpath(source.parent)
    files: dict[str, BinaryIO] = {}
    try:
        for tensor in tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                _locate_external(tensor, source, folder, files)
    finally:
        for file in files.values():
            file.close()
    _check_specification(model, source)
    return model


def read_proto(path: Path) -> ModelProto:
    """Parses a model file; external data is left where it is, and nothing but the presence of nodes is checked.

    Raises:
        ModelError: The file can't be read, or is not an ONNX model with at least one node.
    """
    data = _read_bytes(path)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: {_diagnose(data)}") from None
    if not model.HasField("graph"):
        raise ModelError(f"{path}: {_diagnose(data, parsed=True)}")
    if not model.graph.node:
        raise ModelError(f"{path}: the model's graph has no nodes; there is nothing to work on")
    return model


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path}: is a directory; name the .onnx file in it")
    try:
        size = path.stat().st_size
        if size > MAX_PROTOBUF_BYTES:
            raise ModelError(
                f"{path}: {size} bytes is more than a protobuf may have (2 GiB); "
                "save the model with external data or check the download"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror})") from None
    if not data:
        raise ModelError(f"{path}: is empty; check the export or the download")
    return data


def _diagnose(data: bytes, parsed: bool = False) -> str:
    """What a file is that does not hold a model: another format, half a model, or no model at all."""
    for offset, magic, text in _FOREIGN_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            return text
    if _is_truncated(data):
        return "is truncated; export or download it again"
    if parsed:
        return "is a protobuf, but not an ONNX model (it has no graph); name a model file"
    return "is not an ONNX model (not a protobuf); name a binary .onnx file"


def _is_truncated(data: bytes) -> bool:
    """Whether the top level reads like the fields of a `ModelProto` whose last one goes on past the end of the file."""
    known = ModelProto.DESCRIPTOR.fields_by_number
    at = fields = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number not in known or wire_type not in (0, 2):
            return False
        value, at = _varint(data, at)
        if wire_type == 2:
            at += value
        if at > len(data):
            # The first field of every writer is the IR version; a lone string is no model.
            return fields > 0 or number == ModelProto.GRAPH_FIELD_NUMBER
        fields += 1
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at` and where the next value starts; past the end of `data` if it is cut off."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    return value, at + 1


def _check_versions(model: ModelProto, path: Path, oldest: int = MIN_OPSET) -> None:
    if not model.ir_version or not model.opset_import:
        raise ModelError(f"{path}: the model has no IR version or no opset import; export or download it again")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path}: IR version {model.ir_version} is newer than onnx {onnx.__version__} knows "
            f"({onnx.IR_VERSION}); update onnx"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            continue
        if opset.version > newest:
            raise ModelError(
                f"{path}: opset {opset.version} is newer than onnx {onnx.__version__} knows ({newest}); update onnx"
            )
        if opset.version < oldest:
            raise ModelError(
                f"{path}: opset {opset.version} is older than {oldest}, the oldest supported one; "
                "convert it with onnx.version_converter"
            )


def _read_external_data(model: ModelProto, path: Path) -> None:
    """Moves external data into `raw_data`."""
    folder = os.path.realpath(path.parent)
    files: dict[str, BinaryIO] = {}
    try:
        for tensor in tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.raw_data = _external_payload(tensor, path, folder, files)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
    finally:
        for file in files.values():
            file.close()


def _external_payload(tensor: TensorProto, path: Path, folder: str, files: dict[str, BinaryIO]) -> bytes:
    file, offset, length = _locate_external(tensor, path, folder, files)
    file.seek(offset)
    return file.read(length)


def _locate_external(tensor: TensorProto, path: Path, folder: str, files: dict[str, BinaryIO]) -> tuple[BinaryIO, int, int]:
    """The file of a tensor's payload, where it starts and how long it is, in bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}: external data of tensor {tensor.name!r}"
    location = entries.get("location", "")
    file = _open_external(location, where, folder, files)
    size = os.fstat(file.fileno()).st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise ModelError(f"{where}: offset and length have to be integers; export the model again") from None
    expected = payload_bytes(tensor)
    if length is None:
        length = expected if expected is not None else size - offset
    if expected is not None and length != expected:
        raise ModelError(f"{where} has {length} bytes, shape {list(tensor.dims)} needs {expected}; export the model again")
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{where} ends at byte {offset + length} of {location!r}, which has only {size}; download that file again"
        )
    return file, offset, length


def _open_external(location: str, where: str, folder: str, files: dict[str, BinaryIO]) -> BinaryIO:
    if not location:
        raise ModelError(f"{where} has no location; export the model again")
    # A model is untrusted input: it must not make us read files its sender could not have sent along with it.
    parts = location.replace("\\", "/").split("/")
    target = os.path.realpath(os.path.join(folder, location))
    outside = os.path.isabs(location) or ".." in parts or os.path.commonpath([folder, target]) != folder
    if outside:
        raise ModelError(
            f"{where} points outside the model's folder ({location!r}); put the file beside the model, no links"
        )
    if target not in files:
        if not os.path.isfile(target):
            raise ModelError(f"{where} is missing: no file {location!r} in the model's folder; put it there")
        try:
            files[target] = open(target, "rb")  # noqa: SIM115 - closed by the caller, it serves many tensors
        except OSError as error:
            raise ModelError(f"{where}: {location!r} can't be read ({error.strerror})") from None
    return files[target]


def _check_payloads(model: ModelProto, path: Path) -> None:
    """Every payload in the file is as long as its tensor's shape says, which `onnx.checker` does not look at."""
    for tensor in tensors(model):
        if any(dim < 0 for dim in tensor.dims):
            raise ModelError(f"{path}: tensor {tensor.name!r} has a negative dim {list(tensor.dims)}; export it again")
        expected = payload_bytes(tensor)
        if expected is None or not tensor.HasField("raw_data"):
            continue
        actual = len(tensor.raw_data)
        if actual != expected:
            raise ModelError(
                f"{path}: tensor {tensor.name!r} has {actual} bytes of data, "
                f"shape {list(tensor.dims)} needs {expected}; export the model again"
            )


def _check_specification(model: ModelProto, path: Path) -> None:
    problem = complaint(model)
    if problem:
        raise ModelError(f"{path}: {problem}")


def complaint(model: ModelProto) -> str:
    """What `onnx.checker` says of a model of any size, external data or not; empty where it is valid."""
    structure = copy_structure(model, keep_bytes=_CHECKED_PAYLOAD_BYTES)
    for tensor, stripped in zip(tensors(model), tensors(structure), strict=True):
        if tensor.data_location == TensorProto.EXTERNAL:
            stripped.ClearField("external_data")
            stripped.ClearField("data_location")
        if not stripped.HasField("raw_data") and (
            tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL
        ):
            # The checker counts values; an empty tensor is the only one that may come without any.
            del stripped.dims[:]
            stripped.dims.append(0)
    try:
        onnx.checker.check_model(structure.SerializeToString())
    except (onnx.checker.ValidationError, ValueError) as error:
        return _one_line(str(error))
    return ""


def _one_line(message: str) -> str:
    """`onnx.checker`'s message on one line, with the node it is about."""
    lines = [line.strip().removeprefix("==> ") for line in message.splitlines()]
    text = "; ".join(line for line in lines if line)
    return f"does not follow the ONNX specification: {text}"


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
            elif attribute.type in _CARRIES_TENSORS:
                yield from attribute.tensors
                yield from _sparse_parts(attribute.sparse_tensors)
                if attribute.HasField("sparse_tensor"):
                    yield from _sparse_parts([attribute.sparse_tensor])


def _sparse_parts(sparse: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def payload_bytes(tensor: TensorProto) -> int | None:
    """Bytes the elements take as `raw_data`; None for strings and for types without a known width."""
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else (math.prod(tensor.dims) * bits + 7) // 8


def copy_structure(model: ModelProto, keep_bytes: int = 0) -> ModelProto:
    """A copy of the model without the payloads longer than `keep_bytes`: their tensors have no `raw_data`."""
    copy = ModelProto()
    _strip_fields(model, copy, keep_bytes)
    return copy


def _strip_fields(source: Message, target: Message, keep_bytes: int) -> None:
    for field, value in source.ListFields():
        name = field.name
        if isinstance(value, Message):
            part = getattr(target, name)
            part.SetInParent()
            _strip_message(value, part, keep_bytes)
        elif field.message_type is not None:
            for item in value:
                _strip_message(item, getattr(target, name).add(), keep_bytes)
        elif isinstance(value, int | float | str | bytes):
            setattr(target, name, value)
        else:
            getattr(target, name).extend(value)


def _strip_message(source: Message, target: Message, keep_bytes: int) -> None:
    if isinstance(source, TensorProto):
        _strip_tensor(source, target, keep_bytes)
    elif _may_hold_payload(source):
        _strip_fields(source, target, keep_bytes)
    else:
        target.CopyFrom(source)


def _may_hold_payload(message: Message) -> bool:
    if isinstance(message, NodeProto):
        return any(attribute.type in _CARRIES_TENSORS for attribute in message.attribute)
    if isinstance(message, AttributeProto):
        return message.type in _CARRIES_TENSORS
    holders = (GraphProto, SparseTensorProto, onnx.FunctionProto, onnx.TrainingInfoProto)
    return isinstance(message, holders)


def _strip_tensor(source: TensorProto, target: TensorProto, keep_bytes: int) -> None:
    # Reading raw_data copies it, so its length is taken from the shape.
    size = payload_bytes(source)
    if size is None:
        size = len(source.raw_data)
    if size <= keep_bytes or not source.HasField("raw_data"):
        target.CopyFrom(source)
    else:
        copy_fields(source, target, skip=("raw_data",))


def copy_fields(source: Message, target: Message, skip: Collection[str]) -> None:
    """Adds the fields of a proto that are set to another of its type, but for those named in `skip`."""
    for field in source.DESCRIPTOR.fields:
        name = field.name
        if name in skip:
            continue
        value = getattr(source, name)
        if isinstance(value, Message):
            if source.HasField(name):
                getattr(target, name).CopyFrom(value)
        elif isinstance(value, int | float | str | bytes):
            if source.HasField(name):
                setattr(target, name, value)
        elif field.message_type is not None:
            for item in value:
                getattr(target, name).add().CopyFrom(item)
        elif len(value):
            getattr(target, name).extend(value)


def model_size(model: ModelProto) -> int:
    """Bytes the model takes when it is saved, external data included, up to a few bytes per tensor."""
    payloads = (_stored_bytes(tensor) for tensor in tensors(model))
    structure: int = copy_structure(model).ByteSize()
    return structure + sum(payloads)


def _stored_bytes(tensor: TensorProto) -> int:
    if not tensor.HasField("raw_data") and tensor.data_location != TensorProto.EXTERNAL:
        return 0
    size = payload_bytes(tensor)
    return len(tensor.raw_data) if size is None else size


def sha256_model(model: ModelProto) -> str:
    """The SHA-256 of the model's content in hex, the same whether its data was stored in the file or beside it.

    Hashes the deterministic serialization of the structure, then the payloads in the order of `tensors`, each after its
    length (8 bytes, little endian).

    Raises:
        ModelError: A tensor's external data has not been read.
    """
    structure = copy_structure(model)
    for tensor in tensors(structure):
        tensor.ClearField("raw_data")
        tensor.ClearField("data_location")
    digest = hashlib.sha256(structure.SerializeToString(deterministic=True))
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(f"tensor {tensor.name!r}: its external data has not been read; use load_model")
        payload = tensor.raw_data
        digest.update(len(payload).to_bytes(8, "little"))
        digest.update(payload)
    return digest.hexdigest()
