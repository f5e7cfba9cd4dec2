"""ONNX Runtime sessions as the checks use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import UsageError
from onnxprune.proof.widen import is_narrow, widened
from onnxprune.statistics.providers import CPU, Providers

if TYPE_CHECKING:
    import onnxruntime as ort

_INLINE = 4096  # bytes; smaller weights stay in the model's bytes
_ARRAYS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
_TYPES = {
    "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
    "int16": TensorProto.INT16, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
}  # fmt: skip


def dtype_of(name: str) -> int:
    """`tensor(float)` to `TensorProto.FLOAT`; 0 where it is no tensor."""
    return int(_TYPES.get(name.removeprefix("tensor(").removesuffix(")"), 0))


def open_session(
    model: onnx.ModelProto,
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    optimize: bool = False,
    often: bool = False,
    providers: Providers = CPU,
    folder: Path | None = None,
) -> tuple[ort.InferenceSession, list[object]]:
    """A session that runs the graph as it is written, and what has to live as long as it.

    Weights are handed over as arrays: the file's bytes are never built, and models beyond 2 GB run too.

    Args:
        model: any model.
        weights: initializers of the main graph that take other values, of the same shape and type.
        optimize: let ONNX Runtime rewrite the graph as it does by default.
        often: it runs many times: weights are laid out for speed, and memory is kept between runs.
        providers: that it runs on.
        folder: where its external data lies, which is mapped into memory, not read.

    Raises:
        RuntimeError: ONNX Runtime refuses the model.
        UsageError: a provider did not start.
    """
    import onnxruntime as ort

    from onnxprune.io.structure import copy_structure

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = often
    options.add_session_config_entry("session.disable_prepacking", "0" if often else "1")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    structure = copy_structure(model, keep_bytes=_INLINE)
    names, values = [], []
    for full, bare in zip(model.graph.initializer, structure.graph.initializer, strict=True):
        given = (weights or {}).get(full.name)
        if given is not None:
            bare.CopyFrom(numpy_helper.from_array(given, full.name)) if given.nbytes <= _INLINE else None
        if full.data_type in _ARRAYS and full.HasField("raw_data") and len(full.raw_data) > _INLINE:
            array = (
                given
                if given is not None
                else np.frombuffer(full.raw_data, helper.tensor_dtype_to_np_dtype(full.data_type)).reshape(full.dims)
            )
            names.append(full.name)
            values.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            bare.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
                bare.external_data.add(key=key, value=value)
        elif full.HasField("raw_data") and not bare.HasField("raw_data"):
            bare.raw_data = full.raw_data
    _keep_attributes(model, structure)
    try:
        if names:
            options.add_external_initializers(names, values)
        session = providers.open(structure.SerializeToString(), options)
    except UsageError:
        raise
    except Exception as error:
        raise RuntimeError(first_line(error)) from error
    return session, [options, values]


def _keep_attributes(model: onnx.ModelProto, structure: onnx.ModelProto) -> None:
    """Payloads of attributes and bodies stay in the file."""
    from onnxprune.io.walk import graphs

    for k, (full, bare) in enumerate(zip(graphs(model), graphs(structure), strict=True)):
        if k:
            for a, b in zip(full.initializer, bare.initializer, strict=True):
                b.CopyFrom(a)
        for n, m in zip(full.node, bare.node, strict=True):
            for a, b in zip(n.attribute, m.attribute, strict=True):
                if a.HasField("t"):
                    b.t.CopyFrom(a.t)
                for t, u in zip(a.tensors, b.tensors, strict=True):
                    u.CopyFrom(t)
        for a, b in zip(full.sparse_initializer, bare.sparse_initializer, strict=True):
            b.CopyFrom(a)


def run(
    model: onnx.ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    optimize: bool = False,
    folder: Path | None = None,
) -> list[NDArray[Any]]:
    """Outputs of one run; the session is gone afterwards.

    Args:
        model: any model.
        feeds: inputs by name; names that the model has not are left out.
        outputs: which to compute.
        weights: see `open_session`.
        optimize: as ONNX Runtime runs it by default.
        folder: where its external data lies.

    A bfloat16 model is run in float32.

    Raises:
        RuntimeError: the model can't be loaded or run.
    """
    if is_narrow(model):
        model = widened(model)
        feeds = {n: _wide(a) for n, a in feeds.items()}
        weights = {n: _wide(a) for n, a in (weights or {}).items()}
    if not outputs:  # ONNX Runtime would compute all of them
        return []
    session, alive = open_session(model, weights, optimize=optimize, folder=folder)
    known = {i.name for i in session.get_inputs()}
    try:
        return list(session.run(list(outputs), {n: a for n, a in feeds.items() if n in known}))
    except Exception as error:
        raise RuntimeError(first_line(error)) from error
    finally:
        del session, alive


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def first_line(error: Exception) -> str:
    """The first line of an error text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
