"""A model's content, wherever its tensor data is stored: what it is without payloads, its size and its hash.

A payload is the `raw_data` of a tensor. Payloads are what makes a model exceed protobuf's 2 GiB, so nothing here serializes
them: checks, hashes and sizes work on the model's *structure*, a copy without them.
"""

import hashlib
import math
from collections.abc import Collection, Mapping

import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxprune.errors import ModelError
from onnxprune.io.walk import CARRIES_TENSORS, tensors

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
        return any(attribute.type in CARRIES_TENSORS for attribute in message.attribute)
    if isinstance(message, AttributeProto):
        return message.type in CARRIES_TENSORS
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
    check_self_contained(model)
    structure = copy_structure(model)
    for tensor in tensors(structure):
        tensor.ClearField("raw_data")
        tensor.ClearField("data_location")
    digest = hashlib.sha256(structure.SerializeToString(deterministic=True))
    for tensor in tensors(model):
        payload = tensor.raw_data
        digest.update(len(payload).to_bytes(8, "little"))
        digest.update(payload)
    return digest.hexdigest()


def check_self_contained(model: ModelProto) -> None:
    """Makes sure that no payload lies in another file.

    Raises:
        ModelError: One does.
    """
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(f"tensor {tensor.name!r}: its external data has not been read; use load_model")
