"""Sizes for symbolic dimensions: distinct and at least 2, so that no axis hides behind another or behind broadcasting."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import onnx

_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}
_SPATIAL = (64, 96, 128, 160, 192)
_PLAIN = (2, 7, 5, 11, 13, 17, 19, 23, 29, 31)
_LONG = (2, 576, 640, 768, 896, 1024)


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller feeds: in IR < 4 initializers are listed as inputs too, and are left out."""
    weights = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [i for i in model.graph.input if i.name not in weights]


def assignments(
    model: onnx.ModelProto, given: Mapping[str, Sequence[int]] | None = None
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Candidate concrete shapes of the inputs, the most telling first.

    Every symbol gets a size of its own; where a model then contradicts itself (exporters give one dimension two names),
    the next candidates use one size per axis position, then other sizes, among them lengths of audio, which images have not.

    Args:
        model: its inputs may have symbolic or unknown dimensions.
        given: shapes that the user fixed, by input name.
    """
    given = dict(given or {})
    pictures = all(_pictorial(v) for v in graph_inputs(model) if v.name not in given)
    for by_position, sizes_of, start in (
        (False, _PLAIN, 0), (True, _PLAIN, 0), (False, _PLAIN, 1), (True, _PLAIN, 1), (False, _LONG, 0), (True, _LONG, 2),
    ):  # fmt: skip
        if pictures and sizes_of is _LONG:
            return
        symbols: dict[str, int] = {}
        plain, spatial, unnamed = iter(sizes_of[start:]), iter(_SPATIAL[start:]), count()
        shapes: dict[str, tuple[int, ...]] = {}
        for value in graph_inputs(model):
            if value.name in given:
                shapes[value.name] = tuple(given[value.name])
                continue
            dims = value.type.tensor_type.shape.dim
            sizes = []
            for axis, dim in enumerate(dims):
                if dim.HasField("dim_value") and dim.dim_value > 0:
                    sizes.append(dim.dim_value)
                    continue
                if dim.dim_value == 0 and dim.HasField("dim_value"):
                    sizes.append(2)  # an empty past: give it a length that can be seen
                    continue
                image = _pictorial(value) and axis >= 2 and "seq" not in dim.dim_param
                symbol = f"axis {axis} {image}" if by_position else dim.dim_param or f"unnamed {next(unnamed)}"
                if symbol not in symbols:
                    computed = None if by_position else _evaluate(dim.dim_param, symbols)
                    symbols[symbol] = computed or next(spatial if image else plain, 37 + 2 * len(symbols))
                sizes.append(symbols[symbol])
            shapes[value.name] = tuple(sizes)
        yield shapes


def _pictorial(value: onnx.ValueInfoProto) -> bool:
    """Images or volumes, with channels."""
    return len(value.type.tensor_type.shape.dim) in (4, 5)


def one_sample(model: onnx.ModelProto, given: Mapping[str, Sequence[int]] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs for one sample: symbolic first dimensions are 1, others as in `assignments`.

    A symbol that a given shape fixes has that size in the other inputs too.
    """
    given = dict(given or {})
    sizes = next(assignments(model, given))
    open_inputs = [i for i in graph_inputs(model) if i.name not in given]
    batch = {symbol_of(i, 0) for i in open_inputs} - {""}
    known = dict.fromkeys(batch, 1)
    for i in graph_inputs(model):
        known |= {s: n for k, n in enumerate(given.get(i.name, ())) if (s := symbol_of(i, k))}
    for i in open_inputs:
        sizes[i.name] = tuple(known.get(symbol_of(i, k), n) for k, n in enumerate(sizes[i.name]))
    return sizes


def symbol_of(value: onnx.ValueInfoProto, axis: int) -> str:
    """The name of a symbolic dimension, made up where it has none; empty for a fixed one."""
    dims = value.type.tensor_type.shape.dim
    if axis >= len(dims) or dims[axis].dim_value > 0:
        return ""
    return dims[axis].dim_param or f"{value.name}[{axis}]"


def _evaluate(expression: str, symbols: Mapping[str, int]) -> int | None:
    """`past + 1` for the sizes already given; None where it is no arithmetic of known symbols."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return int(_ARITHMETIC[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Name):
            return symbols[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError(expression)

    try:
        tree = ast.parse(expression, mode="eval").body
        return value(tree) if isinstance(tree, ast.BinOp) else None
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None
