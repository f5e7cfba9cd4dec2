"""What a weight may be stored as: opsets, IR versions, types, Constant nodes, quantized weights, dynamic shapes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from tests.models_text import Case, check, ints, make, node, run, shapes_of, table

MLP = """(float[N, 5] x) => (float[N, 2] y) {
  a = Gemm (x, w1, b1)
  b = Relu (a)
  y = Gemm (b, w2, b2)
}"""
W = dict(w1=(5, 8), b1=(8,), w2=(8, 2), b2=(2,))
CUT = dict(w1=(5, 4), b1=(4,), w2=(4, 2))


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17, 18, 20, 21, 23, 24])
def test_opset(opset):
    """A convolution, a split, a reshape and a reduction: attributes that became inputs."""
    reduce = "m = ReduceMean (t, three)" if opset >= 18 else "m = ReduceMean <axes = [3]> (t)"
    split = {True: "p, q = Split <axis = 1> (r)", False: "p, q = Split <axis = 1, num_outputs = 2> (r)"}[opset < 18]
    squeeze = "u = Squeeze (m, three)" if opset >= 13 else "u = Squeeze <axes = [3]> (m)"
    body = f"""(float[2, 3, 6, 6] x) => (float[2, 2] y) {{
      a = Conv (x, w1, b1)
      r = BatchNormalization (a, g, b, mu, v)
      {split}
      s = Mul (p, q)
      t = Relu (s)
      {reduce}
      {squeeze}
      f = Reshape (u, flat)
      y = Gemm (f, w2, b2)
    }}"""
    weights = dict(
        w1=(8, 3, 3, 3),
        b1=(8,),
        g=(8,),
        b=(8,),
        mu=(8,),
        v=np.full(8, 0.7, np.float32),
        w2=(16, 2),
        b2=(2,),
        flat=ints(2, 16),
    )
    if opset >= 13:
        weights["three"] = ints(3)
    kept = dict(w1=(4, 3, 3, 3), b1=(4,), g=(4,), b=(4,), mu=(4,), v=(4,), w2=(8, 2))
    check(Case("opset", body, weights, ["channel 4"], kept, opset=opset))


CASES = [
    Case("IR 3 with initializers listed as inputs", MLP, W, ["channel 8"], CUT, opset=8, ir=3, listed=True),
    Case("double", MLP.replace("float", "double"), W, ["channel 8"], CUT, dtype=np.float64),
    Case("half", MLP.replace("float", "float16"), W, ["channel 8"], CUT, dtype=np.float16, error=5e-3),
    Case(
        "Constant nodes as weights",
        """(float[3, 5] x) => (float[3, 2] y) {
          w1 = Constant <value = float[5, 4] {0.5,-1,2,3,1,2,-3,4,5,6,-7,8,1,1,-2,2,3,3,4,-4}> ()
          w2 = Constant <value = float[4, 2] {1,2,3,-4,5,6,-7,8}> ()
          a = MatMul (x, w1)
          b = Relu (a)
          y = MatMul (b, w2)
        }""",
        {},
        ["channel 4"],
        dict(w1=(5, 2), w2=(2, 2)),
    ),
    Case(
        "Identity, Transpose, Cast and Reshape of a weight",
        """(float[3, 5] x) => (float[3, 2] y) {
          i = Identity (w1)
          t = Transpose (i)
          a = MatMul (x, t)
          h = Cast <to = 1> (w2)
          r = Reshape (h, s)
          y = MatMul (a, r)
        }""",
        dict(w1=(8, 5), w2=np.arange(16).reshape(1, 8, 2).astype(np.float64), s=ints(8, 2)),
        ["channel 8"],
        dict(w1=(4, 5), w2=(1, 4, 2)),
    ),
    Case(
        "Unsqueeze, Concat and Slice of weights",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          u = Unsqueeze (b1, zero)
          b = Add (a, u)
          c = Concat <axis = 0> (w2, w3)
          d = Slice (c, zero, eight, zero)
          y = MatMul (b, d)
        }""",
        dict(w1=(5, 8), b1=(8,), w2=(3, 2), w3=(7, 2), zero=ints(0), eight=ints(8)),
        ["channel 3", "channel 5", "channel 2"],
        dict(w1=(5, 5), b1=(5,), w2=(2, 2), w3=(4, 2)),
    ),
    Case(
        "ConstantOfShape as a weight",
        """(float[3, 5] x) => (float[3, 2] y) {
          w1 = ConstantOfShape <value = float[1] {0.25}> (s)
          m = Mul (w1, g)
          a = MatMul (x, m)
          b = Relu (a)
          y = MatMul (b, w2)
        }""",
        dict(s=ints(5, 8), g=(8,), w2=(8, 2)),
        ["channel 8"],
        dict(g=(4,), w2=(4, 2)),
        own_oracle=False,
    ),
    Case(
        "weights quantized per tensor",
        """(float[3, 5] x) => (float[3, 2] y) {
          w1 = DequantizeLinear (q1, s1, z1)
          a = MatMul (x, w1)
          b = Relu (a)
          w2 = DequantizeLinear (q2, s2)
          y = MatMul (b, w2)
        }""",
        dict(
            q1=np.arange(40, dtype=np.uint8).reshape(5, 8),
            s1=np.array(0.1, np.float32),
            z1=np.array(7, np.uint8),
            q2=np.arange(-8, 8, dtype=np.int8).reshape(8, 2),
            s2=np.array(0.2, np.float32),
        ),
        ["channel 8"],
        dict(q1=(5, 4), q2=(4, 2)),
        own_oracle=False,
    ),
    Case(
        "weights quantized per axis",
        """(float[3, 5] x) => (float[3, 2] y) {
          w1 = DequantizeLinear <axis = 1> (q1, s1, z1)
          a = MatMul (x, w1)
          b = Relu (a)
          w2 = DequantizeLinear <axis = 0> (q2, s2, z2)
          y = MatMul (b, w2)
        }""",
        dict(
            q1=np.arange(40, dtype=np.uint8).reshape(5, 8),
            s1=np.linspace(0.1, 1, 8).astype(np.float32),
            z1=np.arange(8, dtype=np.uint8),
            q2=np.arange(-8, 8, dtype=np.int8).reshape(8, 2),
            s2=np.linspace(0.1, 1, 8).astype(np.float32),
            z2=np.zeros(8, np.int8),
        ),
        ["channel 8"],
        dict(q1=(5, 4), s1=(4,), z1=(4,), q2=(4, 2), s2=(4,), z2=(4,)),
        own_oracle=False,
    ),
    Case(
        "QDQ around an activation",
        """(float[3, 5] x) => (float[3, 2] y) {
          a = MatMul (x, w1)
          q = QuantizeLinear (a, s, z)
          d = DequantizeLinear (q, s, z)
          y = MatMul (d, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2), s=np.array(0.05, np.float32), z=np.array(0, np.int8)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(4, 2)),
        error=0.02,
    ),
    Case(
        "many inputs and outputs",
        """(float[3, 5] x, float[3, 4] z, float[3, 2] u) => (float[3, 2] y, float[3, 8] v, float[3, 2] o) {
          a = MatMul (x, w1)
          b = MatMul (z, w2)
          c = Concat <axis = 1> (a, b)
          d = MatMul (c, w3)
          y = Add (d, u)
          v = MatMul (x, w4)
          r = Relu (b)
          o = MatMul (r, w5)
        }""",
        dict(w1=(5, 8), w2=(4, 6), w3=(14, 2), w4=(5, 8), w5=(6, 2)),
        ["channel 8", "channel 6"],
        dict(w1=(5, 4), w2=(4, 3), w3=(7, 2), w5=(3, 2)),
        frozen={"w4:1": "graph output 'v'"},
    ),
    Case(
        "a tensor that is used inside and is an output stays",
        """(float[3, 5] x) => (float[3, 2] y, float[3, 8] a) {
          a = MatMul (x, w1)
          y = MatMul (a, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2)),
        [],
        {},
        frozen={"w1:1": "graph output 'a'", "w2:0": "graph output 'a'"},
    ),
    Case(
        "an initializer that is a graph output stays",
        """(float[3, 5] x) => (float[3, 2] y, float[8] b1) {
          a = MatMul (x, w1)
          b = Add (a, b1)
          y = MatMul (b, w2)
        }""",
        dict(w1=(5, 8), b1=(8,), w2=(8, 2)),
        [],
        {},
        frozen={"w1:1": "graph output 'b1'"},
    ),
]


