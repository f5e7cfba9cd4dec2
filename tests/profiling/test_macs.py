"""MACs against values worked out by hand."""

import pytest

from onnxprune.profiling.macs import known_macs, node_macs

MS = "com.microsoft"

CASES = [
    # op, domain, attributes, inputs, outputs, MACs
    ("Conv", "", {}, [(1, 3, 8, 8), (16, 3, 3, 3)], [(1, 16, 6, 6)], 16 * 36 * 27),
    ("Conv", "ai.onnx", {"group": 4}, [(2, 8, 5), (8, 2, 3), (8,)], [(2, 8, 3)], 2 * 8 * 3 * 2 * 3),
    ("Conv", "", {"group": 8}, [(1, 8, 4, 4), (8, 1, 1, 1)], [(1, 8, 4, 4)], 8 * 16),
    ("ConvTranspose", "", {}, [(1, 4, 3, 3), (4, 6, 2, 2)], [(1, 6, 4, 4)], 4 * 9 * 6 * 4),
    ("ConvTranspose", "", {"group": 2}, [(1, 4, 3, 3), (4, 3, 2, 2)], [(1, 6, 4, 4)], 4 * 9 * 3 * 4),
    ("Gemm", "", {}, [(2, 3), (3, 5), (5,)], [(2, 5)], 30),
    ("Gemm", "", {"transA": 1, "transB": 1}, [(3, 2), (5, 3)], [(2, 5)], 30),
    ("MatMul", "", {}, [(7, 2, 3), (3, 5)], [(7, 2, 5)], 7 * 30),
    ("MatMul", "", {}, [(3,), (3,)], [()], 3),
    ("MatMul", MS, {}, [(2, 3), (3, 5)], [(2, 5)], 0),
    ("FusedMatMul", MS, {"transA": 1}, [(7, 3, 2), (7, 3, 5)], [(7, 2, 5)], 7 * 30),
    ("FusedMatMul", MS, {"transA": 1, "transBatchA": 1}, [(3, 7, 2), (7, 3, 5)], [(7, 2, 5)], 7 * 30),
    ("Einsum", "", {"equation": "bhid,bhjd->bhij"}, [(2, 3, 5, 7), (2, 3, 11, 7)], [(2, 3, 5, 11)], 6 * 5 * 11 * 7),
    ("Einsum", "", {"equation": b"...ij, jk -> ...ik"}, [(4, 6, 2, 3), (3, 5)], [(4, 6, 2, 5)], 24 * 30),
    ("Einsum", "", {"equation": "i...,...->i"}, [(2, 3, 1), (4,)], [(2,)], 2 * 3 * 4),
    ("Einsum", "", {"equation": "ij->ji"}, [(2, 3)], [(3, 2)], 0),
    ("LSTM", "", {}, [(5, 2, 3), (1, 16, 3), (1, 16, 4)], [], 5 * 2 * 16 * 7),
    ("GRU", "", {"layout": 1}, [(2, 5, 3), (2, 12, 3), (2, 12, 4)], [], 2 * 5 * 2 * 12 * 7),
    ("RNN", "", {}, [(5, 2, 3), (1, 4, 3), (1, 4, 4)], [], 5 * 2 * 4 * 7),
    # 2 heads of 4, 5 queries, 7 keys, values of 3: 2 * 5 * 7 * (4 + 3)
    ("Attention", "", {}, [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 3)], [], 490),
    ("Attention", "", {"q_num_heads": 2, "kv_num_heads": 1}, [(1, 5, 8), (1, 7, 4), (1, 7, 3)], [], 490),
    ("Attention", "", {}, [(1, 2, 5, 4), (1, 1, 3, 4), (1, 1, 3, 3), None, (1, 1, 4, 4)], [], 490),
    # projection 5 * 8 * 24, products 5 * 5 * (8 + 8)
    ("Attention", MS, {"num_heads": 2}, [(1, 5, 8), (8, 24), (24,)], [], 960 + 400),
    (
        "Attention",
        MS,
        {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 6]},
        [(1, 5, 8), (8, 14), (14,), None, (2, 1, 2, 3, 4)],
        [],
        5 * 8 * 14 + 5 * 8 * (4 + 6),
    ),
    ("MultiHeadAttention", MS, {"num_heads": 2}, [(1, 5, 8), (1, 7, 8), (1, 7, 6)], [], 5 * 7 * 14),
    ("MultiHeadAttention", MS, {"num_heads": 2}, [(1, 5, 8), (1, 2, 7, 4), (1, 2, 7, 3)], [], 5 * 7 * 14),
    ("MultiHeadAttention", MS, {"num_heads": 2}, [(1, 5, 8), (1, 7, 2, 2, 4)], [], 5 * 7 * 16),
    ("MultiHeadAttention", MS, {"num_heads": 2}, [(1, 5, 2, 3, 4)], [], 5 * 5 * 16),
    (
        "MultiHeadAttention",
        MS,
        {"num_heads": 2},
        [(1, 1, 8), (1, 1, 8), (1, 1, 8), None, None, None, (1, 2, 6, 4), (1, 2, 6, 4)],
        [],
        7 * 16,
    ),
    # 4 query heads, 2 KV heads of size 8
    (
        "GroupQueryAttention",
        MS,
        {"num_heads": 4, "kv_num_heads": 2},
        [(1, 1, 32), (1, 1, 16), (1, 1, 16), (1, 2, 6, 8), (1, 2, 6, 8)],
        [],
        7 * 64,
    ),
    (
        "GroupQueryAttention",
        MS,
        {"num_heads": 4, "kv_num_heads": 2},
        [(1, 1, 64), None, None, (1, 2, 9, 8), (1, 2, 9, 8)],
        [(1, 1, 32), (1, 2, 9, 8), (1, 2, 9, 8)],
        9 * 64,
    ),
    ("ConvInteger", "", {"group": 2}, [(1, 4, 5, 5), (6, 2, 3, 3)], [(1, 6, 3, 3)], 6 * 9 * 2 * 9),
    ("QLinearConv", "", {}, [(1, 3, 8, 8), (), (), (16, 3, 3, 3), (), (), (), ()], [(1, 16, 6, 6)], 16 * 36 * 27),
    ("QLinearConv", MS, {"channels_last": 1}, [(1, 8, 8, 3), (), (), (16, 3, 3, 3)], [(1, 6, 6, 16)], 16 * 36 * 27),
    ("FusedConv", MS, {}, [(1, 3, 8, 8), (16, 3, 3, 3)], [(1, 16, 6, 6)], 16 * 36 * 27),
    ("DeformConv", "", {}, [(1, 4, 8, 8), (6, 4, 3, 3), (1, 18, 6, 6)], [(1, 6, 6, 6)], 6 * 36 * 4 * 9),
    ("MatMulInteger", "", {}, [(2, 3), (3, 5)], [(2, 5)], 30),
    ("QLinearMatMul", "", {}, [(7, 2, 3), (), (), (3, 5), (), (), (), ()], [(7, 2, 5)], 7 * 30),
    ("QGemm", MS, {"transB": 1}, [(2, 3), (), (), (5, 3), (), ()], [(2, 5)], 30),
    ("DynamicQuantizeMatMul", MS, {}, [(2, 3), (3, 5), ()], [(2, 5)], 30),
    # 64 columns in two blocks of 32, two numbers a byte
    ("MatMulNBits", MS, {"K": 64, "N": 5}, [(2, 7, 64), (5, 2, 16), (10,)], [(2, 7, 5)], 14 * 64 * 5),
    ("DynamicQuantizeLSTM", MS, {}, [(5, 2, 3), (1, 3, 16), (1, 4, 16)], [], 5 * 2 * 16 * 7),
    # projection 5 * 8 * 24, products of 5 queries and 4 + 5 keys
    (
        "QAttention",
        MS,
        {"num_heads": 2},
        [(1, 5, 8), (8, 24), (24,), (), (), None, None, None, (2, 1, 2, 4, 4)],
        [],
        960 + 5 * 9 * 16,
    ),
    ("LSTM", "", {"direction": "bidirectional"}, [(5, 2, 3), (2, 16, 3), (2, 16, 4)], [], 2 * 5 * 2 * 16 * 7),
    ("Relu", "", {}, [(8, 8)], [(8, 8)], 0),
    ("Conv", "acme", {}, [(1, 3, 8, 8), (16, 3, 3, 3)], [(1, 16, 6, 6)], 0),
]


@pytest.mark.parametrize(("op_type", "domain", "attrs", "inputs", "outputs", "expected"), CASES)
def test_node_macs_equal_the_hand_count(op_type, domain, attrs, inputs, outputs, expected):
    assert node_macs(op_type, domain, attrs, inputs, outputs) == expected


def test_an_unknown_shape_counts_nothing():
    assert node_macs("Gemm", "", {}, [None, (3, 5)], [(2, 5)]) == 0


def test_what_nobody_knows_is_not_zero():
    assert known_macs("Relu", "", {}, [(8, 8)], [(8, 8)]) == 0
    assert known_macs("FastGelu", MS, {}, [(8, 8)], [(8, 8)]) == 0
    assert known_macs("Gemm", "", {}, [None, (3, 5)], [(2, 5)]) is None
    assert known_macs("Conv", "acme", {}, [(1, 3, 8, 8), (16, 3, 3, 3)], [(1, 16, 6, 6)]) is None
