"""What a model takes: names, types and shapes of its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.shapes.dims import graph_inputs

Array = NDArray[Any]


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        name: of the input.
        dtype: numpy's; strings are objects.
        dims: size of each axis, or its symbol (`""` where it has none); None where even the rank is open.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...] | None

    @property
    def rank(self) -> int | None:
        """Number of axes; None where it is open."""
        return None if self.dims is None else len(self.dims)

    def fixed(self, axis: int) -> int | None:
        """Size of an axis; None where the model leaves it open or has no such axis."""
        size = self.dims[axis] if self.dims is not None and axis < len(self.dims) else ""
        return size if isinstance(size, int) else None

    def check_shape(self, where: str, array: Array, *, batch: bool = True) -> None:
        """Makes sure that an array has the rank and the fixed sizes of the input.

        Args:
            where: file or other origin of the array, for the error.
            array: `(N, ...)` for any N with `batch`, else exactly as the model wants it.
            batch: the first axis counts samples.

        Raises:
            ModelError: it does not fit.
        """
        if self.dims is None:
            return
        wanted = ["N", *self.dims[1:]] if batch else list(self.dims)
        fits = array.ndim == len(wanted) and all(
            isinstance(n, str) or n == m for n, m in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            shape = ", ".join(str(n or "?") for n in wanted)
            raise ModelError(f"{where}: {described(array)} does not fit input {self.name!r} [{shape}]")

    def check_type(self, where: str, array: Array) -> None:
        """Makes sure that an array can be converted to the input's type without a change of its meaning.

        Floats become other floats, integers others that hold them, bool becomes integer. Nothing else is converted.

        Raises:
            ModelError: it can't.
        """
        kind, wanted = family(array.dtype), family(self.dtype)
        if kind != wanted and (kind, wanted) != ("bool", "integer"):
            hint = f"store it as {self.dtype}"
            if array.dtype == np.uint8 and wanted == "float":
                hint = "pixels need a preprocessing (`preprocess`), or to be 'images' of an npz file"
            raise ModelError(f"{where}: input {self.name!r} takes {self.dtype}, not {described(array)}; {hint}")
        if kind == "integer" and not np.can_cast(array.dtype, self.dtype) and (array.astype(self.dtype) != array).any():
            raise ModelError(f"{where}: values {array.min()}..{array.max()} do not fit input {self.name!r} of {self.dtype}")

    def converted(self, array: Array) -> Array:
        """The array in the input's type, after `check_type`."""
        return np.asarray(array).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Signature:
    """All inputs of a model that have to be fed.

    Attributes:
        inputs: at least one.
        batched: the first axis of all of them counts samples.
        batch: its size where the model fixes it.
    """

    inputs: tuple[Input, ...]
    batched: bool
    batch: int | None


def signature(model: onnx.ModelProto) -> Signature:
    """Reads the inputs of a model.

    Inputs have a batch axis in common where their first axes have the same size, or the same symbol.

    Raises:
        ModelError: it has none, or one that is no tensor.
    """
    inputs = inputs_of(model)
    if not inputs:
        raise ModelError("the model has no inputs that data could be fed to")
    first = {i.dims[0] if i.dims else None for i in inputs if i.dims is not None}
    sizes = {n for n in first if isinstance(n, int)}
    batched = None not in first and (len(first) == 1 or (not sizes and len(first - {""}) <= 1))
    return Signature(inputs, batched, sizes.pop() if batched and sizes else None)


def inputs_of(model: onnx.ModelProto) -> tuple[Input, ...]:
    """Inputs that a caller feeds.

    Raises:
        ModelError: one is no tensor.
    """
    found = []
    for value in graph_inputs(model):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            raise ModelError(f"input {value.name!r} is no tensor; only tensors can be fed from data")
        dims = tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        found.append(Input(value.name, dtype, dims if tensor.HasField("shape") else None))
    return tuple(found)


def family(dtype: np.dtype[Any]) -> str:
    """`float`, `integer`, `bool`, `string` or `other`."""
    if dtype.kind in "bUOST":
        return "bool" if dtype.kind == "b" else "string"
    name = dtype.name.lstrip("bu")  # bfloat16, uint8; those of ml_dtypes have no kind of their own
    return "float" if name.startswith("float") else "integer" if name.startswith("int") else "other"


def described(array: Array) -> str:
    """Type and shape, such as `float32 [8, 3]`."""
    return f"{array.dtype} {list(array.shape)}"


def listed(names: Iterable[str]) -> str:
    """Names in quotes."""
    return ", ".join(repr(n) for n in names) or "none"