@table(CASES)
def test_format(case):
    check(case)


def test_bfloat16():
    """ONNX Runtime has few bfloat16 kernels on a CPU: it is pruned all the same, and says what could not be checked."""
    model = make(MLP.replace("float", "bfloat16"), {}, opset=21)
    for name, shape in W.items():
        values = np.random.default_rng(len(name)).standard_normal(shape)
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.BFLOAT16, shape, values.ravel()))
    result = onnxprune.prune(model, ratio=0.5)
    assert shapes_of(result.model) == {**shapes_of(model), **CUT}
    assert result.report.failures == []
    verification = result.report.verification
    assert verification.passed if verification is not None else "can't run the source" in result.report.unverified
    onnx.checker.check_model(result.model, full_check=True)


def test_dynamic_shapes_stay_dynamic():
    model = make(
        """(float[batch, length, 5] x, float[batch, length, 8] z) => (float[batch, length, 2] y) {
          a = MatMul (x, w1)
          b = MatMul (z, w2)
          c = Add (a, b)
          d = Relu (c)
          y = MatMul (d, w3)
        }""",
        dict(w1=(5, 6), w2=(8, 6), w3=(6, 2)),
    )
    result = onnxprune.prune(model, ratio=0.5)
    sizes = list(result.report.shapes["x"])
    assert len({*sizes}) == 3 and min(sizes) >= 2
    for batch, length in ((1, 1), (4, 9)):
        x = {"x": np.ones((batch, length, 5), np.float32), "z": np.ones((batch, length, 8), np.float32)}
        assert run(result.model, x)[0].shape == (batch, length, 2)


def test_given_shapes_are_used():
    result = onnxprune.prune(make(MLP, W), ratio=0.5, shapes={"x": [3, 5]})
    assert result.report.shapes == {"x": (3, 5)}


def test_metadata_stays():
    model = make(MLP, W)
    model.producer_name = "somebody"
    helper.set_model_props(model, {"key": "value"})
    model.graph.node[0].doc_string = "first"
    model.graph.node[0].name = "one"
    result = onnxprune.prune(model, ratio=0.5)
    assert result.model.producer_name == "somebody"
    assert [(p.key, p.value) for p in result.model.metadata_props] == [("key", "value")]
    assert (node(result.model, "Gemm").name, node(result.model, "Gemm").doc_string) == ("one", "first")
