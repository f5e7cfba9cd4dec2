"""ONNX Runtime sessions as the checks use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

if TYPE_CHECKING:
    import onnxruntime as ort

_TYPES = {
    "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
    "int16": TensorProto.INT16, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
}  # fmt: skip


def dtype_of(name: str) -> int:
    """`tensor(float)` to `TensorProto.FLOAT`; 0 where it is no tensor."""
    return int(_TYPES.get(name.removeprefix("tensor(").removesuffix(")"), 0))


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A CPU session that runs the graph as it is written.

    Raises:
        RuntimeError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RuntimeError(first_line(error)) from error


def run(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
    """Outputs of one run; the session is gone afterwards.

    Raises:
        RuntimeError: the model can't be loaded or run.
    """
    session = open_session(model)
    known = {i.name for i in session.get_inputs()}
    try:
        return list(session.run(list(outputs), {n: a for n, a in feeds.items() if n in known}))
    except Exception as error:
        raise RuntimeError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line of an error text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
