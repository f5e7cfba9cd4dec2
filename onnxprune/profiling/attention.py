"""Fused attention. The full score matrix counts: neither a causal mask nor a local window makes it cheaper."""

from __future__ import annotations

from onnxprune.profiling.counters import MICROSOFT, Attributes, Shape, Shapes, counts


@counts("", "Attention")
def _attention(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
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


@counts(MICROSOFT, "Attention")
def _packed_attention(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    return _projected(attrs, inputs, inputs.get(4))


@counts(MICROSOFT, "QAttention")
def _quantized_attention(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    return _projected(attrs, inputs, inputs.get(8))


def _projected(attrs: Attributes, inputs: Shapes, past: Shape | None) -> int:
    """Input (B, S, C), weights (C, Q + K + V), past (2, B, N, P, H): the projection, then the products."""
    batch, length, channels = inputs[0]
    width = inputs[1][1]
    sizes = attrs.get("qkv_hidden_sizes")
    query_size, value_size = (int(sizes[0]), int(sizes[2])) if sizes else (width // 3, width // 3)
    total = length + (past[3] if past else 0)
    return batch * length * (channels * width + total * (query_size + value_size))


@counts(MICROSOFT, "MultiHeadAttention")
def _multi_head_attention(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
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


@counts(MICROSOFT, "GroupQueryAttention")
def _group_query_attention(attrs: Attributes, inputs: Shapes, outputs: Shapes) -> int:
    """Query (B, S, N * H), or packed (B, S, (N + 2 * N_kv) * H) without key; present key (B, N_kv, T, H)."""
    batch, length, width = inputs[0]
    heads = int(attrs["num_heads"])
    packed = inputs.get(1) is None
    size = width // (heads + 2 * int(attrs["kv_num_heads"])) if packed else width // heads
    past, present = inputs.get(3), outputs.get(1)
    total = present[2] if present else length + (past[2] if past else 0)
    return batch * length * total * 2 * heads * size
