"""Every branch that one input decides on is proven, not only the one that random inputs take."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.prepare.prepare import prepare
from onnxprune.proof.branches import other_branches
from onnxprune.proof.inputs import random_inputs

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[3, 6] x, %s rate) => (float[3, 4] y) {
  %s
  y = If (c) <
    then_branch = t () => (float[3, 4] p) { a = MatMul (x, w)  b = Relu (a)  p = MatMul (b, v) },
    else_branch = e () => (float[3, 4] q) { d = MatMul (x, r)  f = Relu (d)  q = MatMul (f, s) }
  >
}
"""
CASES = [
    ("int64", "c = Equal (rate, known)", {3, 16000}),
    ("int32[1]", "i = Cast <to = 7> (rate)  j = Squeeze (i)  c = Equal (known, j)", {1, 16000}),
    ("int64", "c = Less (rate, known)", {3, 15999, 16001}),
    ("bool", "c = Identity (rate)", {True, False}),
]


def network(make, kind, way) -> onnx.ModelProto:
    known = {"known": np.int64(16000)} if "known" in way else {}
    return make(BRANCHES % (kind, way), w=(6, 8), v=(8, 4), r=(6, 8), s=(8, 4), **known)


@pytest.mark.parametrize(("kind", "way", "values"), CASES)
def test_values_on_either_side_of_a_comparison(make, kind, way, values):
    prepared = prepare(network(make, kind, way))
    scope = prepared.inferred.scopes[id(prepared.graph)]
    feeds = random_inputs(prepared.graph, prepared.shapes, scope, 0)
    others = list(other_branches(prepared.graph, feeds, scope))
    given = feeds["rate"]
    assert {given.item(), *(f["rate"].item() for f in others)} == values
    assert all(f["rate"].dtype == given.dtype and f["rate"].shape == given.shape for f in others)
    assert all(f["x"] is feeds["x"] for f in others)


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize(("kind", "way", "values"), CASES)
def test_a_fault_in_either_branch_is_found(make, kind, way, values, branch):
    model = network(make, kind, way)
    result = onnxprune.prune(model, ratio=0.5)
    assert result.report.verification.passed
    assert onnxprune.verify(model, result.model, result.plan).passed
    choice = next(n for n in result.model.graph.node if n.op_type == "If")
    next(n for n in choice.attribute[branch].g.node if n.op_type == "Relu").op_type = "Sigmoid"
    assert not onnxprune.verify(model, result.model, result.plan).passed


def test_no_branches_no_runs(make):
    model = make(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        m (float[3, 6] x, bool flag) => (float[3, 4] y) { a = MatMul (x, w)  y = Where (flag, a, a) }
        """,
        w=(6, 4),
    )
    prepared = prepare(model)
    scope = prepared.inferred.scopes[id(prepared.graph)]
    assert not list(other_branches(prepared.graph, random_inputs(prepared.graph, prepared.shapes, scope, 0), scope))
