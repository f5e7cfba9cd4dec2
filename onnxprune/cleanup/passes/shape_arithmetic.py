"""Integers that follow from shapes, also from shapes with symbolic dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import Declined, model_pass, node_pass
from onnxprune.cleanup.symbols import Elements, as_int
from onnxprune.cleanup.work import Work

_SOURCES = {"Constant", "ConstantOfShape"}


@model_pass("fold-shapes", phase="fold")
def fold_shapes(work: Work) -> int:
    """An integer tensor whose elements follow from shapes is a constant, or equal to one that was computed before.

    1. All elements are numbers: the tensor is a constant.
    2. All elements are known as expressions of symbolic dimensions, and an earlier tensor of the main graph has the same
       type, shape and elements: it is read instead. Equal names of dimensions are equal numbers.
    3. Outputs of graphs stay, as they have to be made by a node.
    """
    count = 0
    earlier: dict[Any, ir.Value] = {}
    for node in work.nodes():
        if full_name(node) in _SOURCES:
            continue
        for out in node.outputs:
            elements = work.symbols.values.get(out)
            dtype = work.dtype(out)
            if elements is None or dtype is None or out.is_graph_output() or not out.uses() or work.is_constant(out):
                continue
            numbers = [as_int(n) for n in elements.reshape(-1)]
            if all(n is not None for n in numbers):
                array = np.array(numbers, dtype.numpy()).reshape(elements.shape)
                work.substitute(out, work.weight(array, out))
                count += 1
            elif node.graph is work.model.graph and all(n is not None for n in elements.reshape(-1)):
                key = (dtype, elements.shape, tuple(map(str, elements.reshape(-1))))
                first = earlier.setdefault(key, out)
                if first is not out:
                    work.substitute(out, first)
                    count += 1
    return count


@node_pass("reshape-target", phase="fold", ops=("Reshape",))
def reshape_target(work: Work, node: ir.Node) -> bool:
    """Reshape(x, [d0, 64, d1]) = Reshape(x, [0, 64, -1]): a computed target becomes a constant.

    1. A 0 copies the dimension of x at the same place (`allowzero` is 0): for elements that equal it.
    2. One element of all is -1: one that is known not to be negative, where the others are not 0.
    3. Elements that are numbers stay; a 0 or -1 among them means the same in both.
    """
    if work.is_constant(node.inputs[1]) or work.attribute(node, "allowzero", 0):
        return False
    target = work.symbols.elements(work, node.inputs[1])
    shape = work.symbols.shape(work, node.inputs[0])
    if target is None or target.ndim != 1:
        return False
    found = _target(target, shape)
    if found is None:
        raise Declined("more than one dimension of the target depends on data or on other axes")
    value = work.weight(np.array(found, np.int64), node.inputs[1] or node.outputs[0])
    work.set_input(node, 1, value)
    return True


def _target(target: Elements, shape: list[Any] | None) -> list[int] | None:
    """Numbers for a target, None where it takes more than one -1."""
    numbers = [as_int(n) for n in target]
    free = -1 not in numbers
    result: list[int] = []
    for k, (wanted, plain) in enumerate(zip(target, numbers, strict=True)):
        copied = shape is not None and k < len(shape) and shape[k] is not None and wanted == shape[k]
        if plain is not None:
            result.append(plain)
        elif wanted is not None and copied:
            result.append(0)
        elif free:
            free = False
            result.append(-1)
        else:
            return None
    return result


@node_pass("expand-target", phase="fold", ops=("Expand",))
def expand_target(work: Work, node: ir.Node) -> bool:
    """Expand(x, [d0, 64]) = Expand(x, [1, 64]) where d0 is the size of x there: a computed target becomes a constant.

    1. A 1 in the target keeps the dimension of x (broadcasting in both directions): for elements that equal it.
    2. Elements that are numbers stay.
    """
    if work.is_constant(node.inputs[1]):
        return False
    target = work.symbols.elements(work, node.inputs[1])
    shape = work.symbols.shape(work, node.inputs[0])
    if target is None or shape is None or target.ndim != 1:
        return False
    result = []
    offset = len(target) - len(shape)
    for k, wanted in enumerate(target):
        plain, at = as_int(wanted), k - offset
        if plain is not None:
            result.append(plain)
        elif at >= 0 and wanted is not None and shape[at] is not None and wanted == shape[at]:
            result.append(1)
        else:
            return False
    work.set_input(node, 1, work.weight(np.array(result, np.int64), node.inputs[1] or node.outputs[0]))
    return True
