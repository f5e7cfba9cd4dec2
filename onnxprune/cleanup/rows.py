"""Which parts of a graph to compute on matrices of rows: a minimum cut.

Operators that treat every row (the last axis) alike may see a tensor of (..., C) as a matrix of (rows, C). Going from one
form to the other is a Reshape; a MatMul and the Add behind it are one Gemm on matrices. So every such node chooses a form,
and what it costs is a cut: 1 for each tensor that is read in another form than it is made in, 1 for each Gemm that is not
made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import Dim, full_name
from onnxprune.cleanup.work import Work

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_UNARY = {
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu",
    "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Clip", "Softplus", "Softsign", "Sin", "Cos",
    "Floor", "Ceil", "Round", "Sign", "Not", "IsNaN", "IsInf", "ThresholdedRelu", "Identity", "Cast",
}  # fmt: skip
_BINARY = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where", "Equal", "Greater", "Less", "And", "Or", "Xor",
    "PRelu",
}  # fmt: skip
_LAST = {"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Concat", "Split"}
_NEVER = 1 << 20


@dataclass(eq=False)
class Form:
    """A node that may work on rows.

    Attributes:
        node: the node.
        data: inputs that change their form with it.
        gain: nodes that are saved if it does.
    """

    node: ir.Node
    data: list[int]
    gain: int = 0


@dataclass
class _Network:
    """Capacities of a flow network; 0 is the source (rows), 1 the sink (as it is)."""

    size: int = 2
    arcs: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def vertex(self) -> int:
        self.size += 1
        return self.size - 1

    def arc(self, a: int, b: int, capacity: int) -> None:
        """Cutting a (rows) from b (as it is) costs `capacity`."""
        if a != b:
            self.arcs[a, b] = min(self.arcs[a, b] + capacity, _NEVER)

    def source_side(self) -> set[int]:
        """The fewest vertices on the side of the source of a minimum cut."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        pairs = np.array(list(self.arcs), np.int32).reshape(-1, 2)
        sizes = np.array(list(self.arcs.values()), np.int32)
        graph = csr_array((sizes, (pairs[:, 0], pairs[:, 1])), shape=(self.size, self.size))
        rest = graph - maximum_flow(graph, 0, 1).flow
        rest.data[rest.data < 0] = 0
        rest.eliminate_zeros()
        return set(breadth_first_order(rest, 0, return_predecessors=False).tolist())


def row_nodes(work: Work, graph: ir.Graph) -> dict[ir.Node, Form]:
    """The nodes of a graph that are better off with rows, by the cheapest cut."""
    forms = {form.node: form for form in _forms(work, graph)}
    if not any(form.gain or _beside_rows(work, form.node) for form in forms.values()):
        return {}
    network = _Network()
    vertex = {node: network.vertex() for node in forms}
    made: dict[ir.Value, int] = {}
    for form in forms.values():
        if form.gain:
            network.arc(0, vertex[form.node], form.gain)
            bias = work.reader(form.node.outputs[0])
            if bias is not None and bias in vertex:  # they become one Gemm together
                network.arc(vertex[form.node], vertex[bias], _NEVER)
                network.arc(vertex[bias], vertex[form.node], _NEVER)
        for value in (form.node.inputs[k] for k in form.data):
            if value is not None and not work.is_constant(value):
                made.setdefault(value, -1)
        for value in form.node.outputs:
            made.setdefault(value, -1)
    for value in made:
        _connect(work, network, vertex, forms, value)
    chosen = network.source_side()
    return {node: forms[node] for node in forms if vertex[node] in chosen}


def _connect(work: Work, network: _Network, vertex: dict[ir.Node, int], forms: dict[ir.Node, Form], value: ir.Value) -> None:
    """What it costs to read a value in another form than it is made in."""
    producer = value.producer()
    reshaped = producer is not None and full_name(producer) in RESHAPES
    if reshaped and producer is not None:
        maker = 0 if _same_rows(work, value, producer.inputs[0]) else network.vertex()
    else:
        maker = vertex.get(producer, 1) if producer is not None else 1
    readers = {1} if value.is_graph_output() else set()
    for usage in value.uses():
        if usage.node in forms and usage.idx in forms[usage.node].data:
            readers.add(vertex[usage.node])
        elif full_name(usage.node) in RESHAPES and _same_rows(work, value, usage.node.outputs[0]):
            readers.add(0)
        elif not reshapes_rows(work, usage.node, usage.idx):
            readers.add(1)
    back = 1 if reshaped or writable(work.shape(value)) else _NEVER
    leaves, enters = network.vertex(), network.vertex()
    network.arc(maker, leaves, back)
    network.arc(enters, maker, 1)
    for reader in readers:
        network.arc(leaves, reader, _NEVER)
        network.arc(reader, enters, _NEVER)


