"""Runs of Reshape, Transpose and their kin, and parts of tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.cleanup.passes.checks import becomes, declared, operators, run, same, stays
from tests.models_text import make

MOVES = ("moves",)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("a = Reshape(x, t1) y = Reshape(a, t2)", {"Reshape": 1}),
        ("a = Flatten(x) b = Unsqueeze(a, i1) y = Squeeze(b, i1)", {"Reshape": 1}),
        ("a = Transpose<perm=[0,2,1]>(x) b = Transpose<perm=[0,2,1]>(a) y = Relu(b)", {"Relu": 1}),
        ("a = Transpose<perm=[0,2,1]>(x) y = Transpose<perm=[1,0,2]>(a)", {"Transpose": 1}),
        ("a = Reshape(x, t3) b = Transpose<perm=[0,2,3,1]>(a) y = Reshape(b, t4)", {"Transpose": 1}),
        ("a = Unsqueeze(x, i1) b = Transpose<perm=[0,3,1,2]>(a) y = Squeeze(b, i2)", {"Transpose": 1}),
        ("a = Unsqueeze(x, i0) y = Transpose<perm=[1,0,2,3]>(a)", {"Reshape": 1}),
        ("a = Reshape(x, t1) b = Reshape(a, t5) y = Relu(b)", {"Relu": 1}),
    ],
)
def test_runs_in_their_shortest_form(body, wanted):
    model = make(
        f"(float[2,4,6] x) => (float y) {{ {body} }}",
        {"t1": ints(8, 6), "t2": ints(4, 2, 6), "t3": ints(2, 4, 2, 3), "t4": ints(2, 6, 4), "t5": ints(2, 4, 6),
         "i0": ints(0), "i1": ints(1), "i2": ints(2)},
    )  # fmt: skip
    becomes(declared(model), MOVES, wanted)


def test_symbolic_dimensions_are_copied():
    model = make(
        """(float[b,t,8] x) => (float[b,t,8] y) {
            a = Reshape(x, heads)
            c = Transpose<perm=[0,2,1,3]>(a)
            d = Transpose<perm=[0,2,1,3]>(c)
            y = Reshape(d, joined)
        }""",
        {"heads": ints(0, 0, 2, 4), "joined": ints(0, 0, 8)},
    )
    result, _ = run(model, *MOVES)
    assert operators(result) == {"Identity": 1}  # an input that is an output
    same(model, result, b=2, t=5)


def test_two_symbolic_dimensions_that_are_joined_with_others_need_a_computed_target():
    model = make(
        """(float[b,t,8] x) => (float[m,t,2] y) {
            a = Reshape(x, rows)
            c = Relu(a)
            d = Reshape(c, parts)
            y = Transpose<perm=[1,0,2]>(d)
        }""",
        {"rows": ints(-1, 8), "parts": ints(3, -1, 2)},
    )
    stays(model, MOVES)


def test_a_move_with_other_readers_stays_for_them():
    model = make(
        "(float[2,4,6] x) => (float[8,6] z, float[4,12] y) { a = Reshape(x, t) z = Relu(a) y = Reshape(a, u) }",
        {"t": ints(8, 6), "u": ints(4, 12)},
    )
    result, _ = run(model, *MOVES)
    assert operators(result) == {"Reshape": 2, "Relu": 1}
    assert all(n.input[0] == "x" for n in result.graph.node if n.op_type == "Reshape")
    same(model, result)


def test_a_long_run_is_three_nodes_at_most():
    model = make(
        """(float[2,8,6,6] x) => (float[a,b,c,d] y) {
            a = Reshape(x, s1)
            b = Transpose<perm=[0,2,1,3,4]>(a)
            c = Reshape(b, s2)
            d = Transpose<perm=[0,2,3,1]>(c)
            e = Transpose<perm=[0,3,1,2]>(d)
            f = Unsqueeze(e, i)
            y = Squeeze(f, i)
        }""",
        {"s1": ints(2, 2, 4, 6, 6), "s2": ints(2, 8, 6, 6), "i": ints(0)},
    )
    becomes(model, MOVES, {"Reshape": 2, "Transpose": 1})


@st.composite
def runs(draw):
    """A tensor's shape and a list of random moves of it."""
    sizes = draw(st.sampled_from([[1, 2, 4], [1, 2, 3, 4, 6]]))
    shape = draw(st.lists(st.sampled_from(sizes), min_size=1, max_size=4))
    now, steps = list(shape), []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(now))))
            steps.append(("Transpose", list(perm)))
            now = [now[k] for k in perm]
        else:
            now = draw(st.sampled_from(_shapes(math.prod(now))))
            steps.append(("Reshape", now))
    return shape, steps


