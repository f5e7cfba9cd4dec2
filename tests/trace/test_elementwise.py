"""Elementwise operators tie what they combine; f(0) decides what may be summed afterwards."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import Case, check, ints, make, positive, table

W = dict(w1=(5, 8), b1=(8,), w2=(8, 2))
CUT = dict(w1=(5, 4), b1=(4,), w2=(4, 2))


def between(*nodes: str, inputs: str = "", rows: int = 3) -> str:
    """Nodes from a (rows, 8) to n (rows, 8), between two dense layers."""
    text = "\n          ".join(nodes)
    return f"""(float[{rows}, 5] x{inputs}) => (float[{rows}, 2] y) {{
          m = MatMul (x, w1)
          a = Add (m, b1)
          {text}
          y = MatMul (n, w2)
        }}"""


UNARY = [
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
    "Shrink",
    "Tanh",
    "Erf",
    "Abs",
    "Neg",
    "Sign",
    "Sin",
    "Sinh",
    "Atan",
    "Asinh",
    "Softsign",
    "HardSwish",
    "Floor",
    "Ceil",
    "Round",
    "Identity",
    "Sigmoid",
    "HardSigmoid",
    "Exp",
    "Softplus",
    "Cos",
    "Cosh",
    "Mish",
    "Dropout",
    "Gelu",
]


@pytest.mark.parametrize("op", UNARY)
def test_unary(op):
    check(Case(op, between(f"n = {op} (a)"), W, ["channel 8"], CUT, opset=20))


RUNTIME = {
    "Gelu": ("n = com.microsoft.Gelu (a)", {}, {}),
    "QuickGelu": ("n = com.microsoft.QuickGelu <alpha = 1.702> (a)", {}, {}),
    "BiasGelu": ("n = com.microsoft.BiasGelu (a, c)", dict(c=(8,)), dict(c=(4,))),
    "FastGelu": ("n = com.microsoft.FastGelu (a)", {}, {}),
    "FastGelu with bias": ("n = com.microsoft.FastGelu (a, c)", dict(c=(8,)), dict(c=(4,))),
}


@pytest.mark.parametrize("name", RUNTIME)
def test_runtime_activation(name):
    text, weights, cut = RUNTIME[name]
    check(Case(name, between(text), W | weights, ["channel 8"], CUT | cut, ms=True))


CASES = [
    Case("PRelu with a slope per channel", between("n = PRelu (a, s)"), W | dict(s=(8,)), ["channel 8"], CUT | dict(s=(4,))),
    Case("PRelu with one slope", between("n = PRelu (a, s)"), W | dict(s=(1,)), ["channel 8"], CUT),
    Case(
        "Where",
        between("z = MatMul (x, w3)", "k = Greater (a, z)", "n = Where (k, a, z)"),
        W | dict(w3=(5, 8)),
        ["channel 8"],
        CUT | dict(w3=(5, 4)),
    ),
    Case(
        "Where with a mask from outside",
        between("n = Where (k, a, zero)", inputs=", bool[3, 1] k"),
        W | dict(zero=np.array(0, np.float32)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "Where with a constant mask per channel",
        between("n = Where (k, a, c)"),
        W | dict(k=np.array([[True, False] * 4]), c=(8,)),
        [],
        {},
        frozen={"w1:1": "constant 'k'"},
    ),
    Case(
        "Cast to double and back",
        between("d = Cast <to = 11> (a)", "r = Relu (d)", "n = Cast <to = 1> (r)"),
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "CastLike",
        between("d = CastLike (a, like)", "n = CastLike (d, x)", inputs=", double[1] like"),
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "CastLike of a weight, like an activation",
        between("c = CastLike (v, a)", "n = Mul (a, c)"),
        W | dict(v=(8,)),
        ["channel 8"],
        CUT | dict(v=(4,)),
    ),
    Case(
        "Sum, Max, Min and Mean of several",
        between("z = MatMul (x, w3)", "s = Sum (a, z, c)", "t = Max (s, a)", "u = Min (t, z)", "n = Mean (u, a)"),
        W | dict(w3=(5, 8), c=(8,)),
        ["channel 8"],
        CUT | dict(w3=(5, 4), c=(4,)),
    ),
    Case(
        "division by a weight",
        between("n = Div (a, d)"),
        W | dict(d=positive(8)),
        ["channel 8"],
        CUT | dict(d=(4,)),
        ones=["d"],
    ),
    Case(
        "division by what is zero once its weights are",
        between("z = MatMul (x, w3)", "n = Div (a, z)"),
        W | dict(w3=(5, 8)),
        [],
        {},
        frozen={"w1:1": "divides by it", "w3:1": "divides by it"},
    ),
    Case(
        "Pow",
        between("p = Pow (a, two)", "n = Pow (p, e)"),
        W | dict(two=np.array(2, np.float32), e=np.array(1.5, np.float32)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "Clip around zero and away from it",
        between("r = Clip (a, low, high)", "n = Clip (r, half)"),
        W | dict(low=np.array(-1, np.float32), high=np.array(1, np.float32), half=np.array(0.5, np.float32)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "a scalar and a size-1 axis do nothing",
        between("b = Mul (a, s)", "n = Add (b, t)"),
        W | dict(s=np.array(3, np.float32), t=(3, 1)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "a column vector of activations ties nothing",
        between("g = MatMul (x, wg)", "h = Sigmoid (g)", "n = Mul (a, h)"),
        W | dict(wg=(5, 1)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "an input at full size freezes",
        between("n = Add (a, z)", inputs=", float[3, 8] z"),
        W,
        [],
        {},
        frozen={"w1:1": "graph input 'z'"},
    ),
    Case(
        "softmax over channels",
        between("n = Softmax <axis = -1> (a)"),
        W,
        [],
        {},
        frozen={"w1:1": "Softmax 'n'", "w2:0": "Softmax 'n'"},
    ),
    Case("softmax over another axis", between("n = Softmax <axis = 0> (a)"), W, ["channel 8"], CUT),
    Case(
        "softmax before opset 13 runs over all axes from its own",
        between("n = Softmax <axis = 0> (a)"),
        W,
        [],
        {},
        frozen={"w1:1": "Softmax 'n'"},
        opset=11,
    ),
    Case(
        "LogSoftmax and Hardmax",
        between("l = LogSoftmax <axis = 0> (a)", "n = Hardmax <axis = 0> (l)"),
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "TopK over channels",
        between("v, i = TopK (a, k)", "n = Concat <axis = 1> (v, v)"),
        W | dict(k=ints(4)),
        [],
        {},
        frozen={"w1:1": "TopK 'v'"},
    ),
    Case(
        "TopK over rows",
        between("n, i = TopK <axis = 0> (a, k)").replace("=> (float[3, 2] y)", "=> (float[2, 2] y)"),
        W | dict(k=ints(2)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "ArgMax over channels",
        """(float[3, 5] x) => (int64[3, 1] y) {
          a = MatMul (x, w1)
          b = Relu (a)
          c = MatMul (b, w2)
          y = ArgMax <axis = 1> (c)
        }""",
        dict(w1=(5, 8), w2=(8, 6)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(4, 6)),
        frozen={"w2:1": "ArgMax 'y'"},
    ),
    Case(
        "CumSum over rows and over channels",
        between("c = CumSum (a, zero)", "d = MatMul (c, w3)", "e = CumSum (d, one)", "n = Relu (e)"),
        dict(w1=(5, 6), b1=(6,), w3=(6, 8), w2=(8, 2), zero=np.array(0), one=np.array(1)),
        ["channel 6"],
        dict(w1=(5, 3), b1=(3,), w3=(3, 8)),
        frozen={"w3:1": "CumSum 'e'", "w2:0": "CumSum 'e'"},
    ),
    Case(
        "Trilu of positions",
        """(float[2, 4, 5] x) => (float[4, 4, 2] y) {
          a = MatMul (x, w1)
          t = Transpose <perm = [2, 0, 1]> (a)
          u = MatMul (z, t)
          v = Trilu (u)
          w = Transpose <perm = [2, 1, 0]> (v)
          y = MatMul (w, w2)
        }""",
        dict(w1=(5, 8), z=(8, 4, 2), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(5, 4), z=(4, 4, 2), w2=(4, 2)),
    ),
    Case(
        "ReduceSum over channels is exact where they are zero",
        """(float[3, 5] x) => (float[3, 1] y) {
          a = MatMul (x, w1)
          r = Relu (a)
          y = ReduceSum (r, one)
        }""",
        dict(w1=(5, 8), one=ints(1)),
        ["channel 8"],
        dict(w1=(5, 4)),
    ),
    Case(
        "ReduceSumSquare, ReduceL1 and ReduceL2 likewise",
        """(float[3, 5] x) => (float[3] y) {
          a = MatMul (x, w1)
          p = ReduceSumSquare <axes = [1], keepdims = 0> (a)
          q = ReduceL1 <axes = [1], keepdims = 0> (a)
          r = ReduceL2 <axes = [-1], keepdims = 0> (a)
          s = Add (p, q)
          y = Add (s, r)
        }""",
        dict(w1=(5, 8)),
        ["channel 8"],
        dict(w1=(5, 4)),
        opset=13,
    ),
    Case(
        "ReduceMean over rows",
        """(float[3, 5] x) => (float[2] y) {
          a = MatMul (x, w1)
          m = ReduceMean <axes = [0], keepdims = 0> (a)
          y = MatMul (m, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(4, 2)),
    ),
    Case(
        "ReduceMax over rows with axes as an input",
        """(float[3, 5] x) => (float[1, 2] y) {
          a = MatMul (x, w1)
          m = ReduceMax (a, zero)
          y = MatMul (m, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2), zero=ints(0)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(4, 2)),
        opset=20,
    ),
    Case(
        "ReduceSum over channels that are not zero",
        """(float[3, 5] x) => (float[3, 1] y) {
          a = MatMul (x, w1)
          r = Exp (a)
          y = ReduceSum (r, one)
        }""",
        dict(w1=(5, 8), one=ints(1)),
        [],
        {},
        frozen={"w1:1": "ReduceSum 'y'"},
    ),
    Case(
        "an operator without a rule",
        between("n = Det2 (a)")
        .replace("n = Det2 (a)", "s = SequenceConstruct (a, a)\n n = ConcatFromSequence <axis = 0> (s)")
        .replace("=> (float[3, 2] y)", "=> (float[6, 2] y)"),
        W,
        [],
        {},
        frozen={"w1:1": "no rule for ai.onnx::SequenceConstruct"},
    ),
]


@table(CASES)
def test_elementwise(case):
    check(case)


def test_what_is_unknown_is_named():
    """Unknown means frozen with a reason that names node and operator, never skipped in silence."""
    body = between("n = com.acme.Foo (a)")
    model = make(body, W, domains=["com.acme"])
    groups = onnxprune.analyze(model)
    assert groups.groups == []
    reasons = {(f.weight, f.axis): f.reason for f in groups.frozen}
    assert reasons["w1", 1] == "Foo 'n': no rule for com.acme::Foo"
    assert list(groups.trace.unknown) == ["com.acme::Foo"]
