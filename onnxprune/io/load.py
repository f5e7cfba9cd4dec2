"""Reads a model file completely, or says in one line what is wrong with it.

`load_model` returns a proto that needs no other file: external data is read into `raw_data`.
"""

import os
from pathlib import Path

import onnx
import onnx.defs
from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxprune.errors import ModelError
from onnxprune.io.check import check_payloads, check_specification
from onnxprune.io.diagnose import diagnose
from onnxprune.io.external import check_external_data, read_external_data

MIN_OPSET = 7
MAX_PROTOBUF_BYTES = 2**31 - 1


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
    check_payloads(model, source)
    read_external_data(model, source)
    check_specification(model, source)
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
    check_payloads(model, source)
    check_external_data(model, source)
    check_specification(model, source)
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
        raise ModelError(f"{path}: {diagnose(data)}") from None
    if not model.HasField("graph"):
        raise ModelError(f"{path}: {diagnose(data, parsed=True)}")
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
