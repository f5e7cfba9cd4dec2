"""Peak memory of activations, by their lifetimes in the order in which the file lists the nodes.

The allocator that is assumed: every tensor takes exactly its bytes from the node that makes it until the last node that
reads it; nothing is computed in place, nothing is lost between tensors, kernels need no workspace. Reshape, Squeeze,
Unsqueeze, Flatten and Identity share the memory of their input, as in ONNX Runtime. Inputs are held by the caller during the
whole run, outputs until its end. A body holds what it makes in one round, on top of what is alive around it. An arena that
keeps power-of-two chunks takes more, one that computes in place less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxprune.shapes.infer import Scope
from onnxprune.trace.value import Value

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
_SMALL = {
    TensorProto.INT4: 0.5, TensorProto.UINT4: 0.5, TensorProto.STRING: 0.0, TensorProto.UNDEFINED: 0.0,
    getattr(TensorProto, "FLOAT4E2M1", -1): 0.5, getattr(TensorProto, "INT2", -2): 0.25,
    getattr(TensorProto, "UINT2", -3): 0.25,
}  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True)
class Peak:
    """The moment at which most bytes of activations are alive.

    Attributes:
        bytes: that many.
        node: that is being computed then.
        tensors: the largest tensors that are alive, `(name, bytes)`.
        unknown: tensors whose shape is not known; they count nothing.
    """

    bytes: int
    node: str
    tensors: list[tuple[str, int]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def value_bytes(value: Value | None) -> int | None:
    """Bytes of a tensor; None where its shape is not known. Strings count nothing."""
    if value is None or value.shape is None:
        return None
    size = _SMALL.get(value.dtype)
    if size is None:
        size = float(helper.tensor_dtype_to_np_dtype(value.dtype).itemsize)
    return math.ceil(math.prod(value.shape) * size)


def peak(graph: gs.Graph, scopes: Mapping[int, Scope]) -> Peak:
    """Peak memory of one run.

    Args:
        graph: its nodes are in the order of execution.
        scopes: result of shape inference, by `id(graph)`.
    """
    scope = scopes.get(id(graph), {})
    nodes = list(graph.nodes)
    owner, birth, death = lifetimes(graph, nodes, scope)
    unknown = [t for t in birth if value_bytes(scope.get(t)) is None]
    sizes = {t: value_bytes(scope.get(t)) or 0 for t in birth if owner[t] == t}
    alive = np.zeros(len(nodes) + 2, np.int64)
    for t, size in sizes.items():
        alive[max(birth[t], 0)] += size
        alive[min(death[t], len(nodes)) + 1] -= size
    alive = alive.cumsum()[: max(len(nodes), 1)]
    for k, node in enumerate(nodes):
        alive[k] += max((peak(body, scopes).bytes for body in node.subgraphs()), default=0)
    k = int(alive.argmax())
    there = [(t, n) for t, n in sizes.items() if birth[t] <= k <= death[t] and n]
    there.sort(key=lambda pair: -pair[1])
    return Peak(int(alive[k]), node_name(nodes[k]) if nodes else "", there[:_SHOWN], unknown)


def lifetimes(graph: gs.Graph, nodes: list[gs.Node], scope: Scope) -> tuple[dict[str, str], dict[str, int], dict[str, int]]:
    """Owner of the memory of each activation, the node that makes it and the last one that needs it (by position)."""
    owner: dict[str, str] = {}
    birth: dict[str, int] = {}
    death: dict[str, int] = {}
    end = len(nodes)
    for t in graph.inputs:
        if t.name not in scope or not scope[t.name].constant:
            owner[t.name], birth[t.name], death[t.name] = t.name, -1, end
    for k, node in enumerate(nodes):
        for name in read_names(node):
            if name in owner:
                death[owner[name]] = max(death[owner[name]], k)
        for t in node.outputs:
            value = scope.get(t.name)
            if not t.name or (value is not None and value.constant):
                continue
            viewed = owner.get(node.inputs[0].name) if node.op in VIEWS and node.inputs else None
            owner[t.name] = viewed or t.name
            birth[t.name] = death[t.name] = k
    for t in graph.outputs:
        if t.name in owner:
            death[owner[t.name]] = end
    return owner, birth, death


def read_names(node: gs.Node) -> set[str]:
    """Tensors that a node reads, those that its bodies capture among them."""
    names = {t.name for t in node.inputs if t.name}
    for body in node.subgraphs():
        made = {t.name for t in body.inputs} | {t.name for n in body.nodes for t in n.outputs}
        inner = {t.name for t in body.outputs}.union(*(read_names(n) for n in body.nodes))
        names |= inner - made
    return names


def node_name(node: gs.Node) -> str:
    """Its name, that of its first output where it has none."""
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))
