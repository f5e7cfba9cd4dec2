"""Writes a model so that the output file is either the whole new model or what was there before."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError, UsageError
from onnxprune.io.load import MAX_PROTOBUF_BYTES, read_proto
from onnxprune.io.structure import check_self_contained, copy_structure, model_size, payload_bytes
from onnxprune.io.walk import graphs, tensors

# model_size() does not count the few bytes a payload's length takes.
_MARGIN_BYTES = 2**24

# Smaller payloads stay in the model file, where a reader finds shapes and scales without opening the data file.
_INLINE_BYTES = 1024

# The specification recommends page alignment, so that a runtime can map the payloads into memory.
_ALIGNMENT = 4096
_PIECE_BYTES = 1 << 24


def save_model(
    model: ModelProto,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    source_path: str | os.PathLike[str] | None = None,
    folder: Path | None = None,
) -> None:
    """Writes the model to `path`, atomically, and leaves `model` as it is.

    Whatever goes wrong, an interrupt included, no partial or temporary file stays behind. With external data there are
    two files, `<name>` and `<name>.data`; the data file is moved into place first, so the new model never lacks it.

    Args:
        model: A self-contained model, as `load_model` returns it, or one whose external data lies in `folder`.
        path: The output file. An existing one is replaced.
        external_data: Whether initializers of more than 1 KiB go to `<name>.data`. None: only if the model would be
            larger than a protobuf may be (2 GiB).
        source_path: The file the model was made from; neither it nor its external data may be overwritten.
        folder: Where external data of the model lies; it is copied, never held as a whole.

    Raises:
        UsageError: The output is the source, a directory, a device, or in a folder that is missing or can't be written; the
            disk is full; or `external_data=False` and the model is larger than 2 GiB.
        ModelError: A tensor's external data has not been read.
    """
    target = Path(path)
    data_target = target.with_name(target.name + ".data")
    _check_target(target, source_path)
    too_large = model_size(model) > MAX_PROTOBUF_BYTES - _MARGIN_BYTES
    if too_large and external_data is False:
        raise UsageError(f"{target}: the model is larger than one file may be (2 GiB); allow external data")
    if external_data or too_large:
        _check_data_target(data_target, source_path)
        _write_with_data(model, target, data_target, folder)
    else:
        check_self_contained(model)
        with _replacing(target) as file:
            file.write(model.SerializeToString(deterministic=True))


def save_text(text: str, path: str | os.PathLike[str]) -> None:
    """Writes a UTF-8 text file, atomically.

    Raises:
        UsageError: The output is a directory or a device, or in a folder that is missing or can't be written; the disk is
            full.
    """
    save_bytes(text.encode(), path)


def save_bytes(data: bytes | memoryview, path: str | os.PathLike[str]) -> None:
    """Writes a file, atomically.

    Raises:
        UsageError: As `save_text`.
    """
    target = Path(path)
    _check_target(target, None)
    with _replacing(target) as file:
        file.write(data)


def _check_target(target: Path, source_path: str | os.PathLike[str] | None) -> None:
    if target.is_dir():
        raise UsageError(f"{target}: is a directory; name the output file, such as {target / 'model.onnx'}")
    check_folder(target)
    check_replaceable(target)
    if source_path is not None and _same_file(target, Path(source_path)):
        raise UsageError(f"{target}: is the source model itself; choose another output path")


def check_folder(target: Path) -> None:
    """Makes sure that there is a folder for a new file.

    Raises:
        UsageError: what should be one is missing, or is a file.
    """
    if not target.parent.exists():
        raise UsageError(f"{target}: the folder {target.parent} does not exist; create it first")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: {target.parent} is a file, not a folder; choose another output path")


def check_replaceable(target: Path) -> None:
    """Makes sure that a new file may take the place of what is there: a device or a pipe would be gone.

    Raises:
        UsageError: something is there that is no regular file.
    """
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: is not a regular file, and would be replaced by one; choose another output path")


def _check_data_target(data_target: Path, source_path: str | os.PathLike[str] | None) -> None:
    if data_target.is_dir():
        raise UsageError(f"{data_target}: is a directory, but the external data goes there; choose another output path")
    check_replaceable(data_target)
    if source_path is None or not data_target.exists():
        return
    source = Path(source_path)
    if not source.exists():
        return
    entries = (entry for tensor in tensors(read_proto(source)) for entry in tensor.external_data)
    for location in {entry.value for entry in entries if entry.key == "location"}:
        if _same_file(data_target, source.parent / location):
            raise UsageError(f"{data_target}: holds the source model's external data; choose another output path")


def _same_file(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _write_with_data(model: ModelProto, target: Path, data_target: Path, folder: Path | None) -> None:
    if folder is None:
        check_self_contained(model)
    structure = copy_structure(model, keep_bytes=_INLINE_BYTES)
    # The context entered last is left first: the data moves into place, then the model, once both are on the disk.
    with _replacing(target) as file, _replacing(data_target) as data_file:
        _write_payloads(model, structure, data_target.name, data_file, folder)
        file.write(structure.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())


def _write_payloads(model: ModelProto, structure: ModelProto, location: str, file: BinaryIO, folder: Path | None) -> None:
    """Writes the initializers' payloads to `file` and refers to them; other payloads go back into the structure."""
    for graph, bare_graph in zip(graphs(model), graphs(structure), strict=True):
        for tensor, bare in zip(graph.initializer, bare_graph.initializer, strict=True):
            external = tensor.data_location == TensorProto.EXTERNAL
            held = tensor.HasField("raw_data") and not bare.HasField("raw_data") and payload_bytes(tensor) is not None
            if not (external or held):
                continue
            offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
            file.write(bytes(offset - file.tell()))
            length = _copy_external(tensor, folder, file) if external else file.write(tensor.raw_data)
            del bare.external_data[:]
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                bare.external_data.add(key=key, value=value)
            bare.data_location = TensorProto.EXTERNAL
    # ONNX Runtime reads external data of initializers only.
    for tensor, bare in zip(tensors(model), tensors(structure), strict=True):
        moved = bare.data_location == TensorProto.EXTERNAL
        if tensor.HasField("raw_data") and not bare.HasField("raw_data") and not moved:
            bare.raw_data = tensor.raw_data


def _copy_external(tensor: TensorProto, folder: Path | None, file: BinaryIO) -> int:
    """Copies the payload of a tensor from its file, piece by piece; returns its length in bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    assert folder is not None
    length = int(entries.get("length") or payload_bytes(tensor) or 0)
    with (folder / entries["location"]).open("rb") as source:
        source.seek(int(entries.get("offset") or 0))
        left = length
        while left:
            piece = source.read(min(left, _PIECE_BYTES))
            if not piece:
                raise ModelError(f"tensor {tensor.name!r}: its external data ends early; download the file again")
            file.write(piece)
            left -= len(piece)
    return length


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file beside `target` that takes its place when the block ends well, and vanishes when it does not."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _create(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        # Gone after a replace; after anything else, an interrupt too, it must not stay.
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _create(path: Path) -> BinaryIO:
    # Not tempfile: its files are private to the user, and so would be the model.
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666), "wb")


def _unwritable(target: Path, error: OSError) -> UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError(f"{target}: no space left on the device; free some or choose another output path")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{target}: the folder {target.parent} is not writable; choose another output path")
    return UsageError(f"{target}: can't be written ({error.strerror or error}); choose another output path")


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
