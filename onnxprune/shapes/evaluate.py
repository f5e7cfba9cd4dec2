"""Values that depend on constants and shapes alone, and where their elements come from.

The arithmetic that builds the target of a Reshape, the bounds of a Slice or a position index is run on numpy arrays; the
same moves (Concat, Gather, Unsqueeze ...) run on an array of *origins*, so that the constant behind an element of a shape is
found the same way as a channel of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

ELEMENTS = 1 << 20
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}
_CONTROL = {"If", "Loop", "Scan", "SequenceMap", "Constant"}
_MOVES: dict[str, tuple[int, ...] | None] = {
    "Identity": (0,), "Cast": (0,), "Unsqueeze": (0,), "Squeeze": (0,), "Reshape": (0,), "Flatten": (0,),
    "Gather": (0,), "Slice": (0,), "Transpose": (0,), "Split": (0,), "Concat": None,
}  # fmt: skip


@lru_cache(maxsize=4096)
def _evaluator(serialized: bytes, opset: int) -> Any:
    from onnx.reference import ReferenceEvaluator

    node = onnx.NodeProto.FromString(serialized)
    unknown = onnx.TypeProto()
    graph = helper.make_graph(
        [node],
        "static",
        [helper.make_value_info(n, unknown) for n in dict.fromkeys(node.input) if n],
        [helper.make_value_info(n, unknown) for n in node.output if n],
    )
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def _run(node: onnx.NodeProto, opset: int, inputs: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
    generic = onnx.NodeProto(op_type=node.op_type)
    generic.attribute.extend(node.attribute)
    generic.input.extend(f"i{k}" if x is not None else "" for k, x in enumerate(inputs))
    generic.output.extend(f"o{k}" if name else "" for k, name in enumerate(node.output))
    feeds = {f"i{k}": x for k, x in enumerate(inputs) if x is not None}
    return [np.asarray(x) for x in _evaluator(generic.SerializeToString(), opset).run(None, feeds)]


def evaluate(
    node: onnx.NodeProto, opset: int, inputs: Sequence[NDArray[Any] | None], shapes: Sequence[Sequence[int] | None]
) -> list[NDArray[Any]] | None:
    """Outputs of a node of the ONNX domain, or None where they are not static.

    Args:
        node: the node.
        opset: version of the ONNX domain.
        inputs: static values, None for an omitted input.
        shapes: shape of every input, static or not: enough for Shape and Size.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM or node.op_type in _CONTROL or not node.input:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = shapes[0]
        if shape is None:
            return None
        bounds = {a.name: a.i for a in node.attribute}
        dims = np.array(shape, np.int64)[slice(bounds.get("start", 0), bounds.get("end"))]
        return [dims if node.op_type == "Shape" else np.array(np.prod(shape, dtype=np.int64))]
    if any(name and x is None for name, x in zip(node.input, inputs, strict=True)):
        return None
    try:
        with np.errstate(all="ignore"):
            return _run(node, opset, inputs)
    except Exception:  # the reference misses an operator or a type: then the value is simply not known
        return None


def move_origins(
    node: onnx.NodeProto,
    opset: int,
    inputs: Sequence[NDArray[Any] | None],
    origins: Sequence[NDArray[np.int64] | None],
    results: Sequence[NDArray[Any]],
) -> list[NDArray[np.int64]]:
    """Origins of the elements of `results`: moved with them, or -1 where an operator computes."""
    unknown = [np.full(r.shape, -1, np.int64) for r in results]
    if node.op_type not in _MOVES or (node.op_type == "Cast" and not np.issubdtype(results[0].dtype, np.integer)):
        return unknown
    data = _MOVES[node.op_type] or range(len(inputs))
    moved = [o if k in data else x for k, (x, o) in enumerate(zip(inputs, origins, strict=True))]
    if node.op_type == "Cast":
        return [np.asarray(moved[0])]
    try:
        return [np.asarray(r, np.int64) for r in _run(node, opset, moved)]
    except Exception:
        return unknown
