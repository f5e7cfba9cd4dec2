"""Which summands can become constants is read from the graph; what is left is proven against the source."""

import re

import numpy as np
import onnx
import pytest

from onnxprune.depth.branches import find_branches
from onnxprune.depth.proof import prove_removal
from onnxprune.depth.surgery import without
from onnxprune.pipeline.stages import analysed
from tests.models_text import make, positive

WEIGHTS = {"w0": (8, 3, 3, 3), "w1": (6, 8, 3, 3), "w2": (8, 6, 3, 3), "w3": (8, 8, 1, 1), "h": (8, 4)}
HEAD = "p = GlobalAveragePool (s) f = Flatten (p) y = MatMul (f, h) }"
RESIDUAL = """
(float[N, 3, 8, 8] x) => (float[N, 4] y) {
  x0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
  a = Conv <pads = [1, 1, 1, 1]> (x0, w1)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w2)
"""


def model(middle: str, body: str = RESIDUAL, **weights) -> onnx.ModelProto:
    used = {n: s for n, s in {**WEIGHTS, **weights}.items() if re.search(rf"\b{n}\b", body + middle + HEAD)}
    return make(f"{body} {middle} {HEAD}", used)


def branches(proto: onnx.ModelProto):
    prepared, groups = analysed(proto, width=False, shapes=None)
    return prepared, groups, find_branches(prepared.model, groups)


FOUND = {
    "a plain residual": ("s = Add (x0, c)", {"c"}),
    "the other order": ("s = Add (c, x0)", {"c"}),
    "a difference": ("s = Sub (x0, c)", {"c"}),
    "Sum": ("s = Sum (x0, c)", {"c"}),
    "a projection is a branch, too": ("d = Conv (x0, w3) s = Add (d, c)", {"c", "d"}),
    "behind a normalization": ("n = BatchNormalization (c, g, g, g, g) s = Add (x0, n)", {"n"}),
    "behind a gate that it makes itself": (
        "q = GlobalAveragePool (c) e = Conv (q, w3) z = Sigmoid (e) n = Mul (c, z) s = Add (x0, n)",
        {"n"},
    ),
    "behind moves": (
        "t = Transpose <perm = [0, 2, 3, 1]> (c) u = Transpose <perm = [0, 3, 1, 2]> (t) s = Add (x0, u)",
        {"u"},
    ),
    "branches within branches": (
        "d = Conv <pads = [1, 1, 1, 1]> (x0, w2b) e = Add (c, d) m = Conv (e, w3) s = Add (x0, m)",
        {"c", "d", "m"},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_branches_are_found_and_proven(name):
    middle, expected = FOUND[name]
    proto = model(middle, g=positive(8), w2b=(8, 8, 3, 3))
    prepared, groups, found = branches(proto)
    assert {b.tensor for b in found.found} == expected
    assert all(b.axes == (1,) for b in found.found)
    rng = np.random.default_rng(0)
    for branch in found.found:
        constants = {branch.tensor: rng.standard_normal((1, 8, 1, 1)).astype(np.float32)}
        result = without(proto, constants)
        onnx.checker.check_model(result, full_check=True)
        assert len(result.graph.node) < len(proto.graph.node)
        left = {t.name for t in result.graph.initializer}
        assert not left & branch.gone - {branch.tensor}
        proof = prove_removal(prepared, groups, [branch], constants, result)
        assert proof.passed and proof.error < 1e-5


REFUSED = {
    "it is a graph output": ("s = Add (x0, c)", "c", "graph output"),
    "it is read elsewhere": ("k = Relu (c) m = Conv (k, w3) n = Add (m, c) s = Add (x0, n)", "c", "other nodes read it"),
    "its last weights are needed elsewhere": (
        "r = Relu (c) v = Add (x0, r) q = Sigmoid (c) s = Mul (v, q)",
        "r",
        "something else needs",
    ),
    "the input itself": ("s0 = Conv (z, w3) s = Add (s0, x1)", "x1", "past all linear nodes"),
    "nothing else is left": ("s = Add (c, r)", "c", "would not depend on input 'x'"),
}


def refused(name: str) -> onnx.ModelProto:
    middle, _, _ = REFUSED[name]
    if name == "the input itself":
        body = "(float[N, 8, 8, 8] x, float[N, 8, 8, 8] z) => (float[N, 4] y) { x1 = Relu (x)"
        return model(middle, body)
    if name == "nothing else is left":
        body = "(float[N, 3, 8, 8] x, float[N, 8, 8, 8] z) => (float[N, 4] y) { r = Relu (z) c = Conv <pads = [1, 1, 1, 1]> (x, w0)"
        return model(middle, body)
    proto = model(middle)
    if name == "it is a graph output":
        proto.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 8, 8, 8]))
    return proto


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_go_is_refused_with_the_reason(name):
    _, tensor, reason = REFUSED[name]
    _, _, found = branches(refused(name))
    assert tensor not in {b.tensor for b in found.found}
    assert reason in found.refused[tensor]


def test_both_sides_of_a_sum_can_not_go_together():
    _, _, found = branches(model("d = Conv (x0, w3) s = Add (d, c)"))
    assert found.together(["c"]) and found.together(["d"]) and not found.together(["c", "d"])


def test_the_proof_finds_a_wrong_constant():
    proto = model("s = Add (x0, c)")
    prepared, groups, found = branches(proto)
    right = {"c": np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1)}
    wrong = {"c": right["c"] + np.float32(0.01) * (np.arange(8) == 3).reshape(1, 8, 1, 1)}
    assert prove_removal(prepared, groups, found.found, right, without(proto, right)).passed
    assert not prove_removal(prepared, groups, found.found, right, without(proto, wrong)).passed


def test_the_proof_finds_a_node_that_was_needed():
    """A branch that is not one: what it leaves is compared with a source in which only the ends are zero."""
    proto = model("s = Add (x0, c)")
    prepared, groups, found = branches(proto)
    constants = {"c": np.zeros((1, 8, 1, 1), np.float32)}
    more = {**constants, "x0": np.zeros((1, 8, 1, 1), np.float32)}
    assert not prove_removal(prepared, groups, found.found, constants, without(proto, more)).passed


def test_weights_in_constant_nodes_and_listed_initializers():
    for listed in (False, True):
        proto = make(
            f"{RESIDUAL} s = Add (x0, c) {HEAD}", {n: WEIGHTS[n] for n in ("w0", "w1", "w2", "h")}, ir=3, listed=listed
        )
        if not listed:
            proto.ir_version = 8
            for tensor in list(proto.graph.initializer):
                proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
            del proto.graph.initializer[:]
        prepared, groups, found = branches(proto)
        constants = {"c": np.ones((1, 8, 1, 1), np.float32)}
        result = without(proto, constants)
        onnx.checker.check_model(result, full_check=True)
        assert {n.op_type for n in result.graph.node} == {"Conv", "Add", "GlobalAveragePool", "Flatten", "MatMul"} | (
            set() if listed else {"Constant"}
        )
        assert not {"w1", "w2"} & {i.name for i in result.graph.input}
        assert prove_removal(prepared, groups, found.found, constants, result).passed
