"""Who makes and who reads the tensors of a model's main graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence, Set
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


class Flow:
    """Producers, readers and constants of the main graph.

    Attributes:
        nodes: its nodes, topologically sorted.
        producer: tensor -> index of its node.
        readers: tensor -> (node index, input position); -1 where a body of the node captures it.
        initializers: name -> tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = list(model.graph.node)
        self.producer = {o: k for k, n in enumerate(self.nodes) for o in n.output if o}
        self.readers: dict[str, list[tuple[int, int]]] = {}
        for k, node in enumerate(self.nodes):
            for i, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((k, i))
            for name in captures(node):
                self.readers.setdefault(name, []).append((k, -1))
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.outputs = {o.name for o in model.graph.output}
        self.opsets, self.ir_version = list(model.opset_import), model.ir_version
        self.inputs = {i.name: i for i in model.graph.input if i.name not in self.initializers}

    def reads(self, k: int) -> Iterator[str]:
        """Tensors that a node needs, captures of its bodies included."""
        yield from (n for n in self.nodes[k].input if n)
        yield from captures(self.nodes[k])

    @cached_property
    def varying(self) -> list[bool]:
        """For each node whether it depends on what is fed."""
        result: list[bool] = []
        for k in range(len(self.nodes)):
            fed = any(n in self.inputs or (n in self.producer and result[self.producer[n]]) for n in self.reads(k))
            result.append(fed or self.nodes[k].op_type.startswith("Random"))
        return result

    def users(self, name: str) -> int:
        """Nodes that read the values of a tensor; one that asks for its shape does not."""
        return sum(i >= 0 and self.nodes[k].op_type not in ("Shape", "Size") for k, i in self.readers.get(name, ()))

    def ancestors(self, names: Sequence[str], known: Container[str] = ()) -> set[int]:
        """Nodes that these tensors depend on, but for what is behind tensors in `known`."""
        found: set[int] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            k = None if name in known else self.producer.get(name)
            if k is not None and k not in found:
                found.add(k)
                waiting += self.reads(k)
        return found

    def behind(self, names: Iterable[str]) -> set[int]:
        """Nodes that depend on these tensors."""
        found: set[int] = set()
        waiting = list(names)
        while waiting:
            for k, _ in self.readers.get(waiting.pop(), ()):
                if k not in found:
                    found.add(k)
                    waiting += self.nodes[k].output
        return found

    def between(self, start: str, ends: Sequence[str]) -> frozenset[int]:
        """Nodes on the ways from one tensor to others."""
        return frozenset(self.ancestors(ends) & self.behind([start]))

    def needs(self, nodes: Set[int]) -> frozenset[str]:
        """Tensors that vary, and that these nodes read from elsewhere."""
        return frozenset(
            n
            for k in nodes
            for n in self.reads(k)
            if n in self.inputs or (n in self.producer and self.varying[self.producer[n]] and self.producer[n] not in nodes)
        )

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or a Constant node; None for anything else."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        k = self.producer.get(name)
        if k is None or self.nodes[k].op_type != "Constant":
            return None
        held = self.nodes[k].attribute[0]
        return numpy_helper.to_array(held.t) if held.name == "value" else np.asarray(onnx.helper.get_attribute_value(held))


def captures(node: onnx.NodeProto) -> set[str]:
    """Outer tensors that the bodies of a node read."""
    found: set[str] = set()
    for a in node.attribute:
        for body in [a.g] if a.type == a.GRAPH else a.graphs:
            own = {i.name for i in body.input} | {t.name for t in body.initializer}
            for inner in body.node:
                found |= {n for n in [*inner.input, *captures(inner)] if n and n not in own}
                own |= set(inner.output)
            found |= {o.name for o in body.output if o.name not in own}
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name; texts as str."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}


def lift(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the tensors of its Constant nodes as initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rest = []
    for node in result.graph.node:
        held = node.attribute[0] if node.op_type == "Constant" else None
        if held is not None and held.name == "value":
            tensor = result.graph.initializer.add()
            tensor.CopyFrom(held.t)
            tensor.name = node.output[0]
        else:
            rest.append(node)
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in rest]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result