def _same_rows(work: Work, value: ir.Value, matrix: ir.Value | None) -> bool:
    """One side of a Reshape is the other one as a matrix of rows."""
    shape, flat = work.shape(value), work.shape(matrix)
    return shape is not None and flat is not None and len(flat) == 2 < len(shape) and flat[1] == shape[-1] is not None


def _beside_rows(work: Work, node: ir.Node) -> bool:
    """A Reshape before or behind the node has rows on its other side."""
    before = [p for v in node.inputs if v is not None and (p := work.producer(v, *RESHAPES)) is not None]
    behind = [u.node for v in node.outputs for u in v.uses() if u.idx == 0 and full_name(u.node) in RESHAPES]
    return any(_same_rows(work, p.outputs[0], p.inputs[0]) for p in before) or any(
        n.inputs[0] is not None and _same_rows(work, n.inputs[0], n.outputs[0]) for n in behind
    )


def writable(shape: tuple[Dim, ...] | None) -> bool:
    """A Reshape can make this shape of rows by a constant target."""
    return shape is not None and sum(not isinstance(n, int) for n in shape) < 2 and 0 not in shape


def reshapes_rows(work: Work, node: ir.Node, index: int) -> bool:
    """The node is a Reshape that may as well read rows."""
    return index == 0 and full_name(node) in RESHAPES and writable(work.shape(node.outputs[0]))


def _forms(work: Work, graph: ir.Graph) -> Iterator[Form]:
    for node in graph:
        data = _data(work, node)
        if data:
            gain = 0
            if full_name(node) == "MatMul":
                bias = work.reader(node.outputs[0], "Add")
                gain = int(bias is not None and _data(work, bias) is not None and _has_vector(work, bias))
            yield Form(node, data, gain)


def _data(work: Work, node: ir.Node) -> list[int] | None:
    """Inputs of (..., C) that may be rows instead; None where the node can't work on rows."""
    op = full_name(node)
    if op not in _UNARY and op not in _BINARY and op not in _LAST and op != "MatMul":
        return None
    out = work.shape(node.outputs[0])
    if out is None or len(out) < 3 or not isinstance(out[-1], int) or 0 in out:
        return None
    if op == "MatMul":
        first = work.shape(node.inputs[0])
        fits = work.rank(node.inputs[1]) == 2 and first is not None and len(first) == len(out) and isinstance(first[-1], int)
        return [0] if fits and not work.is_constant(node.inputs[0]) else None
    if op in _LAST:
        return _last(work, node, out)
    data = []
    for index, value in enumerate(node.inputs[:1] if op in _UNARY else node.inputs):
        if value is None or (work.is_constant(value) and fits_rows(work, value, out)):
            continue
        if work.shape(value) != out or None in out[:-1]:
            return None
        data.append(index)
    return data or None


def _last(work: Work, node: ir.Node, out: tuple[Dim, ...]) -> list[int] | None:
    """Operators that work along the last axis."""
    op, rank = full_name(node), len(out)
    default = {"LayerNormalization": -1, "RMSNormalization": -1, "Concat": None, "Split": 0}
    axis = work.attribute(node, "axis", default.get(op, -1 if work.opset >= 13 else 1))
    if axis is None or axis % rank != rank - 1:
        return None
    if op == "Concat":
        shapes = [work.shape(v) for v in node.inputs]
        same = all(s is not None and s[:-1] == out[:-1] and isinstance(s[-1], int) for s in shapes) and None not in out
        return list(range(len(shapes))) if same and not any(work.is_constant(v) for v in node.inputs) else None
    if op == "Split":
        known = all(isinstance((work.shape(v) or (None,))[-1], int) for v in (*node.outputs, node.inputs[0]))
        return [0] if known else None
    one = len(node.outputs) == 1 and all(work.rank(v) == 1 for v in node.inputs[1:] if v is not None)
    return [0] if one else None


def fits_rows(work: Work, value: ir.Value, shape: tuple[Dim, ...]) -> bool:
    """A constant operand is one number, one for each column, or one for each element."""
    held = work.static_shape(value)
    if held is None or len(held) > len(shape):
        return False
    return all(n == 1 for n in held[:-1]) or held == shape


def _has_vector(work: Work, add: ir.Node) -> bool:
    held = [work.static_shape(v) for v in add.inputs if work.is_constant(v)]
    return len(held) == 1 and held[0] is not None and all(n == 1 for n in held[0][:-1])
