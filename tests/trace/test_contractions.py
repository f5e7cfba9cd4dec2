"""Gemm, MatMul and Einsum: a summed axis ends a field, the weight's other axis starts the next one."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import Case, check, make, shapes_of, table

FLAGS = [
    Case(
        f"gemm transA {ta} transB {tb}",
        f"""(float[{"5, 3" if ta else "3, 5"}] x) => (float[3, 2] y) {{
          a = Gemm <transA = {ta}, transB = {tb}, alpha = 0.5> (x, w1, b1)
          b = Relu (a)
          y = Gemm <transB = {tb}, beta = 2.0> (b, w2, b2)
        }}""",
        dict(w1=(8, 5) if tb else (5, 8), b1=(8,), w2=(2, 8) if tb else (8, 2), b2=(1, 2)),
        ["channel 8"],
        dict(w1=(4, 5) if tb else (5, 4), b1=(4,), w2=(2, 4) if tb else (4, 2)),
        frozen={f"w1:{int(tb)}": "graph input 'x'", "b2:1": "graph output 'y'"},
    )
    for ta in (0, 1)
    for tb in (0, 1)
]

DENSE = [
    Case(
        "gemm with the weight as the first operand",
        """(float[5, 3] x) => (float[2, 3] y) {
          a = Gemm (w1, x, b1)
          b = Relu (a)
          y = Gemm <transA = 1> (w2, b)
        }""",
        dict(w1=(8, 5), b1=(8, 1), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(4, 5), b1=(4, 1), w2=(4, 2)),
    ),
    Case(
        "gemm whose bias is a matrix",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = Gemm (x, w1, b1)
          y = Gemm (a, w2)
        }""",
        dict(w1=(5, 8), b1=(3, 8), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(5, 4), b1=(3, 4), w2=(4, 2)),
    ),
    Case(
        "matmul",
        """(float[N, 7, 5] x) => (float[N, 7, 2] y) {
          a = MatMul (x, w1)
          b = Add (a, b1)
          c = Tanh (b)
          y = MatMul (c, w2)
        }""",
        dict(w1=(5, 8), b1=(8,), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(5, 4), b1=(4,), w2=(4, 2)),
    ),
    Case(
        "matmul with the weight on the left",
        """(float[3, 5, 7] x) => (float[3, 2, 7] y) {
          a = MatMul (w1, x)
          b = Relu (a)
          y = MatMul (w2, b)
        }""",
        dict(w1=(8, 5), w2=(2, 8)),
        ["channel 8"],
        dict(w1=(4, 5), w2=(2, 4)),
    ),
    Case(
        "matmul with vectors",
        """(float[5] x, float[3, 5] z) => (float[2] y, float[3] v) {
          a = MatMul (x, w1)
          y = MatMul (a, w2)
          c = MatMul (z, w3)
          v = MatMul (c, w4)
        }""",
        dict(w1=(5, 8), w2=(8, 2), w3=(5, 6), w4=(6,)),
        ["channel 8", "channel 6"],
        dict(w1=(5, 4), w2=(4, 2), w3=(5, 3), w4=(3,)),
    ),
    Case(
        "batched weights: whole blocks of a mixture or their hidden units",
        """(float[4, 7, 5] x) => (float[4, 7, 2] y) {
          a = MatMul (x, w1)
          b = Add (a, b1)
          c = Relu (b)
          y = MatMul (c, w2)
        }""",
        dict(w1=(4, 5, 8), b1=(4, 1, 8), w2=(4, 8, 2)),
        ["channel 8"],
        dict(w1=(4, 5, 4), b1=(4, 1, 4), w2=(4, 4, 2)),
        frozen={"w1:0": "'x'"},
    ),
    Case(
        "product of two activations: what is summed goes, what is left stays",
        """(float[3, 7, 5] x, float[3, 9, 5] z) => (float[3, 7, 9] y) {
          q = MatMul (x, w1)
          k = MatMul (z, w2)
          t = Transpose <perm = [0, 2, 1]> (k)
          y = MatMul (q, t)
        }""",
        dict(w1=(5, 8), w2=(5, 8)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(5, 4)),
    ),
    Case(
        "summed over values that are not zero when their weights are",
        """(float[3, 7, 5] x, float[3, 9, 5] z) => (float[3, 7, 9] y) {
          q = MatMul (x, w1)
          s = Sigmoid (q)
          k = MatMul (z, w2)
          e = Exp (k)
          t = Transpose <perm = [0, 2, 1]> (e)
          y = MatMul (s, t)
        }""",
        dict(w1=(5, 8), w2=(5, 8)),
        [],
        {},
        frozen={"w1:1": "sums over values that are not 0", "w2:1": "sums over values that are not 0"},
    ),
    Case(
        "fused matmul",
        """(float[3, 5, 7] x) => (float[3, 7, 2] y) {
          a = com.microsoft.FusedMatMul <transA = 1, alpha = 0.5> (x, w1)
          y = com.microsoft.FusedMatMul <transB = 1> (a, w2)
        }""",
        dict(w1=(5, 8), w2=(2, 8)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(2, 4)),
        ms=True,
    ),
    Case(
        "fused gemm",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = com.microsoft.FusedGemm <activation = "Relu", transB = 1> (x, w1, b1)
          y = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.1> (a, w2, b2)
        }""",
        dict(w1=(8, 5), b1=(8,), w2=(8, 2), b2=(2,)),
        ["channel 8"],
        dict(w1=(4, 5), b1=(4,), w2=(4, 2)),
        ms=True,
    ),
    Case(
        "gated unit: both halves of one projection",
        """(float[3, 7, 5] x) => (float[3, 7, 2] y) {
          a = MatMul (x, w1)
          g, u = Split <axis = -1, num_outputs = 2> (a)
          s = Sigmoid (g)
          h = Mul (g, s)
          m = Mul (h, u)
          y = MatMul (m, w2)
        }""",
        dict(w1=(5, 16), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(5, 8), w2=(4, 2)),
        opset=18,
    ),
    Case(
        "tied embedding: the vocabulary stays, the width goes",
        """(int64[2, 7] i) => (float[2, 7, 11] y) {
          e = Gather (table, i)
          h = MatMul (e, w1)
          r = Relu (h)
          o = MatMul (r, w2)
          s = Add (e, o)
          t = Transpose (table)
          y = MatMul (s, t)
        }""",
        dict(table=(11, 8), w1=(8, 6), w2=(6, 8)),
        ["channel 8", "channel 6"],
        dict(table=(11, 4), w1=(4, 3), w2=(3, 4)),
        frozen={"table:0": "looks it up by data"},
    ),
    Case(
        "matmul in integers stays",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          q, s, z = DynamicQuantizeLinear (a)
          i = MatMulInteger (q, wq, z)
          f = Cast <to = 1> (i)
          y = Mul (f, s)
        }""",
        dict(w1=(5, 8), wq=np.ones((8, 2), np.int8)),
        [],
        {},
        frozen={"w1:1": "computes in integers"},
    ),
]


