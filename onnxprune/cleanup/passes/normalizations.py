"""Normalizations that are written out, as the one operator they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.expressions import close, number, other, shifted
from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.reductions import given_axes
from onnxprune.cleanup.registry import Declined, node_pass
from onnxprune.cleanup.work import Work


@dataclass(frozen=True)
class _Scaled:
    """What comes behind x/√(mean(x²) + ε): the node that makes the result, and its scale and bias by column."""

    last: ir.Node
    scale: ir.Value
    bias: ir.Value | None = None


@node_pass("layer-norm", phase="fuse", ops=("Sqrt",), since=17)
def layer_norm(work: Work, node: ir.Node) -> bool:
    """(x - mean(x))/√(mean((x - mean(x))²) + ε)·g + b = LayerNormalization(x, g, b) over the last axis.

    1. g is one vector over the last axis; b too, or it is missing.
    2. The square is a product, or Pow with 2; the division is a Div, or a product with the reciprocal.
    3. Nobody else reads what is in between, but x itself may have readers.
    """
    found = _root_mean_square(work, node)
    if found is None:
        return False
    centred, epsilon, divided = found
    centre = work.producer(centred, "Sub")
    if centre is None or centre.inputs[0] is None:
        return False
    x = centre.inputs[0]
    if not _mean(work, centre.inputs[1], x):
        return False
    scaled = _scale(work, divided, x, bias=True)
    inputs = [x, scaled.scale, *([scaled.bias] if scaled.bias is not None else [])]
    work.replace(scaled.last, "LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon})
    return True


@node_pass("rms-norm", phase="fuse", ops=("Sqrt",), since=23)
def rms_norm(work: Work, node: ir.Node) -> bool:
    """x/√(mean(x²) + ε)·g = RMSNormalization(x, g) over the last axis.

    1. g is one vector over the last axis.
    2. As in layer-norm.
    """
    found = _root_mean_square(work, node)
    if found is None:
        return False
    x, epsilon, divided = found
    centre = work.producer(x, "Sub")
    if centre is not None and _mean(work, centre.inputs[1], centre.inputs[0]):
        return False  # a LayerNormalization
    scaled = _scale(work, divided, x, bias=False)
    work.replace(scaled.last, "RMSNormalization", [x, scaled.scale], {"axis": -1, "epsilon": epsilon})
    return True


def _root_mean_square(work: Work, root: ir.Node) -> tuple[ir.Value, float, ir.Node] | None:
    """x, ε and the node that makes x/√(mean(x²) + ε)."""
    inside = shifted(work, root.inputs[0])
    mean = None if inside is None else work.producer(inside[0], "ReduceMean")
    if inside is None or mean is None or not _over_last(work, mean):
        return None
    x = _squared(work, mean.inputs[0])
    below = work.reader(root.outputs[0], "Div", "Reciprocal")
    if x is None or below is None:
        return None
    if full_name(below) == "Reciprocal":
        product = work.reader(below.outputs[0], "Mul")
        return (x, inside[1], product) if product is not None and other(product, below.outputs[0]) is x else None
    if below.inputs[0] is x and below.inputs[1] is root.outputs[0]:
        return x, inside[1], below
    if close(number(work, below.inputs[0]), 1.0):
        product = work.reader(below.outputs[0], "Mul")
        return (x, inside[1], product) if product is not None and other(product, below.outputs[0]) is x else None
    return None


def _squared(work: Work, value: ir.Value | None) -> ir.Value | None:
    node = work.producer(value, "Pow", "Mul")
    if node is None:
        return None
    if full_name(node) == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    return node.inputs[0] if close(number(work, node.inputs[1]), 2.0) else None


def _mean(work: Work, value: ir.Value | None, x: ir.Value | None) -> bool:
    node = work.producer(value, "ReduceMean")
    return node is not None and node.inputs[0] is x and _over_last(work, node)


def _over_last(work: Work, node: ir.Node) -> bool:
    """It runs over the last axis alone, and keeps it."""
    rank = work.rank(node.inputs[0])
    return rank is not None and bool(work.attribute(node, "keepdims", 1)) and given_axes(work, node) == [rank - 1]


def _scale(work: Work, divided: ir.Node, x: ir.Value, *, bias: bool) -> _Scaled:
    """The product with the scale and the sum with the bias behind the division.

    Raises:
        Declined: there is no scale by column.
    """
    shape = work.shape(x)
    last = shape[-1] if shape else None
    product = work.reader(divided.outputs[0], "Mul")
    scale = None if product is None else _vector(work, other(product, divided.outputs[0]), last)
    if product is None or scale is None:
        raise Declined("the normalized tensor is not multiplied by a vector, or others read it")
    added = work.reader(product.outputs[0], "Add") if bias else None
    vector = None if added is None else _vector(work, other(added, product.outputs[0]), last)
    return _Scaled(product, scale) if added is None or vector is None else _Scaled(added, scale, vector)


def _vector(work: Work, value: ir.Value | None, size: object) -> ir.Value | None:
    """A constant by column as a vector of `size`."""
    array = work.constant(value)
    if array is None or value is None or not isinstance(size, int) or array.size != size or array.shape[-1:] != (size,):
        return None
    return value if array.ndim == 1 else work.weight(np.ascontiguousarray(array).reshape(size), value, [value])
