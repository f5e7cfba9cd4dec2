"""The affine function y = s·x + t of a tensor, and the nodes that compute one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import Array, full_name
from onnxprune.cleanup.registry import Declined
from onnxprune.cleanup.work import Work

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
READ = ("BatchNormalization", "Mul", "Div", "Add", "Sub", "Neg")
_LIMIT = 1 << 24  # bytes of a constant that is looked at


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift.

    Both arrays are float64 and have the rank of x. They are 1 long along axes on which they are constant, and as long as x
    along the others.
    """

    scale: Array
    shift: Array

    @property
    def rank(self) -> int:
        """Number of axes of x."""
        return int(self.scale.ndim)

    @property
    def varies(self) -> frozenset[int]:
        """Axes along which the function is not the same for all of x, as far as their length tells."""
        shape = np.broadcast_shapes(self.scale.shape, self.shift.shape)
        return frozenset(axis for axis, n in enumerate(shape) if n > 1)

    @property
    def scales(self) -> bool:
        """The scale is not 1."""
        return not bool((self.scale == 1).all())

    @property
    def shifts(self) -> bool:
        """The shift is not 0."""
        return bool((self.shift != 0).any())

    def along(self, axis: int, size: int) -> tuple[Array, Array]:
        """Scale and shift as vectors over one axis.

        Raises:
            Declined: they vary along another axis too.
        """
        axis %= self.rank
        other = self.varies - {axis}
        if other:
            raise Declined(f"the constant differs along axis {min(other)}, the weights only along axis {axis}")
        scale, shift = (np.broadcast_to(a.reshape(-1), (size,)) for a in (self.scale, self.shift))
        return scale, shift

    def constant_along(self, axes: frozenset[int] | set[int], what: str) -> None:
        """Raises `Declined` where the function differs along one of `axes`."""
        found = self.varies & {a % self.rank for a in axes}
        if found:
            raise Declined(f"the constant differs along axis {min(found)}, over which {what}")

    def scale_only(self, what: str) -> None:
        """Raises `Declined` where the shift is not 0."""
        if self.shifts:
            raise Declined(f"{what} can't take over a constant that is added")

    def only(self, *, scale: bool) -> Affine:
        """The scale alone, or the shift alone."""
        ones, zeros = np.ones((1,) * self.rank), np.zeros((1,) * self.rank)
        return Affine(self.scale, zeros) if scale else Affine(ones, self.shift)

    def moved(self, move: object) -> Affine:
        """Both arrays put through the same move."""
        assert callable(move)
        return Affine(move(self.scale), move(self.shift))


def affine_of(work: Work, node: ir.Node) -> tuple[int, Affine] | None:
    """Which input of a node is x, and the function of it that the node computes; None where it computes another one.

    Raises:
        Declined: it does, but x could change its shape, or a divisor is 0.
    """
    if node.outputs[0].dtype not in FLOATS and work.dtype(node.inputs[0]) not in FLOATS:
        return None
    if full_name(node) == "BatchNormalization":
        return _normalization(work, node)
    if full_name(node) == "Neg":
        rank = work.rank(node.inputs[0])
        return None if rank is None else (0, Affine(np.full((1,) * rank, -1.0), np.zeros((1,) * rank)))
    return _arithmetic(work, node)


def _arithmetic(work: Work, node: ir.Node) -> tuple[int, Affine] | None:
    if len(node.inputs) != 2 or work.opset < 7:
        return None
    constant = [work.is_constant(x) for x in node.inputs]
    if sum(constant) != 1:
        return None
    data = constant.index(False)
    op = full_name(node)
    if op == "Div" and data == 1:
        return None
    array = work.constant(node.inputs[1 - data], limit=_LIMIT)
    if array is None:
        return None
    c = broadcast(work, node.inputs[data], array)
    one, zero = np.ones((1,) * c.ndim), np.zeros((1,) * c.ndim)
    if op == "Mul":
        return data, Affine(c, zero)
    if op == "Div":
        if (c == 0).any():
            raise Declined("it divides by 0")
        return data, Affine(1 / c, zero)
    if op == "Add":
        return data, Affine(one, c)
    return data, Affine(one, -c) if data == 0 else Affine(-one, c)


def _normalization(work: Work, node: ir.Node) -> tuple[int, Affine] | None:
    used = [out for out in node.outputs[1:] if out.uses() or out.is_graph_output()]
    rank = work.rank(node.inputs[0])
    if used or work.attribute(node, "training_mode", 0) or work.attribute(node, "spatial", 1) != 1 or work.opset < 7:
        raise Declined("it normalizes by the statistics of the batch, or not by channel")
    vectors = [work.constant(x) for x in node.inputs[1:5]]
    if rank is None or rank < 2 or any(v is None for v in vectors):
        return None
    scale, bias, mean, variance = (np.asarray(v, np.float64) for v in vectors)
    scale = scale / np.sqrt(variance + work.attribute(node, "epsilon", 1e-5))
    shape = (1, -1) + (1,) * (rank - 2)
    return 0, Affine(scale.reshape(shape), (bias - mean * scale).reshape(shape))


def broadcast(work: Work, value: ir.Value | None, array: Array) -> Array:
    """A constant operand as an array with the rank of the other one, whose shape it leaves as it is.

    Raises:
        Declined: it doesn't, or that is not known.
    """
    shape = work.shape(value)
    if shape is None:
        raise Declined("the rank of the tensor is not known")
    if array.ndim > len(shape):
        raise Declined("the constant adds axes to the tensor")
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    for axis, (mine, other) in enumerate(zip(full.shape, shape, strict=True)):
        if mine != 1 and mine != other:
            raise Declined(f"the constant may make axis {axis} longer")
    return compact(np.asarray(full, np.float64))


def compact(array: Array) -> Array:
    """The array with axes of length 1 where it repeats one number."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis)
            if (array == first).all():
                array = first
    return array
