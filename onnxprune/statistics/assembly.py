"""A tensor that is put together from elements of stored ones: gates in another order, directions side by side.

The nodes in between are run once on the numbers of elements instead of their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.statistics.flow import Flow

Array = NDArray[Any]
_MOVES = {
    "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Assembly:
    """Where each element of a tensor is stored.

    Attributes:
        sources: names of initializers.
        shapes: of those.
        index: for each element of the tensor its place in all sources, one behind the other.
    """

    sources: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    index: NDArray[np.int64]

    def read(self, get: Callable[[str], Array]) -> Array:
        """The tensor; `get` gives initializers by name."""
        return np.concatenate([get(n).ravel() for n in self.sources])[self.index]

    def write(self, values: Array, get: Callable[[str], Array]) -> dict[str, Array]:
        """New values of the sources; what the tensor does not show stays as it is."""
        flat = np.concatenate([np.asarray(get(n), values.dtype).ravel() for n in self.sources])
        flat[self.index.ravel()] = values.ravel()
        ends = np.cumsum([prod(s) for s in self.shapes])[:-1]
        parts = zip(self.sources, self.shapes, np.split(flat, ends), strict=True)
        return {n: part.reshape(shape).astype(get(n).dtype) for n, shape, part in parts}


def assembly_of(flow: Flow, name: str, reader: int) -> Assembly | str:
    """How a tensor that one node reads is put together; a reason where it is computed, or other nodes read its sources.

    Args:
        flow: of the model.
        name: of the tensor.
        reader: index of the node.
    """
    nodes = sorted(flow.ancestors([name]))
    if any(flow.varying[k] or flow.nodes[k].op_type not in _MOVES or flow.nodes[k].domain for k in nodes):
        return "its weights are computed"
    moved = [flow.nodes[k].input[i] for k in nodes for i in _moved(flow.nodes[k].op_type, len(flow.nodes[k].input))]
    sources = tuple(dict.fromkeys(n for n in [name, *moved] if n in flow.initializers))
    made = {o for k in nodes for o in flow.nodes[k].output}
    for held in (*sources, *made):
        if held in flow.outputs or any(k != reader and k not in nodes for k, _ in flow.readers.get(held, ())):
            return "its weight is read by several nodes"
    if sum(n == name for n in flow.nodes[reader].input) > 1:
        return "its weight is read in several ways"
    shapes = tuple(tuple(flow.initializers[n].dims) for n in sources)
    starts = np.cumsum([0, *[prod(s) for s in shapes]])
    numbers = {n: np.arange(a, a + prod(s)).reshape(s) for n, s, a in zip(sources, shapes, starts, strict=False)}
    index = numbers[name] if name in numbers else _run(flow, nodes, name, numbers)
    if np.unique(index).size < index.size:
        return "its weights hold some elements several times"
    return Assembly(sources, shapes, index)


def _moved(op: str, inputs: int) -> range:
    """Which inputs are moved; the others say how."""
    return range(inputs) if op == "Concat" else range(1)


def _run(flow: Flow, nodes: list[int], name: str, numbers: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    from onnxprune.proof.session import run

    read = {n for k in nodes for n in flow.nodes[k].input if n}
    held = [numpy_helper.from_array(a, n) for n, a in numbers.items()]
    held += [flow.initializers[n] for n in read if n in flow.initializers and n not in numbers]
    outputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)), None)]
    graph = helper.make_graph([flow.nodes[k] for k in nodes], "numbers", [], outputs, held)
    (index,) = run(helper.make_model(graph, opset_imports=flow.opsets, ir_version=flow.ir_version), {}, [name])
    return np.asarray(index, np.int64)
