"""Every derivative against central differences of what ONNX Runtime computes, in double precision where it has that."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from onnxprune.gradient.backward import Backward, expanded
from onnxprune.gradient.registry import _rules, find

RNG = np.random.default_rng(0)


def normal(*shape):
    return np.random.default_rng([7, *shape]).standard_normal(shape)


def positive(*shape):
    return np.abs(normal(*shape)) + 0.5


def within(*shape):
    return np.tanh(normal(*shape)) * 0.9


def ints(*values):
    return np.array(values, np.int64)


# name: operator, inputs, attributes, and optionally which inputs are differentiated, opset, number of outputs
def case(op, *inputs, wanted=(0,), opset=20, outputs=1, domain="", **attrs):
    return op, inputs, attrs, wanted, opset, outputs, domain


UNARY = [
    "Abs", "Asinh", "Atan", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Tanh",
    "ThresholdedRelu", "Identity",
]  # fmt: skip
CASES = {op: case(op, normal(3, 5)) for op in UNARY}
CASES |= {op: case(op, positive(3, 5)) for op in ("Log", "Sqrt", "ReduceLogSum")}
CASES |= {op: case(op, within(3, 5)) for op in ("Acos", "Asin", "Atanh", "Tan")}
CASES |= {"Acosh": case("Acosh", 1.2 + positive(3, 5)), "Gelu tanh": case("Gelu", normal(3, 5), approximate="tanh")}
CASES |= {
    op: case(op, normal(3, 1, 5), normal(4, 1), wanted=(0, 1)) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")
}
CASES |= {op: case(op, normal(2, 3, 4), ints(1, -1)) for op in (
    "ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceMax", "ReduceMin",
)}  # fmt: skip
CASES |= {
    "Div": case("Div", normal(2, 3), positive(3), wanted=(0, 1)),
    "Pow": case("Pow", positive(2, 3), normal(3), wanted=(0, 1)),
    "Pow of negative numbers": case("Pow", normal(2, 3), np.array(2.0)),
    "PRelu": case("PRelu", normal(2, 3, 4), positive(3, 1)),
    "Clip": case("Clip", normal(4, 5), np.array(-0.5), np.array(0.6)),
    "Cast": case("Cast", normal(3), to=TensorProto.DOUBLE),
    "Where": case("Where", normal(2, 3) > 0, normal(3), normal(2, 1), wanted=(1, 2)),
    "ReduceSum of all": case("ReduceSum", normal(2, 3), keepdims=0),
    "ReduceMean by attribute": case("ReduceMean", normal(2, 3, 4), opset=13, axes=[1], keepdims=0),
    "ReduceSum of nothing": case("ReduceSum", normal(2, 3), ints(), noop_with_empty_axes=1),
    "CumSum": case("CumSum", normal(2, 5), np.array(1)),
    "CumSum reversed": case("CumSum", normal(2, 5), np.array(0), reverse=1),
    "TopK": case("TopK", normal(3, 6), ints(2), outputs=2),
    "MatMul": case("MatMul", normal(2, 1, 3, 4), normal(5, 4, 2), wanted=(0, 1)),
    "MatMul with a matrix": case("MatMul", normal(2, 3, 4), normal(4, 5), wanted=(0, 1)),
    "MatMul of a vector": case("MatMul", normal(4), normal(3, 4, 2), wanted=(0, 1)),
    "MatMul with a vector": case("MatMul", normal(3, 2, 4), normal(4), wanted=(0, 1)),
    "MatMul of vectors": case("MatMul", normal(4), normal(2, 4)[0], wanted=(0, 1)),
    "Gemm": case("Gemm", normal(4, 3), normal(5, 4), normal(5), wanted=(0, 1, 2), transA=1, transB=1, alpha=0.5, beta=2.0),
    "Gemm plain": case("Gemm", normal(3, 4), normal(4, 5), wanted=(0, 1)),
    "Einsum": case("Einsum", normal(2, 3, 4), normal(5, 4), wanted=(0, 1), equation="bij,kj->bik"),
    "Einsum with a sum": case("Einsum", normal(2, 3), normal(3, 4), wanted=(0, 1), equation="ij,jk->k"),
    "Softmax": case("Softmax", normal(2, 3, 4), axis=1),
    "Softmax of old": case("Softmax", normal(2, 3, 4), opset=11, axis=1),
    "LogSoftmax": case("LogSoftmax", normal(2, 3, 4)),
    "BatchNormalization": case("BatchNormalization", normal(2, 3, 4), normal(3), normal(3), normal(3), positive(3)),
    "LayerNormalization": case("LayerNormalization", normal(2, 3, 4), normal(3, 4), normal(3, 4), axis=1),
    "RMSNormalization": case("RMSNormalization", normal(2, 3, 4), normal(4), opset=23),
    "InstanceNormalization": case("InstanceNormalization", normal(2, 3, 4, 2), normal(3), normal(3)),
    "GroupNormalization": case("GroupNormalization", normal(2, 6, 4), normal(6), normal(6), opset=21, num_groups=3, stash_type=11),
    "GroupNormalization of old": case("GroupNormalization", normal(2, 6, 4), normal(3), normal(3), opset=18, num_groups=3),
    "LpNormalization": case("LpNormalization", normal(2, 5), axis=1),
    "MeanVarianceNormalization": case("MeanVarianceNormalization", normal(2, 3, 4, 2)),
    "LRN": case("LRN", normal(2, 6, 3, 3), size=5, alpha=0.5, beta=0.7, bias=1.5),
    "Reshape": case("Reshape", normal(2, 6), ints(3, -1)),
    "Flatten": case("Flatten", normal(2, 3, 4)),
    "Squeeze": case("Squeeze", normal(2, 1, 3), ints(1)),
    "Unsqueeze": case("Unsqueeze", normal(2, 3), ints(1)),
    "Transpose": case("Transpose", normal(2, 3, 4), perm=[1, 2, 0]),
    "Concat": case("Concat", normal(2, 3), normal(2, 4), wanted=(0, 1), axis=1),
    "Concat of the same": case("Concat", normal(2, 3), normal(2, 3), wanted=(0,), axis=0),
    "Split": case("Split", normal(2, 6), ints(2, 4), outputs=2, axis=1),
    "Slice": case("Slice", normal(5, 6), ints(4, 1), ints(0, 6), ints(0, 1), ints(-2, 3)),
    "GatherND": case("GatherND", normal(3, 4), np.array([[0], [2], [2]])),
    "Compress": case("Compress", normal(4, 3), np.array([True, False, True]), axis=0),
    "ReverseSequence": case("ReverseSequence", normal(4, 2, 3), ints(3, 2)),
    "Gather": case("Gather", normal(5, 3), ints(0, 2, 2, -1)),
    "GatherElements": case("GatherElements", normal(3, 3), np.array([[0, 0, 2]]), axis=0),
    "Expand": case("Expand", normal(3, 1), ints(2, 3, 4)),
    "Tile": case("Tile", normal(2, 3), ints(2, 2)),
    "Pad": case("Pad", normal(2, 3), ints(0, 1, 1, -1), np.array(7.0)),
    "Pad by reflection": case("Pad", normal(2, 5), ints(0, 2, 0, 2), mode="reflect"),
    "Trilu": case("Trilu", normal(4, 4), upper=0),
    "DepthToSpace": case("DepthToSpace", normal(2, 8, 2, 3), blocksize=2),
    "SpaceToDepth": case("SpaceToDepth", normal(2, 2, 4, 6), blocksize=2),
    "Conv": case("Conv", normal(2, 4, 7, 6), normal(6, 2, 3, 2), group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
    "Conv depthwise": case("Conv", normal(2, 3, 6, 6), normal(6, 1, 3, 3), group=3, pads=[1, 1, 1, 1]),
    "Conv in one dimension": case("Conv", normal(2, 3, 9), normal(4, 3, 3), strides=[2], auto_pad="SAME_LOWER"),
    "ConvTranspose": case("ConvTranspose", normal(2, 4, 4, 3), normal(4, 3, 3, 2), group=2, strides=[2, 3], pads=[1, 0, 0, 1],
                          output_padding=[1, 0]),
    "MaxPool": case("MaxPool", normal(2, 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "AveragePool": case("AveragePool", normal(2, 2, 7, 7), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "AveragePool with padding": case("AveragePool", normal(2, 2, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1],
                                     count_include_pad=1),
    "GlobalAveragePool": case("GlobalAveragePool", normal(2, 3, 4, 4)),
    "GlobalMaxPool": case("GlobalMaxPool", normal(2, 3, 4, 4)),
    "Attention": case("Attention", normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4), wanted=(0, 1, 2), opset=23),
    "QuickGelu": case("QuickGelu", normal(3, 4), domain="com.microsoft", alpha=1.3),
}  # fmt: skip


def model_of(op, inputs, attrs, opset=17, outputs=1, domain="", kind=None, keep_empty=False):
    """One node, in double precision where ONNX Runtime has that, and a function that computes tensors of it."""
    names = [f"x{k}" if a.size or keep_empty else "" for k, a in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{k}" for k in range(outputs)], domain=domain, **attrs)
    if op == "Cast":
        node.attribute[0].i = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    feeds = {n: a.astype(kind) if a.dtype.kind == "f" and kind else a for n, a in zip(names, inputs, strict=True) if n}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    results = [helper.make_empty_tensor_value_info(o) for o in node.output]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", infos, results), opset_imports=imports, ir_version=10)
    return model, feeds


def runner(model, names):
    """A session that computes some tensors."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_central_differences(name):
    op, inputs, attrs, wanted, opset, outputs, domain = CASES[name]
    for kind, h, tolerance in ((np.float64, 1e-5, 1e-5), (np.float32, 1e-2, 4e-3)):  # noqa: B007
        model, feeds = model_of(op, inputs, attrs, opset, outputs, domain, kind)
        model = expanded(model)
        back = Backward(model, [f"x{k}" for k in wanted], ["y0"])
        assert not back.stopped
        try:
            run = runner(model, back.fetched)
            break
        except (InvalidGraph, NoKernel):  # not in doubles
            continue
    values = run(feeds)
    seed = RNG.standard_normal(np.shape(values["y0"])).astype(kind)
    found = back.gradients({**feeds, **values}, {"y0": seed})

    def loss(k, place, step):
        moved = feeds[f"x{k}"].copy()
        moved[place] += step
        return float((run({**feeds, f"x{k}": moved})["y0"].astype(np.float64) * seed).sum())

    for k in wanted:
        gradient = found[f"x{k}"].gradient
        assert gradient.shape == inputs[k].shape and gradient.dtype == kind
        places = list(np.ndindex(*inputs[k].shape))
        for place in [places[i] for i in RNG.permutation(len(places))[:6]]:
            expected = (loss(k, place, h) - loss(k, place, -h)) / (2 * h)
            assert gradient[place] == pytest.approx(expected, rel=tolerance, abs=tolerance), (k, place, kind)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(opset, mode):
    """Linear, so that <dy, f(e)> is the gradient at e; single precision, because ONNX Runtime has no other."""
    x = normal(1, 2, 4, 3).astype(np.float32)
    sizes = ints(1, 2, 7, 6) if mode != "linear" else ints()
    scales = np.array([] if mode != "linear" else [1, 1, 2, 0.7], np.float32)
    inputs = (x, np.zeros(0, np.float32), scales, *([sizes] if sizes.size else []))
    model, feeds = model_of("Resize", inputs, {"mode": mode}, opset, keep_empty=opset < 13)
    run = runner(model, ["y0"])
    y = run(feeds)["y0"]
    dy = RNG.standard_normal(y.shape).astype(np.float32)
    found = Backward(model, ["x0"], ["y0"]).gradients({**feeds, "y0": y}, {"y0": dy})["x0"].gradient
    for place in np.ndindex(*x.shape):
        unit = np.zeros_like(x)
        unit[place] = 1
        assert found[place] == pytest.approx(float((run({**feeds, "x0": unit})["y0"] * dy).sum()), abs=1e-4)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "GRU reset after", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent(op, direction):
    """Against single precision runs: X and the initial state, and the columns of R for each sample."""
    kind, count = op.split()[0], {"LSTM": 4, "GRU": 3, "RNN": 1}[op.split()[0]]
    d, t, n, i, h = (2 if direction == "bidirectional" else 1), 4, 3, 5, 6
    x, h0 = normal(t, n, i), normal(d, n, h)
    w, r, b = 0.5 * normal(d, count * h, i), 0.5 * normal(d, count * h, h), normal(d, 2 * count * h)
    attrs = {"hidden_size": h, "direction": direction, **({"linear_before_reset": 1} if "after" in op else {})}
    model, feeds = model_of(kind, (x, w, r, b, np.zeros(0), h0), attrs, outputs=2, kind=np.float32)
    run = runner(model, ["y0", "y1"])
    y = run(feeds)
    seeds = {k: RNG.standard_normal(a.shape).astype(np.float32) for k, a in y.items()}
    found = Backward(model, ["x0", "x5", "x2"], ["y0", "y1"]).gradients({**feeds, **y}, seeds)

    def losses(name, moved):
        out = run({**feeds, name: moved.astype(np.float32)})
        return (out["y0"] * seeds["y0"]).sum(axis=(0, 1, 3)) + (out["y1"] * seeds["y1"]).sum(axis=(0, 2))

    for name in ("x0", "x5"):
        direction_ = RNG.standard_normal(feeds[name].shape)
        expected = (
            losses(name, feeds[name] + 1e-2 * direction_) - losses(name, feeds[name] - 1e-2 * direction_)
        ).sum() / 2e-2
        assert float((found[name].gradient * direction_).sum()) == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert found["x2"].product and found["x2"].gradient.shape == (n, d, h)
    for c in range(0, h, 2):
        for k in range(d):
            up, down = (feeds["x2"].copy() for _ in range(2))
            up[k, :, c] *= 1.02
            down[k, :, c] *= 0.98
            expected = (losses("x2", up) - losses("x2", down)) / 0.04
            np.testing.assert_allclose(found["x2"].gradient[:, k, c], expected, rtol=5e-3, atol=2e-3)


def test_every_rule_is_tested():
    find("", "Relu")
    tested = {(c[6], c[0]) for c in CASES.values()} | {("", op) for op in ("Resize", "Upsample", "LSTM", "GRU", "RNN")}
    aliases = {("", "CastLike"), ("", "Swish"), ("", "Dropout"), ("", "SimplifiedLayerNormalization")}
    assert {r for r in _rules if r not in tested | aliases and r[0] == ""} == set()


def test_an_operator_without_a_rule_stops_the_gradient():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (double[3] x) => (double[3] y) {'
        " a = Sigmoid (x)  b = acme.Magic (a)  c = Relu (x)  d = Exp (c)  y = Add (b, d) }"
    )
    back = Backward(model, ["a", "c", "x"], ["y"])
    assert back.stopped == {"acme::Magic": ["b"]}
    assert back.broken == {"a", "x"}
