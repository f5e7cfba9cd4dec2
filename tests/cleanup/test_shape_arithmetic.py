"""Shape arithmetic: folded where it is the same at all sizes, kept where it is not, right either way."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from tests.models_text import ints, make

INT = {str(n): np.asarray(np.int64(n)) for n in (0, 1, 2, 3)}
CONSTANTS = {f"c{k}": v for k, v in INT.items()} | {
    "at": ints(0), "one": ints(1), "two": ints(2), "four": ints(4), "minus": ints(-1), "ones": ints(1, 1), "all": ints(-1, -1),
}  # fmt: skip


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def agree(source: onnx.ModelProto, made: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"]) for m in (source, made)
    ]
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        a, b = (s.run(None, {"x": x}) for s in sessions)
        for p, q in zip(a, b, strict=True):
            np.testing.assert_array_equal(p, q)


def used(body: str) -> dict[str, np.ndarray]:
    names = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {k: v for k, v in CONSTANTS.items() if k in names}


CASES = {
    "split heads": (
        "s = Shape(x)  b = Gather(s, at)  l = Gather(s, one)  t = Concat<axis=0>(b, l, two, minus)  y = Reshape(x, t)",
        ["Reshape"],
    ),
    "halves": (
        """s = Shape(x)  l = Gather(s, one)  h = Div(l, two)  d = Mul(h, two)  b = Gather(s, at)  r = Sub(l, d)
        t = Concat<axis=0>(b, l, four)  e = Expand(x, t)  f = Cast<to=1>(r)  y = Add(e, f)""",
        None,
    ),
    "a fill for unknown sizes": (
        """s = Shape(x)  m = Equal(s, all3)  f = ConstantOfShape<value = int64[1] {1}>(three)
        t = Where(m, f, s)  y = Expand(x, t)""",
        ["Identity"],
    ),
    "whole slice": ("s = Shape(x)  l = Gather(s, one)  y = Slice(x, at, l, one)", None),
    "elements": ("n = Size(x)  u = Unsqueeze(n, at)  y = Reshape(x, u)", ["Reshape"]),
    "product": ("s = Shape(x)  p = ReduceProd<keepdims=1>(s)  y = Reshape(x, p)", ["Reshape"]),
    "shape of a sum": ("a = Add(x, x)  s = Shape(a)  y = Reshape(a, s)", ["Add"]),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    body, expected = CASES[name]
    weights = used(body) | {k: v for k, v in {"all3": ints(-1, -1, -1), "three": ints(3)}.items() if k in body}
    source = make("(float[b,l,4] x) => (y) { " + body + " }", weights)
    source.graph.output[0].type.tensor_type.elem_type = 1
    made = onnxprune.simplify(source, check=False).model
    agree(source, made, (2, 6, 4), (1, 1, 4), (3, 5, 4))
    assert len(made.graph.node) <= len(source.graph.node)
    if expected is not None:
        assert ops(made) == expected


def test_two_tensors_with_the_same_sizes_share_their_arithmetic():
    body = """(float[b,l,4] x) => (float[n,4] y, float[n,4] z) {
        a = Relu(x)  s = Shape(x)  t = Shape(a)
        i = ReduceProd<keepdims=0>(s)  j = ReduceProd<keepdims=0>(t)
        f = Cast<to=1>(i)  g = Cast<to=1>(j)  u = Mul(x, f)  v = Mul(a, g)
        y = Reshape(u, q)  z = Reshape(v, q)
    }"""
    source = make(body, {"q": ints(-1, 4)})
    made = onnxprune.simplify(source).model
    assert ops(made).count("Shape") == ops(made).count("ReduceProd") == 1
    agree(source, made, (2, 3, 4), (1, 1, 4))


def test_dimensions_with_different_names_are_not_taken_for_one():
    body = """(float[b,l] x, float[c,l] z) => (int64[k] y) {
        s = Shape(x)  t = Shape(z)  d = Sub(s, t)  y = Mul(d, d)
    }"""
    made = onnxprune.simplify(make(body, {})).model
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.zeros((5, 2), np.float32), "z": np.zeros((2, 2), np.float32)}
    np.testing.assert_array_equal(session.run(None, feeds)[0], [9, 0])


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod"]), st.integers(1, 5)), max_size=5
    ),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_any_chain_of_integer_arithmetic(steps, shape):
    lines, weights, last = ["s = Shape(x)"], {}, "s"
    for k, (op, number) in enumerate(steps):
        weights[f"n{k}"] = ints(number)
        lines.append(f"a{k} = {op}({last}, n{k})")
        last = f"a{k}"
    lines += [f"e = Equal({last}, s)", "f = Cast<to=1>(e)", "g = Gather(f, first)", f"y = Mul(x, g)  h = Add({last}, s)"]
    weights["first"] = np.asarray(np.int64(0))
    source = make("(float[b,l] x) => (float[b,l] y, int64[2] h) { " + "  ".join(lines) + " }", weights)
    agree(source, onnxprune.simplify(source, check=False).model, shape)
