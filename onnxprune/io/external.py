"""External data: payloads of tensors that lie in files beside the model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError
from onnxprune.io.structure import payload_bytes
from onnxprune.io.walk import tensors


def read_external_data(model: ModelProto, path: Path) -> None:
    """Moves external data of the model at `path` into `raw_data`.

    Raises:
        ModelError: It is missing, too short, can't be read, or lies outside the model's folder.
    """
    for tensor, file, offset, length in _located(model, path):
        file.seek(offset)
        tensor.raw_data = file.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def check_external_data(model: ModelProto, path: Path) -> None:
    """Makes sure that external data could be read; it stays where it is.

    Raises:
        ModelError: As `read_external_data`.
    """
    for _ in _located(model, path):
        pass


def _located(model: ModelProto, path: Path) -> Iterator[tuple[TensorProto, BinaryIO, int, int]]:
    """Each tensor whose payload is in another file: that file, and where the payload starts and how long it is in bytes."""
    folder = os.path.realpath(path.parent)
    files: dict[str, BinaryIO] = {}
    try:
        for tensor in tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                yield tensor, *_locate(tensor, path, folder, files)
    finally:
        for file in files.values():
            file.close()


def _locate(tensor: TensorProto, path: Path, folder: str, files: dict[str, BinaryIO]) -> tuple[BinaryIO, int, int]:
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
            files[target] = open(target, "rb")  # noqa: SIM115 - closed by `_located`, it serves many tensors
        except OSError as error:
            raise ModelError(f"{where}: {location!r} can't be read ({error.strerror})") from None
    return files[target]
