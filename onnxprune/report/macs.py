"""Counts multiply-accumulates (MACs) from shapes alone. 1 MAC = 2 FLOPs.

Counted are the ops that contract an axis: Conv, ConvTranspose, Gemm, MatMul, FusedMatMul, Einsum, LSTM, GRU, RNN and
the fused attention ops (ai.onnx Attention; com.microsoft Attention, MultiHeadAttention, GroupQueryAttention).
Elementwise work, normalization, pooling and data movement count 0, as does every other op. Attention counts the full
score matrix: neither a causal mask nor a local window makes it cheaper. Border positions of a Conv count like inner
ones.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from onnx import AttributeProto, NodeProto
from onnx import helper as onnx_helper

Shape: TypeAlias = tuple[int, ...]
Attributes: TypeAlias = Mapping[str, Any]
Counter: TypeAlias = Callable[[Attributes, "_Shapes", "_Shapes"], int]

_COUNTERS: dict[tuple[str, str], Counter] = {}

MICROSOFT = "com.microsoft"


class _UnknownShapeError(Exception):
    """A shape the count depends on is not known."""


class _Shapes:
    """The shapes of a node's inputs or outputs; an index beyond the last one is an omitted value."""

    def __init__(self, shapes: Sequence[Shape | None]) -> None:
        self._shapes = shapes

    def __getitem__(self, index: int) -> Shape:
        shape = self.get(index)
        if shape is None:
            raise _UnknownShapeError
        return shape

    def get(self, index: int) -> Shape | None:
        return self._shapes[index] if index < len(self._shapes) else None


def count_macs(nodes: Iterable[NodeProto], shapes: Mapping[str, Shape]) -> int:
    """MACs of one run of the nodes.

    An If counts its more expensive branch, the body of a Loop or Scan counts once. Nodes listed by `uncounted_nodes`
    count 0.

    Args:
        nodes: The nodes of a graph.
        shapes: The shape of each value, initializers and values of subgraphs included.
    """
    return sum(_node_proto_macs(node, shapes) or 0 for node in nodes)


def uncounted_nodes(nodes: Iterable[NodeProto], shapes: Mapping[str, Shape]) -> list[str]:
    """Names (op types where there is none) of the nodes that `count_macs` can't count for want of a shape."""
    names = []
    for node in nodes:
        for body in _bodies(node):
            names.extend(uncounted_nodes(body, shapes))
        if _node_proto_macs(node, shapes) is None:
            names.append(node.name or node.op_type)
    return names


def node_macs(
    op_type: str,
    domain: str,
    attrs: Attributes,
    input_shapes: Sequence[Shape | None],
    output_shapes: Sequence[Shape | None],
) -> int:
    """MACs of one node; 0 if the op is not counted or a shape the count needs is None.

    Args:
        op_type: Such as "Conv".
        domain: Such as "com.microsoft"; "" and "ai.onnx" are the same.
        attrs: The node's attributes as Python values (strings as str or bytes).
        input_shapes: One shape per input, None for an omitted one.
        output_shapes: One shape per output.
    """
    return _macs_or_none(op_type, domain, attrs, input_shapes, output_shapes) or 0


def is_counted(op_type: str, domain: str = "") -> bool:
    """Whether an op multiplies and adds, so that its MACs are counted."""
    return ("" if domain == "ai.onnx" else domain, op_type) in _COUNTERS


def _macs_or_none(
    op_type: str,
    domain: str,
    attrs: Attributes,
    input_shapes: Sequence[Shape | None],
    output_shapes: Sequence[Shape | None],
) -> int | None:
    counter = _COUNTERS.get(("" if domain == "ai.onnx" else domain, op_type))
    if counter is None:
        return 0
    try:
        return counter(attrs, _Shapes(input_shapes), _Shapes(output_shapes))
    except _UnknownShapeError:
        return None


