"""Rules that follow integers through the operators that compute shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
import sympy

from onnxprune.cleanup.symbols import MOST, PLAIN, Elements, Number, Symbols, as_int

if TYPE_CHECKING:
    from onnxprune.cleanup.work import Work

_Rule: TypeAlias = "Callable[[Work, Symbols, ir.Node], Elements | list[Elements] | None]"


def propagate(work: Work, symbols: Symbols) -> None:
    """Follows integers through the main graph and its bodies."""
    for node in work.nodes():
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None or not node.outputs or node.outputs[0] in symbols.values:
            continue
        try:
            found = rule(work, symbols, node)
        except (IndexError, ValueError, TypeError, ZeroDivisionError, AttributeError):
            continue  # the node contradicts what is known; a run will say so
        if found is None:
            continue
        for out, elements in zip(node.outputs, found if isinstance(found, list) else [found], strict=False):
            if elements is not None and elements.size <= MOST:
                symbols.values[out] = elements


def _all(work: Work, symbols: Symbols, node: ir.Node) -> list[Elements] | None:
    found = [symbols.elements(work, v) for v in node.inputs]
    return None if any(x is None for x in found) else [x for x in found if x is not None]


def _shape(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    shape = symbols.shape(work, node.inputs[0])
    if shape is None:
        return None
    start, end = work.attribute(node, "start", 0), work.attribute(node, "end", None)
    return _array(shape[slice(start, end)])


def _size(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    shape = symbols.shape(work, node.inputs[0])
    if shape is None or None in shape:
        return None
    out = np.empty((), object)
    out[()] = _product(shape)
    return out


def _array(numbers: Sequence[Number | None]) -> Elements:
    out = np.empty(len(numbers), object)
    for k, n in enumerate(numbers):
        out[k] = n
    return out


def _product(numbers: Sequence[Number]) -> Number:
    result: Number = 1
    for n in numbers:
        result = result * n
    return result


def _cast(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    to, held = work.attribute(node, "to"), symbols.elements(work, node.inputs[0])
    if held is None or to not in (int(ir.DataType.INT64), int(ir.DataType.INT32)):
        return None
    return held


def _same(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    return symbols.elements(work, node.inputs[0])


def _concat(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    parts = []
    for value in node.inputs:
        part = symbols.elements(work, value)
        if part is None:
            shape = work.static_shape(value)
            if shape is None or work.dtype(value) not in PLAIN or len(shape) != 1 or shape[0] > MOST:
                return None
            part = np.full(shape, None, object)
        parts.append(part)
    return np.concatenate(parts, axis=work.attribute(node, "axis", 0))


def _gather(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data, index = symbols.elements(work, node.inputs[0]), work.constant(node.inputs[1], limit=512)
    if data is None or index is None:
        return None
    axis = work.attribute(node, "axis", 0)
    return _boxed(np.take(data, index, axis=axis))


def _boxed(found: Any) -> Elements:
    if isinstance(found, np.ndarray):
        return found
    out = np.empty((), object)
    out[()] = found
    return out


def _axes(work: Work, node: ir.Node) -> tuple[int, ...] | None:
    held = work.attribute(node, "axes")
    if held is None and work.input(node, 1) is not None:
        array = work.constant(node.inputs[1], limit=512)
        if array is None:
            raise ValueError("axes are computed")
        held = tuple(array.reshape(-1).tolist())
    return None if held is None else tuple(held)


def _unsqueeze(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data, axes = symbols.elements(work, node.inputs[0]), _axes(work, node)
    return None if data is None or axes is None else np.expand_dims(data, axes)


def _squeeze(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data = symbols.elements(work, node.inputs[0])
    return None if data is None else _boxed(np.squeeze(data, _axes(work, node)))


def _reshape(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data, shape = symbols.elements(work, node.inputs[0]), work.constant(node.inputs[1], limit=512)
    return None if data is None or shape is None or (shape == 0).any() else data.reshape(shape)


def _slice(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data = symbols.elements(work, node.inputs[0])
    if data is None or data.ndim != 1:
        return None
    if work.opset < 10:
        bounds = [work.attribute(node, n, (d,))[0] for n, d in (("starts", 0), ("ends", None), ("axes", 0))] + [1]
    else:
        bounds = []
        for k, default in ((1, 0), (2, None), (3, 0), (4, 1)):
            value = work.input(node, k)
            held = default if value is None else work.scalar(value)
            if value is not None and held is None:
                return None
            bounds.append(held)
    start, end, _, step = bounds
    return data[slice(start, end if end is None or abs(end) < 2**31 - 1 else None, step)]


def _reduce_prod(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data = symbols.elements(work, node.inputs[0])
    if data is None or data.ndim != 1 or any(x is None for x in data):
        return None
    keeps = work.attribute(node, "keepdims", 1)
    return _array([_product(list(data))]) if keeps else _boxed(_product(list(data)))


def _fill(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    shape, held = symbols.elements(work, node.inputs[0]), work.attribute(node, "value")
    sizes = [] if shape is None else [as_int(n) for n in shape.reshape(-1)]
    if shape is None or held is None or held.dtype not in PLAIN or any(n is None for n in sizes):
        return None
    if int(np.prod([n or 0 for n in sizes])) > MOST:
        return None
    return np.full([n or 0 for n in sizes], int(held.numpy().reshape(-1)[0]), object)


def _expand(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    found = _all(work, symbols, node)
    if found is None:
        return None
    sizes = [as_int(n) for n in found[1].reshape(-1)]
    if any(n is None for n in sizes):
        return None
    shape = np.broadcast_shapes(found[0].shape, tuple(n or 0 for n in sizes))
    return np.array(np.broadcast_to(found[0], shape)) if int(np.prod(shape)) <= MOST else None


def _pointwise(function: Callable[..., Number | None]) -> _Rule:
    lifted = np.frompyfunc(lambda *x: None if any(n is None for n in x) else function(*x), 2, 1)

    def rule(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
        found = [symbols.elements(work, v) for v in node.inputs]
        shapes = [work.static_shape(v) for v in node.inputs]
        if all(x is None for x in found):
            return None
        filled = [
            x if x is not None else np.full(s, None, object) if s is not None and np.prod(s) <= MOST else None
            for x, s in zip(found, shapes, strict=True)
        ]
        if len(filled) != 2 or any(x is None for x in filled) or any(work.dtype(v) not in PLAIN for v in node.inputs):
            return None
        return _boxed(lifted(*filled))

    return rule


def _divided(a: Number, b: Number) -> Number | None:
    """Integer division of ONNX rounds towards zero; floor where both are known not to be negative."""
    if as_int(b) == 0:
        return None
    x, y = as_int(a), as_int(b)
    if x is not None and y is not None:
        return int(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)
    quotient = sympy.sympify(a) / b
    if quotient.is_integer:
        return quotient
    return sympy.floor(quotient) if sympy.sympify(a).is_nonnegative and sympy.sympify(b).is_positive else None


def _modulo(a: Number, b: Number) -> Number | None:
    x, y = as_int(a), as_int(b)
    if x is not None and y is not None:
        return x % y if y else None
    return 0 if y and (sympy.sympify(a) / y).is_integer else None


def _equal(a: Number, b: Number) -> Number | None:
    difference = sympy.sympify(a - b)
    return True if difference.is_zero else False if difference.is_zero is False else None


def _less(a: Number, b: Number) -> Number | None:
    difference = sympy.sympify(a - b)
    return True if difference.is_negative else False if difference.is_nonnegative else None


def _greater(a: Number, b: Number) -> Number | None:
    return _less(b, a)


def _extreme(larger: bool) -> Callable[[Number, Number], Number | None]:
    def choose(a: Number, b: Number) -> Number | None:
        if a == b:
            return a
        less = _less(a, b)
        return None if less is None else b if less == larger else a

    return choose


def _where(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    found = [symbols.elements(work, v) for v in node.inputs]
    if found[0] is None or (found[1] is None and found[2] is None):
        return None
    shapes = [work.static_shape(v) for v in node.inputs]
    filled = [x if x is not None else np.full(s or (), None, object) for x, s in zip(found, shapes, strict=True)]
    choose = np.frompyfunc(lambda c, a, b: None if c is None else a if c else b, 3, 1)
    return _boxed(choose(*filled))


def _split(work: Work, symbols: Symbols, node: ir.Node) -> list[Elements] | None:
    data = symbols.elements(work, node.inputs[0])
    if data is None or data.ndim != 1:
        return None
    sizes = work.attribute(node, "split")
    if sizes is None and work.input(node, 1) is not None:
        held = work.constant(node.inputs[1], limit=512)
        sizes = None if held is None else held.tolist()
    if sizes is None:
        sizes = [-(-len(data) // len(node.outputs))] * len(node.outputs)
    return list(np.split(data, np.cumsum(sizes)[:-1]))


def _not(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data = symbols.elements(work, node.inputs[0])
    return None if data is None else _boxed(np.frompyfunc(lambda x: None if x is None else not x, 1, 1)(data))


def _neg(work: Work, symbols: Symbols, node: ir.Node) -> Elements | None:
    data = symbols.elements(work, node.inputs[0])
    return None if data is None else _boxed(np.frompyfunc(lambda x: None if x is None else -x, 1, 1)(data))


_RULES: dict[str, _Rule] = {
    "Shape": _shape, "Size": _size, "Cast": _cast, "Identity": _same, "Concat": _concat, "Gather": _gather,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "Slice": _slice, "ReduceProd": _reduce_prod,
    "ConstantOfShape": _fill, "Expand": _expand, "Where": _where, "Split": _split, "Not": _not, "Neg": _neg,
    "Add": _pointwise(lambda a, b: a + b), "Sub": _pointwise(lambda a, b: a - b), "Mul": _pointwise(lambda a, b: a * b),
    "Div": _pointwise(_divided), "Mod": _pointwise(_modulo), "Equal": _pointwise(_equal), "Less": _pointwise(_less),
    "Greater": _pointwise(_greater), "Max": _pointwise(_extreme(larger=True)), "Min": _pointwise(_extreme(larger=False)),
    "LessOrEqual": _pointwise(lambda a, b: None if (x := _greater(a, b)) is None else not x),
    "GreaterOrEqual": _pointwise(lambda a, b: None if (x := _less(a, b)) is None else not x),
    "And": _pointwise(lambda a, b: bool(a) and bool(b)), "Or": _pointwise(lambda a, b: bool(a) or bool(b)),
}  # fmt: skip
