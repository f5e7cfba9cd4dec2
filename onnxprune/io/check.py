"""Whether a model is valid: payloads against shapes, and everything else against the ONNX specification."""

from pathlib import Path

import onnx.checker
from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError
from onnxprune.io.structure import copy_structure, payload_bytes
from onnxprune.io.walk import tensors

# Payloads up to this many bytes stay in the structure that is checked: the checker looks at their number of values.
_CHECKED_PAYLOAD_BYTES = 1024


def check_payloads(model: ModelProto, path: Path) -> None:
    """Every payload in the file is as long as its tensor's shape says, which `onnx.checker` does not look at.

    Raises:
        ModelError: One is not, or a dim is negative; `path` is named.
    """
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


def check_specification(model: ModelProto, path: Path) -> None:
    """Everything that `onnx.checker` looks at is as the ONNX specification says.

    Raises:
        ModelError: Something is not; `path` is named.
    """
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