def _shapes(size: int) -> list[list[int]]:
    found = [[size], [1, size], [size, 1]]
    for a in range(2, size):
        if size % a == 0:
            found += [[a, size // a], [a, 1, size // a]]
            found += [[a, b, size // a // b] for b in range(2, size // a) if size // a % b == 0]
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(runs())
def test_any_run_moves_every_element_as_before(case):
    shape, steps = case
    nodes, held, name = [], [], "x"
    for k, (op, numbers) in enumerate(steps):
        if op == "Transpose":
            nodes.append(helper.make_node(op, [name], [f"v{k}"], perm=numbers))
        else:
            held.append(helper.make_tensor(f"t{k}", onnx.TensorProto.INT64, [len(numbers)], numbers))
            nodes.append(helper.make_node(op, [name, f"t{k}"], [f"v{k}"]))
        name = f"v{k}"
    nodes.append(helper.make_node("Neg", [name], ["y"]))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    model = declared(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    result, _ = run(model, *MOVES)
    assert len(result.graph.node) <= len(nodes)
    if math.prod(shape).bit_count() == 1:  # all axes can be cut into twos
        assert len(result.graph.node) <= 4
    same(model, result, seeds=(0,))
    again, _ = run(result, *MOVES)
    assert len(again.graph.node) == len(result.graph.node)


PARTS = {
    "slices of all of an axis": ("a = Slice(x, n0, n2, i1) b = Slice(x, n2, n6, i1) y = Concat<axis=1>(b, a)", {"Split": 1, "Concat": 1}),
    "slices with a gap": ("a = Slice(x, n0, n1, i1) b = Slice(x, n2, n6, i1) y = Concat<axis=1>(b, a)", {"Slice": 2, "Concat": 1}),
    "slices along two axes": ("a = Slice(x, n0, n2, i1) y = Slice(a, n1, n2, i2)", {"Slice": 1}),
    "slices along one axis": ("a = Slice(x, n1, n6, i1) y = Slice(a, n1, n2, i1)", {"Slice": 2}),
    "one element": ("a = Slice(x, n1, n2, i1) y = Squeeze(a, i1)", {"Gather": 1}),
    "one element, of two": ("a = Slice(x, n0, n2, i1) b = Slice(a, n1, n2, i2) y = Squeeze(b, i2)", {"Slice": 1, "Squeeze": 1}),
    "parts of one element": ("a, b = Split<axis=0>(x, o) c = Squeeze(a, i0) d = Squeeze(b, i0) y = Sub(c, d)", {"Gather": 2, "Sub": 1}),
    "an index that comes back": ("a = Gather<axis=1>(x, s1) y = Unsqueeze(a, i1)", {"Gather": 1}),
    "an index elsewhere": ("a = Gather<axis=1>(x, s1) y = Unsqueeze(a, i0)", {"Gather": 1, "Unsqueeze": 1}),
    "concat of concat": ("a = Concat<axis=1>(x, x) y = Concat<axis=-2>(a, x)", {"Concat": 1}),
    "concat of another axis": ("a = Concat<axis=2>(x, x) b = Concat<axis=2>(z, z) y = Concat<axis=1>(a, b)", {"Concat": 3}),
    "expanded operand": ("a = Slice(x, n0, n1, i1) b = Expand(a, full) y = Div(x, b)", {"Slice": 1, "Div": 1}),
    "expanded result": ("a = Slice(x, n0, n1, i1) b = Expand(a, full) y = Div(a, b)", {"Slice": 1, "Expand": 1, "Div": 1}),
    "sum of two": ("y = Sum(x, z)", {"Add": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_tensors(name):
    body, wanted = PARTS[name]
    model = make(
        f"(float[2,6,4] x, float[2,6,4] z) => (float y) {{ {body} }}",
        {"n0": ints(0), "n1": ints(1), "n2": ints(2), "n6": ints(2**62), "i0": ints(0), "i1": ints(1), "i2": ints(2),
         "o": ints(1, 1), "s1": np.array(1), "full": ints(2, 6, 4)},
    )  # fmt: skip
    passes = ("slice-of-slice", "split", "index", "concat-of-concat", "expand-operand", "sum-of-two")
    becomes(declared(model), passes, wanted)


def test_a_symbolic_axis_is_not_shared_out():
    model = make(
        "(float[2,n] x) => (float[2,n] y) { a = Slice(x, s, e, i) b = Slice(x, e, q, i) y = Concat<axis=1>(b, a) }",
        {"s": ints(0), "e": ints(2), "q": ints(2**62), "i": ints(1)},
    )
    stays(model, ("split",))
