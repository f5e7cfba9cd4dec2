"""Integers that are known, or known as an expression of dimensions: the arithmetic of shapes before there is a shape.

A dimension with a name is a symbol, an integer that is not negative. Equal names are equal numbers (ONNX IR spec, "Tensor
shapes"). What is computed from them stays an expression, and is a number as soon as the symbols cancel out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
import sympy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxprune.cleanup.reading import Dim
    from onnxprune.cleanup.work import Work

Number: TypeAlias = Any  # int or sympy expression
Elements: TypeAlias = NDArray[np.object_]  # of Numbers; None where nothing is known
MOST = 64  # elements of an array that is followed
PLAIN = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


@dataclass
class Symbols:
    """Expressions of the dimensions of a model, and the names that unnamed ones were given.

    Attributes:
        made: name of a dimension that we gave it -> the expression that it stands for.
        values: what is known of integer tensors of up to 64 elements.
    """

    made: dict[str, Number] = field(default_factory=dict)
    values: dict[ir.Value, Elements] = field(default_factory=dict)

    def number(self, dim: Dim) -> Number | None:
        """A dimension as a number or an expression."""
        if dim is None or isinstance(dim, int):
            return dim
        return self.made[dim] if dim in self.made else sympy.Symbol(dim, integer=True, nonnegative=True)

    def dim(self, number: Number | None) -> Dim:
        """A number or expression as a dimension, under a name of its own where it needs one."""
        plain = as_int(number)
        if plain is not None or number is None:
            return plain
        if isinstance(number, sympy.Symbol):
            return str(number)
        name = f"={number}"  # no exporter gives such a name, so it can't be taken for one that says less
        self.made[name] = number
        return name

    def shape(self, work: Work, value: ir.Value | None) -> list[Number | None] | None:
        """The shape of a value in numbers and expressions; None for unknown dimensions."""
        dims = work.shape(value)
        return None if dims is None else [self.number(d) for d in dims]

    def elements(self, work: Work, value: ir.Value | None) -> Elements | None:
        """The elements of an integer tensor, as far as they are known."""
        if value is None:
            return None
        if value in self.values:
            return self.values[value]
        if not work.is_constant(value) or work.dtype(value) not in PLAIN:
            return None
        array = work.constant(value, limit=MOST * 8)
        if array is None or array.size > MOST:
            return None
        return _objects(array)


def as_int(number: Number | None) -> int | None:
    """The number where it is one, None where it depends on dimensions."""
    if isinstance(number, bool | np.bool_):
        return int(number)
    if isinstance(number, int | np.integer):
        return int(number)
    if isinstance(number, sympy.Integer):
        return int(number)
    if number is sympy.true or number is sympy.false:
        return int(bool(number))
    return None


def _objects(array: NDArray[Any]) -> Elements:
    out = np.empty(array.shape, object)
    out[...] = np.vectorize(int, otypes=[object])(array) if array.size else 0
    return out