@table(FLAGS + DENSE)
def test_contraction(case):
    check(case)


EQUATIONS = [
    # first equation, w1, second equation, w2, input, output, cut shapes
    ("bi,io->bo", (5, 8), "bi,io->bo", (8, 2), (3, 5), (3, 2), (5, 4), (4, 2)),
    ("bi,oi->bo", (8, 5), "bi,oi", (2, 8), (3, 5), (3, 2), (4, 5), (2, 4)),
    ("...i,io->...o", (5, 8), "...i,io->...o", (8, 2), (3, 7, 5), (3, 7, 2), (5, 4), (4, 2)),
    ("oi,bti->bto", (8, 5), "bto,oz->bzt", (8, 2), (3, 7, 5), (3, 2, 7), (4, 5), (4, 2)),
    ("bchw,oc->bohw", (8, 3), "bohw,zo->bzhw", (2, 8), (2, 3, 5, 6), (2, 2, 5, 6), (4, 3), (2, 4)),
    ("b s i , i o -> b s o", (5, 8), "bso,o->bs", (8,), (3, 7, 5), (3, 7), (5, 4), (4,)),
]


@pytest.mark.parametrize("row", EQUATIONS, ids=[r[0].replace(" ", "_") for r in EQUATIONS])
def test_einsum(row):
    first, w1, second, w2, x, y, k1, k2 = row
    if "->" not in second:
        second, y = "bi,oi->bo", y
    check(
        Case(
            first,
            f"""(float{list(x)} x) => (float{list(y)} y) {{
              a = Einsum <equation = "{first}"> ({"w1, x" if first.startswith("oi") else "x, w1"})
              b = Relu (a)
              y = Einsum <equation = "{second}"> (b, w2)
            }}""",
            dict(w1=w1, w2=w2),
            ["channel 8"],
            dict(w1=k1, w2=k2),
        )
    )


def test_einsum_heads():
    """Projections straight into (head, dim): a head is a row, a head dim a column."""
    body = """(float[2, 7, 8] x) => (float[2, 7, 5] y) {
      q = Einsum <equation = "bti,ihd->bthd"> (x, wq)
      k = Einsum <equation = "bti,ihd->bthd"> (x, wk)
      v = Einsum <equation = "bti,ihd->bthd"> (x, wv)
      s = Einsum <equation = "bqhd,bkhd->bhqk"> (q, k)
      p = Softmax <axis = -1> (s)
      o = Einsum <equation = "bhqk,bkhd->bqhd"> (p, v)
      y = Einsum <equation = "bqhd,hdo->bqo"> (o, wo)
    }"""
    weights = dict(wq=(8, 4, 6), wk=(8, 4, 6), wv=(8, 4, 6), wo=(4, 6, 5))
    kept = dict.fromkeys(("wq", "wk", "wv"), (8, 2, 3)) | {"wo": (2, 3, 5)}
    result = onnxprune.prune(make(body, weights), ratio=0.5, attention="both")
    assert shapes_of(result.model) == kept
    assert result.report.put_back == []


def test_einsum_that_takes_a_diagonal_ties_both_axes():
    check(
        Case(
            "diagonal",
            """(float[5, 3] x) => (float[2] y) {
              a = MatMul (w1, x)
              b = MatMul (a, w2)
              d = Einsum <equation = "ii->i"> (b)
              y = MatMul (d, w3)
            }""",
            dict(w1=(6, 5), w2=(3, 6), w3=(6, 2)),
            ["channel 6"],
            dict(w1=(3, 5), w2=(3, 3), w3=(3, 2)),
        )
    )
