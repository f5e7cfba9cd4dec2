"""Values of constants, as views of the stored tensors where that is possible, so that what is written there is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.io.constants import constant_array
from onnxprune.io.surgeon import source_proto
from onnxprune.shapes.evaluate import evaluate
from onnxprune.surgery.apply import stored_weights
from onnxprune.trace.tracer import Trace
from onnxprune.trace.value import Value

Array = NDArray[Any]

_VIEWS = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
_ELEMENTS = 1 << 26  # of a constant that is computed here


def copies(trace: Trace) -> dict[str, Array]:
    """Every tensor of the file that has labels or holds floats, free to be changed."""
    arrays = {name: constant_array(c) for name, c in stored_weights(trace.graph).items() if c.dtype is not None}
    return {n: np.array(a) for n, a in arrays.items() if n in trace.weights or a.dtype in _FLOATS}


@dataclass
class View:
    """A constant as an operator reads it.

    Attributes:
        array: its values.
        stored: the tensor of the file that it is a view of, where nothing else reads that; else None.
    """

    array: Array
    stored: str | None = None

    def reshaped(self, array: Array) -> View:
        """Another view of it."""
        return View(array, self.stored if np.shares_memory(array, self.array) else None)


@dataclass
class Tensors:
    """Constants of the main graph by tensor name.

    Attributes:
        trace: the traced source.
        weights: current values of the tensors in the file, see `copies`.
    """

    trace: Trace
    weights: Mapping[str, Array]
    computed: MutableMapping[str, Array | None] = field(default_factory=dict)
    shaped: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.trace.graph
        self.stored = stored_weights(graph)
        self.producers: dict[str, gs.Node] = {t.name: n for n in graph.nodes for t in n.outputs}
        self.readers: dict[str, list[gs.Node]] = {}
        self.uses: Counter[str] = Counter()
        for g in [graph, *graph.subgraphs(recursive=True)]:
            self.uses.update(t.name for t in g.outputs)
            for node in g.nodes:
                self.uses.update(t.name for t in node.inputs if t.name)
                for t in node.inputs:
                    self.readers.setdefault(t.name, []).append(node)

    def array(self, name: str) -> Array | None:
        """Values of a constant; None for what is no constant or too large to compute."""
        if name in self.weights:
            return self.weights[name]
        if name not in self.computed:
            self.computed[name] = self._compute(name)
        return self.computed[name]

    def _compute(self, name: str) -> Array | None:
        if name in self.stored:
            return constant_array(self.stored[name])
        value: Value | None = self.trace.values.get(name)
        node = self.producers.get(name)
        if value is None or node is None or value.shape is None:
            return None
        if not (value.constant or value.static is not None) or self.by_shape(name):
            return None
        if value.static is not None:
            return value.static
        if np.prod(value.shape, dtype=np.int64) > _ELEMENTS:
            return None
        ins = [self.array(t.name) if t.name else None for t in node.inputs]
        if node.op in _VIEWS and not node.domain and ins and ins[0] is not None:
            if node.op == "Transpose":
                return ins[0].transpose(node.attrs.get("perm"))
            return ins[0].reshape(value.shape)
        proto = source_proto(node)
        known = [self.trace.values.get(t.name) for t in node.inputs]
        results = proto and evaluate(proto, self.trace.graph.opset, ins, [v.shape if v else None for v in known])
        return results[[t.name for t in node.outputs].index(name)] if results else None

    def by_shape(self, name: str) -> bool:
        """A constant that follows from the shape of a tensor: with other input sizes it may be another one."""
        if name not in self.shaped:
            node = self.producers.get(name)
            self.shaped[name] = node is not None and (
                node.op in ("Shape", "Size") or any(self.by_shape(t.name) for t in node.inputs)
            )
        return self.shaped[name]

    def view(self, name: str) -> View | None:
        """A constant, writable where it is a view of a tensor that only this reader sees."""
        array = self.array(name)
        if array is None:
            return None
        origin: str | None = name
        while origin is not None and origin not in self.weights:
            node = self.producers.get(origin)
            alone = self.uses[origin] == 1 and node is not None and node.op in _VIEWS
            origin = node.inputs[0].name if alone and node is not None else None
        if origin is None or self.uses[origin] != 1 or not np.shares_memory(array, self.weights[origin]):
            return View(array)
        return View(array, origin)

    def only_reader(self, name: str) -> gs.Node | None:
        """The node that alone reads a tensor."""
        readers = self.readers.get(name, [])
        return readers[0] if self.uses[name] == 1 and len(readers) == 1 else None
