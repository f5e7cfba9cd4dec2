"""If, Loop and Scan: captures and weights inside, with what crosses a border tied on both sides; functions."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import Case, check, feeds_of, make, run, table

W = dict(w1=(5, 8), w2=(8, 2))
CUT = dict(w1=(5, 4), w2=(4, 2))

CASES = [
    Case(
        "If whose branches both compute on a capture",
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = If (c) <
            then_branch = g1 () => (float[3, 8] t) { t = Relu (a) },
            else_branch = g2 () => (float[3, 8] e) { e = Neg (a) }
          >
          y = MatMul (b, w2)
        }""",
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "If that ends in weights of its own",
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          y = If (c) <
            then_branch = g1 () => (float[3, 2] t) { t = MatMul (a, w2) },
            else_branch = g2 () => (float[3, 2] e) { r = Relu (a)  e = MatMul (r, w3) }
          >
        }""",
        W | dict(w3=(8, 2)),
        ["channel 8"],
        CUT | dict(w3=(4, 2)),
    ),
    Case(
        "Loop that carries channels",
        """(float[3, 5] x, int64 n, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = Loop (n, c, a) <
            body = g (int64 i, bool ci, float[3, 8] h) => (bool co, float[3, 8] ho) {
              co = Identity (ci)
              m = MatMul (h, r)
              s = Add (m, a)
              ho = Relu (s)
            }
          >
          y = MatMul (b, w2)
        }""",
        W | dict(r=(8, 8)),
        ["channel 8"],
        CUT | dict(r=(4, 4)),
    ),
    Case(
        "Loop with a scan output",
        """(float[3, 5] x, int64 n, bool c) => (float[K, 3, 2] y) {
          a = MatMul (x, w1)
          b, k = Loop (n, c, a) <
            body = g (int64 i, bool ci, float[3, 8] h) => (bool co, float[3, 8] ho, float[3, 8] so) {
              co = Identity (ci)
              ho = Tanh (h)
              so = Neg (h)
            }
          >
          y = MatMul (k, w2)
        }""",
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "Scan over positions with a state",
        """(float[7, 3, 5] x) => (float[3, 2] y, float[7, 3, 2] v) {
          a = MatMul (x, w1)
          h, s = Scan <num_scan_inputs = 1,
            body = g (float[3, 6] hi, float[3, 8] xi) => (float[3, 6] ho, float[3, 6] so) {
              p = MatMul (xi, u)
              q = MatMul (hi, r)
              z = Add (p, q)
              ho = Tanh (z)
              so = Identity (ho)
            }
          > (zero, a)
          y = MatMul (h, w2)
          v = MatMul (s, w2)
        }""",
        dict(w1=(5, 8), u=(8, 6), r=(6, 6), w2=(6, 2), zero=np.zeros((3, 6), np.float32)),
        ["channel 8", "channel 6"],
        dict(w1=(5, 4), u=(4, 3), r=(3, 3), w2=(3, 2), zero=(3, 3)),
    ),
    Case(
        "weights inside a branch",
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          y = If (c) <
            then_branch = g1 () => (float[3, 2] t)
              <float[5, 4] wi = {0.5,-1,2,3,1,2,-3,4,5,6,-7,8,1,1,-2,2,3,3,4,-4}, float[4, 2] wj = {1,2,3,-4,5,6,-7,8}>
              { h = MatMul (x, wi)  r = Relu (h)  t = MatMul (r, wj) },
            else_branch = g2 () => (float[3, 2] e) { h2 = MatMul (x, w1)  e = MatMul (h2, w2) }
          >
        }""",
        W,
        ["channel 4", "channel 8"],
        CUT | dict(wi=(5, 2), wj=(2, 2)),
    ),
    Case(
        "model-local functions, one in another",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = local.outer (a, s)
          y = MatMul (b, w2)
        }""",
        W | dict(s=(8,)),
        ["channel 8"],
        CUT | dict(s=(4,)),
        functions="""
          <domain: "local", opset_import: ["" : 17, "local" : 1]>
          outer (p, q) => (r) { t = Mul (p, q)  r = local.inner (t) }
          <domain: "local", opset_import: ["" : 17]>
          inner (p) => (r) { u = Sigmoid (p)  r = Mul (p, u) }
        """,
        domains=["local"],
    ),
]


@table(CASES)
def test_control_flow(case):
    check(case)


@pytest.mark.parametrize("taken", [True, False])
def test_both_branches_are_right(taken):
    """The verification takes one branch; the other has to be right too."""
    from tests.models_text import without

    case = next(c for c in CASES if c.id == "If that ends in weights of its own")
    result = onnxprune.prune(case.model, ratio=0.5)
    feeds = feeds_of(case.model, {"x": (3, 5), "c": ()}) | {"c": np.array(taken)}
    expected, actual = run(without(case.model, result.plan), feeds), run(result.model, feeds)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5)


def test_an_outer_value_that_a_body_needs_whole_stays():
    model = make(
        """(float[3, 5] x, bool c) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = If (c) <
            then_branch = g1 () => (float[3, 8] t) { t = Softmax <axis = -1> (a) },
            else_branch = g2 () => (float[3, 8] e) { e = Identity (a) }
          >
          y = MatMul (b, w2)
        }""",
        W,
    )
    groups = onnxprune.analyze(model)
    assert groups.groups == []
    assert any("Softmax" in f.reason for f in groups.frozen if (f.weight, f.axis) == ("w1", 1))