def _node_proto_macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    bodies = [count_macs(body, shapes) for body in _bodies(node)]
    if bodies:
        return max(bodies) if node.op_type == "If" else sum(bodies)
    if ("" if node.domain == "ai.onnx" else node.domain, node.op_type) not in _COUNTERS:
        return 0
    attrs = {attribute.name: onnx_helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = [shapes.get(name) for name in node.input]
    outputs = [shapes.get(name) for name in node.output]
    return _macs_or_none(node.op_type, node.domain, attrs, inputs, outputs)


def _bodies(node: NodeProto) -> list[Sequence[NodeProto]]:
    return [attribute.g.node for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]


def _counts(domain: str, *op_types: str) -> Callable[[Counter], Counter]:
    def register(counter: Counter) -> Counter:
        for op_type in op_types:
            _COUNTERS[domain, op_type] = counter
        return counter

    return register


@_counts("", "Conv")
def _conv(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Each output element takes C_in / g * kH * kW; W is (C_out, C_in / g, kH, kW)."""
    return math.prod(outputs[0]) * math.prod(inputs[1][1:])


@_counts("", "ConvTranspose")
def _conv_transpose(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Each input element feeds C_out / g * kH * kW; W is (C_in, C_out / g, kH, kW)."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


@_counts("", "Gemm")
def _gemm(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    return math.prod(outputs[0]) * inputs[0][0 if attrs.get("transA", 0) else 1]


@_counts("", "MatMul")
@_counts(MICROSOFT, "FusedMatMul")
def _matmul(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    a = inputs[0]
    axis = -1
    if attrs.get("transA", 0) and len(a) > 1:
        # transBatchA moves the first axis behind the batch axes, so there transA contracts the first one.
        axis = 0 if attrs.get("transBatchA", 0) else -2
    return math.prod(outputs[0]) * a[axis]


@_counts("", "Einsum")
def _einsum(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """The product of the sizes of all indices, once for every operand after the first."""
    equation = attrs["equation"]
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        for index, size in _einsum_indices(term, inputs[position]):
            # An axis of size 1 broadcasts.
            sizes[index] = max(size, sizes.get(index, 0))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _einsum_indices(term: str, shape: Shape) -> list[tuple[str, int]]:
    """The indices of a term with their sizes; those of an ellipsis are named by their distance from its end."""
    before, ellipsis, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after) if ellipsis else 0
    names = [*before, *(f".{distance}" for distance in range(hidden, 0, -1)), *after]
    return list(zip(names, shape, strict=True))


@_counts("", "LSTM", "GRU", "RNN")
def _recurrent(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Each step of each sequence takes W (D, gates * H, I) and R (D, gates * H, H) once; D directions."""
    steps = inputs[0][0] * inputs[0][1]
    return steps * (math.prod(inputs[1]) + math.prod(inputs[2]))


@_counts("", "Attention")
def _attention(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Q (B, N, S, H) or (B, S, N * H); K and V alike with kv_num_heads and length L, or past + L with a KV cache.

    Source: ONNX spec, Attention-23 and later.
    """
    query, key, value = inputs[0], inputs[1], inputs[2]
    past = inputs.get(4)
    if len(query) == 4:
        batch, heads, length, size = query
        value_size = value[3]
    else:
        heads = int(attrs["q_num_heads"])
        batch, length, size = query[0], query[1], query[2] // heads
        value_size = value[2] // int(attrs["kv_num_heads"])
    total = key[-2] + (past[2] if past else 0)
    return batch * heads * length * total * (size + value_size)


@_counts(MICROSOFT, "Attention")
def _packed_attention(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Input (B, S, C), weights (C, Q + K + V), past (2, B, N, P, H): the projection, then the products."""
    batch, length, channels = inputs[0]
    projected = inputs[1][1]
    sizes = attrs.get("qkv_hidden_sizes")
    query_size, value_size = (int(sizes[0]), int(sizes[2])) if sizes else (projected // 3, projected // 3)
    past = inputs.get(4)
    total = length + (past[3] if past else 0)
    return batch * length * (channels * projected + total * (query_size + value_size))


@_counts(MICROSOFT, "MultiHeadAttention")
def _multi_head_attention(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Query (B, S, C) or packed (B, S, N, 3, H); key (B, L, C), packed (B, L, N, 2, H) or cached (B, N, L, H)."""
    query = inputs[0]
    batch, length = query[:2]
    heads, past = int(attrs["num_heads"]), inputs.get(6)
    if len(query) == 5:
        source_length = length
        query_size = value_size = heads * query[4]
    else:
        key = inputs[1]
        packed = len(key) == 5
        source_length = key[2] if len(key) == 4 else key[1]
        query_size = query[2]
        value_size = query_size if packed else _merged_heads(inputs[2])
    total = source_length + (past[2] if past else 0)
    return batch * length * total * (query_size + value_size)


def _merged_heads(value: Shape) -> int:
    return value[1] * value[3] if len(value) == 4 else value[2]


@_counts(MICROSOFT, "GroupQueryAttention")
def _group_query_attention(attrs: Attributes, inputs: _Shapes, outputs: _Shapes) -> int:
    """Query (B, S, N * H), or packed (B, S, (N + 2 * N_kv) * H) without key; present key (B, N_kv, T, H)."""
    batch, length, width = inputs[0]
    heads = int(attrs["num_heads"])
    packed = inputs.get(1) is None
    size = width // (heads + 2 * int(attrs["kv_num_heads"])) if packed else width // heads
    past, present = inputs.get(3), outputs.get(1)
    total = present[2] if present else length + (past[2] if past else 0)
    return batch * length * total * 2 * heads * size
