"""Values of constants: read without being kept in the graph, replaced in their element type, written as protos."""

from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import SparseTensorProto, TensorProto, numpy_helper
from onnx import helper as onnx_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxprune.io.structure import copy_fields

Array: TypeAlias = NDArray[Any]

_DATA_FIELDS = frozenset(
    (
        "dims",
        "data_type",
        "segment",
        "float_data",
        "int32_data",
        "string_data",
        "int64_data",
        "double_data",
        "uint64_data",
        "raw_data",
        "external_data",
        "data_location",
    )
)


def constant_array(constant: gs.Constant) -> Array:
    """The values, read without keeping them in the graph; possibly a read-only view.

    Types numpy lacks come as those of ml_dtypes (bfloat16, int4, float8_e4m3fn ...), sparse tensors dense.
    """
    values = constant._values
    if isinstance(values, SparseValues):
        return _dense(values.tensor)
    if isinstance(values, LazyValues):
        return np.asarray(numpy_helper.to_array(values.tensor))
    return np.asarray(values)


def set_constant(constant: gs.Constant, array: Array) -> None:
    """Replaces the values; the array is cast to the element type the constant has.

    Raises:
        TypeError: The cast would change the kind of number, such as float to int.
    """
    dtype = np.dtype(_element_dtype(constant))
    if dtype != array.dtype and _kind(dtype) != _kind(array.dtype):
        raise TypeError(f"constant {constant.name!r} holds {dtype}, got {array.dtype}; convert the array first")
    constant.values = np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(array.shape)


def write_tensor(constant: gs.Constant, source: TensorProto | None, target: TensorProto) -> None:
    """Writes a constant; `source` is the proto it was imported from, None for a new one."""
    values = constant._values
    if isinstance(values, LazyValues) and not isinstance(values, SparseValues):
        lazy = source if source is not None and source.name == values.tensor.name else values.tensor
        target.CopyFrom(lazy)
        if target.name != constant.name:
            target.name = constant.name
        return
    array = constant_array(constant)
    if source is not None:
        array = array.astype(onnx_helper.tensor_dtype_to_np_dtype(source.data_type), copy=False)
    target.CopyFrom(numpy_helper.from_array(array))
    if source is not None:
        copy_fields(source, target, skip=_DATA_FIELDS)
    if target.name != constant.name:
        target.name = constant.name


def _dense(sparse: SparseTensorProto) -> Array:
    """A sparse tensor as an array; its indices are linear, (NNZ,), or one row a value, (NNZ, rank)."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _element_dtype(constant: gs.Constant) -> np.dtype[Any]:
    values = constant._values
    if isinstance(values, SparseValues):
        return onnx_helper.tensor_dtype_to_np_dtype(values.tensor.values.data_type)
    if isinstance(values, LazyValues):
        return onnx_helper.tensor_dtype_to_np_dtype(values.tensor.data_type)
    return np.asarray(values).dtype


def _kind(dtype: np.dtype[Any]) -> str:
    """'f' for every float and 'i' for every integer type; those of ml_dtypes have no kind of their own."""
    if dtype.kind in "ui" or dtype.name.startswith(("int", "uint")):
        return "i"
    return "f" if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")) else dtype.kind
