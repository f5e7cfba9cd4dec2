"""Random inputs of the right types, shapes and ranges: an integer that indexes a table stays within it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnxprune.shapes.infer import Scope, element_type

_PASSES = {
    "Identity", "Cast", "CastLike", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Expand", "Slice", "Split",
    "Concat", "Tile", "Pad", "Clip", "Where", "Add", "Sub", "Gather", "Max", "Min", "Mod",
}  # fmt: skip
_FEWEST_CLASSES = 3  # one or two integers that an input is compared with are marks, such as padding
_TABLES = {"Gather": 0, "GatherElements": 0, "GatherND": 0}


def random_inputs(
    graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]], scope: Scope, seed: int
) -> dict[str, NDArray[Any]]:
    """One feed for the model.

    Args:
        graph: the model.
        shapes: concrete shape of each input.
        scope: traced values, for the sizes of tables.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for t in graph.inputs:
        if t.name not in shapes or isinstance(t, gs.Constant):
            continue
        shape = shapes[t.name]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element_type(t)))
        if np.issubdtype(dtype, np.integer):
            high = index_bound(graph, t, scope)
            fallback = 3 if not shape else 1  # a trip count; a mask of ones, a length
            values = rng.integers(0, high, shape) if high else np.full(shape, fallback)
            feeds[t.name] = np.asarray(values, dtype)
        elif dtype == np.bool_:
            feeds[t.name] = np.ones(shape, np.bool_)
        elif dtype.kind in "OUS":
            feeds[t.name] = np.full(shape, "a", object)
        else:
            feeds[t.name] = np.asarray(rng.standard_normal(shape), dtype)
    return feeds


def index_bound(graph: gs.Graph, start: gs.Tensor, scope: Scope) -> int | None:
    """The smallest table that an integer input indexes, with what is added on the way taken off; None for none.

    One-hot vectors count as rows of a table, where no other is indexed: OneHot, or Equal with a row of integers.
    """
    readers: dict[str, list[tuple[gs.Node, int]]] = {}
    for node in graph.nodes:
        for i, t in enumerate(node.inputs):
            readers.setdefault(t.name, []).append((node, i))
    bound: int | None = None
    classes: int | None = None
    seen: set[str] = set()
    queue: list[tuple[str, int]] = [(start.name, 0)]
    while queue:
        name, offset = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for node, i in readers.get(name, ()):
            if node.op in _TABLES and i == 1:
                data = scope.get(node.inputs[0].name)
                if data is not None and data.shape:
                    axis = int(node.attrs.get("axis", 0)) % len(data.shape) if node.op != "GatherND" else 0
                    size = max(data.shape[axis] - offset, 1)
                    bound = size if bound is None else min(bound, size)
                continue
            if node.op in ("OneHot", "Equal"):
                known = _classes(node, i, scope) - offset
                classes = max(known, classes or 0) if known > 0 else classes
                continue
            if node.op not in _PASSES or (node.op == "Gather" and i != 0) or (node.op == "Where" and i == 0):
                continue
            added = 0
            if node.op == "Add":
                other = scope.get(node.inputs[1 - i].name)
                if other is not None and other.static is not None and other.static.size:
                    added = max(int(np.max(other.static)), 0)
            queue += [(t.name, offset + added) for t in node.outputs]
    return classes if bound is None else bound


def _classes(node: gs.Node, i: int, scope: Scope) -> int:
    """How many different integers input i of a OneHot or an Equal is told apart by; 0 where it is not."""
    other = scope.get(node.inputs[1 if node.op == "OneHot" else 1 - i].name)
    if other is None or other.static is None or (node.op == "OneHot" and i):
        return 0
    held = np.unique(other.static)
    if held.dtype.kind not in "iu" or not held.size:
        return 0
    return int(held[-1]) if node.op == "OneHot" else int(held[-1]) + 1 if held.size >= _FEWEST_CLASSES else 0
