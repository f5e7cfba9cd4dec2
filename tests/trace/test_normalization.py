"""Normalization: exact per channel, inexact where a statistic runs over the axis that shrinks."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import Case, attribute, check, feeds_of, ints, make, positive, run, shapes_of, table

IMAGE = dict(w1=(8, 3, 1, 1), b1=(8,), w2=(2, 8, 1, 1))
CUT = dict(w1=(4, 3, 1, 1), b1=(4,), w2=(2, 4, 1, 1))


def between_convs(*nodes: str) -> str:
    """Nodes from a (2, 8, 5, 6) to n, between two convolutions."""
    text = "\n              ".join(nodes)
    return f"""(float[2, 3, 5, 6] x) => (float[2, 2, 5, 6] y) {{
              a = Conv (x, w1, b1)
              {text}
              y = Conv (n, w2)
            }}"""


TOKENS = dict(w1=(5, 8), b1=(8,), w2=(8, 2))
TOKENS_CUT = dict(w1=(5, 4), b1=(4,), w2=(4, 2))


def between_matmuls(*nodes: str) -> str:
    """Nodes from a (2, 7, 8) to n, between two MatMul."""
    text = "\n              ".join(nodes)
    return f"""(float[2, 7, 5] x) => (float[2, 7, 2] y) {{
              m = MatMul (x, w1)
              a = Add (m, b1)
              {text}
              y = MatMul (n, w2)
            }}"""


BN = dict(g=(8,), b=(8,), m=(8,), v=positive(8))
BN_CUT = dict(g=(4,), b=(4,), m=(4,), v=(4,))

EXACT = [
    Case(
        "BatchNormalization",
        between_convs("n = BatchNormalization (a, g, b, m, v)"),
        IMAGE | BN,
        ["channel 8"],
        CUT | BN_CUT,
    ),
    Case(
        "BatchNormalization without epsilon: a removed variance is neutral at 1",
        between_convs("n = BatchNormalization <epsilon = 0.0> (a, g, b, m, v)"),
        IMAGE | BN,
        ["channel 8"],
        CUT | BN_CUT,
        ones=["v"],
    ),
    Case(
        "BatchNormalization before and after a join",
        between_convs("c = BatchNormalization (a, g, b, m, v)", "d = Relu (c)", "n = Concat <axis = 1> (c, d)"),
        dict(w1=(8, 3, 1, 1), b1=(8,), w2=(2, 16, 1, 1)) | BN,
        ["channel 8"],
        CUT | BN_CUT | dict(w2=(2, 8, 1, 1)),
    ),
    Case(
        "BatchNormalization in opset 8, variance listed as an input",
        between_convs("n = BatchNormalization <epsilon = 0.001> (a, g, b, m, v)"),
        IMAGE | BN,
        ["channel 8"],
        CUT | BN_CUT,
        opset=8,
        ir=3,
        listed=True,
    ),
    Case(
        "InstanceNormalization",
        between_convs("n = InstanceNormalization (a, g, b)"),
        IMAGE | dict(g=(8,), b=(8,)),
        ["channel 8"],
        CUT | dict(g=(4,), b=(4,)),
    ),
    Case(
        "GroupNormalization-21: scale per channel, whole groups go",
        between_convs("n = GroupNormalization <num_groups = 4> (a, g, b)"),
        IMAGE | dict(g=(8,), b=(8,)),
        ["conv-groups 4"],
        CUT | dict(g=(4,), b=(4,)),
        attributes={"GroupNormalization.num_groups": 2},
        opset=21,
    ),
    Case(
        "GroupNormalization-18: scale per group",
        between_convs("n = GroupNormalization <num_groups = 4> (a, g, b)"),
        IMAGE | dict(g=(4,), b=(4,)),
        ["conv-groups 4"],
        CUT | dict(g=(2,), b=(2,)),
        attributes={"GroupNormalization.num_groups": 2},
        opset=18,
    ),
    Case(
        "GroupNormalization with one channel per group is per channel",
        between_convs("n = GroupNormalization <num_groups = 8> (a, g, b)"),
        IMAGE | dict(g=(8,), b=(8,)),
        ["channel 8"],
        CUT | dict(g=(4,), b=(4,)),
        attributes={"GroupNormalization.num_groups": 4},
        opset=21,
    ),
    Case(
        "GroupNorm as Reshape, InstanceNormalization, Reshape, Mul, Add",
        between_convs(
            "r = Reshape (a, split)",
            "i = InstanceNormalization (r, ones, zeros)",
            "s = Shape (a)",
            "k = Reshape (i, s)",
            "c = Mul (k, g)",
            "n = Add (c, b)",
        ),
        IMAGE
        | dict(g=(8, 1, 1), b=(8, 1, 1), split=ints(0, 4, -1), ones=np.ones(4, np.float32), zeros=np.zeros(4, np.float32)),
        ["conv-groups 4"],
        CUT | dict(g=(4, 1, 1), b=(4, 1, 1), ones=(2,), zeros=(2,)),
    ),
    Case(
        "L2 norm over channels, in pieces: zeros don't count",
        between_matmuls("l = ReduceL2 <axes = [-1], keepdims = 1> (a)", "e = Clip (l, tiny)", "n = Div (a, e)"),
        TOKENS | dict(tiny=np.array(1e-6, np.float32)),
        ["channel 8"],
        TOKENS_CUT,
    ),
    Case(
        "LpNormalization over channels: zeros don't count",
        between_matmuls("n = LpNormalization <axis = -1, p = 2> (a)"),
        TOKENS,
        ["channel 8"],
        TOKENS_CUT,
    ),
    Case(
        "MeanVarianceNormalization per channel: a channel without weights has no deviation to divide by",
        between_convs("n = MeanVarianceNormalization <axes = [0, 2, 3]> (a)"),
        IMAGE,
        [],
        {},
        frozen={"w1:0": "divides by its deviation"},
    ),
    Case(
        "MeanVarianceNormalization of what is not zero: a channel without weights is constant all the same",
        between_convs("s = Sigmoid (a)", "n = MeanVarianceNormalization <axes = [0, 2, 3]> (s)"),
        IMAGE,
        [],
        {},
        frozen={"w1:0": "divides by its deviation"},
    ),
]


@table(EXACT)
def test_exact(case):
    check(case)


LN = dict(g=(8,), b=(8,))
LN_CUT = dict(g=(4,), b=(4,))
INEXACT = [
    Case(
        "LayerNormalization",
        between_matmuls("n = LayerNormalization (a, g, b)"),
        TOKENS | LN,
        ["~channel 8"],
        TOKENS_CUT | LN_CUT,
    ),
    Case(
        "RMSNormalization",
        between_matmuls("n = RMSNormalization (a, g)"),
        TOKENS | dict(g=(8,)),
        ["~channel 8"],
        TOKENS_CUT | dict(g=(4,)),
        opset=23,
    ),
    Case(
        "SimplifiedLayerNormalization",
        between_matmuls("n = SimplifiedLayerNormalization (a, g)"),
        TOKENS | dict(g=(8,)),
        ["~channel 8"],
        TOKENS_CUT | dict(g=(4,)),
    ),
    Case(
        "SkipLayerNormalization",
        between_matmuls("s = MatMul (x, w3)", "n = com.microsoft.SkipLayerNormalization (a, s, g, b, c)"),
        TOKENS | LN | dict(w3=(5, 8), c=(8,)),
        ["~channel 8"],
        TOKENS_CUT | LN_CUT | dict(w3=(5, 4), c=(4,)),
        ms=True,
    ),
    Case(
        "SkipSimplifiedLayerNormalization with the sum as an output",
        between_matmuls(
            "s = MatMul (x, w3)", "l, , , t = com.microsoft.SkipSimplifiedLayerNormalization (a, s, g, c)", "n = Add (l, t)"
        ),
        TOKENS | dict(g=(8,), w3=(5, 8), c=(8,)),
        ["~channel 8"],
        TOKENS_CUT | dict(g=(4,), w3=(5, 4), c=(4,)),
        ms=True,
    ),
    Case(
        "LayerNorm in pieces",
        between_matmuls(
            "u = ReduceMean <axes = [-1]> (a)",
            "d = Sub (a, u)",
            "p = Pow (d, two)",
            "v = ReduceMean <axes = [-1]> (p)",
            "e = Add (v, eps)",
            "r = Sqrt (e)",
            "q = Div (d, r)",
            "h = Mul (q, g)",
            "n = Add (h, b)",
        ),
        TOKENS | LN | dict(two=np.array(2, np.float32), eps=np.array(1e-5, np.float32)),
        ["~channel 8"],
        TOKENS_CUT | LN_CUT,
    ),
    Case(
        "RMSNorm in pieces",
        between_matmuls(
            "p = Pow (a, two)",
            "v = ReduceMean <axes = [-1]> (p)",
            "e = Add (v, eps)",
            "r = Sqrt (e)",
            "i = Reciprocal (r)",
            "q = Mul (a, i)",
            "n = Mul (q, g)",
        ),
        TOKENS | dict(g=(8,), two=np.array(2, np.float32), eps=np.array(1e-5, np.float32)),
        ["~channel 8"],
        TOKENS_CUT | dict(g=(4,)),
    ),
    Case("LRN", between_convs("n = LRN <size = 3> (a)"), IMAGE, ["~channel 8"], CUT),
    Case(
        "mean over channels", between_convs("u = ReduceMean <axes = [1]> (a)", "n = Sub (a, u)"), IMAGE, ["~channel 8"], CUT
    ),
    Case(
        "InstanceNormalization over channels",
        between_matmuls("n = InstanceNormalization (a, g, b)"),
        TOKENS | dict(g=(7,), b=(7,)),
        ["~channel 8"],
        TOKENS_CUT,
    ),
    Case(
        "LpNormalization of what is not zero",
        between_matmuls("s = Sigmoid (a)", "n = LpNormalization <axis = -1, p = 1> (s)"),
        TOKENS,
        ["~channel 8"],
        TOKENS_CUT,
    ),
    Case(
        "MeanVarianceNormalization over channels",
        between_convs("n = MeanVarianceNormalization <axes = [1]> (a)"),
        IMAGE,
        ["~channel 8"],
        CUT,
    ),
    Case(
        "GroupNormalization with one group",
        between_convs("n = GroupNormalization <num_groups = 1> (a, g, b)"),
        IMAGE | LN,
        ["~group-channels 8"],
        CUT | LN_CUT,
        opset=21,
    ),
]


@table(INEXACT)
def test_inexact_only_when_asked_for(case):
    """Off by default with the statistic as the reason; with `width` the axis shrinks and the result runs."""
    held = onnxprune.analyze(case.model)
    assert [g for g in held.groups if not g.exact] == []
    assert any(f.weight == "w1" for f in held.frozen)
    case.options = dict(width=True)
    result = onnxprune.prune(case.model, ratio=0.5, width=True)
    assert result.report.put_back == []
    assert result.report.failures == []
    assert [f"{'' if r.exact else '~'}{r.kind} {r.units}" for r in result.report.groups] == case.groups
    expected = {**shapes_of(case.model), **case.kept}
    assert shapes_of(result.model) == expected
    run(result.model, feeds_of(result.model, result.report.shapes))


def small(case: Case, plan: onnxprune.Plan):
    """The model of a case built small at once: the same text with the sliced weights."""
    weights = {}
    for t in case.model.graph.initializer:
        array = np.array(onnxprune_array(t))
        for axis, removed in plan.initializers.get(t.name, {}).get("removed", {}).items():
            array = np.delete(array, removed, axis=int(axis))
        weights[t.name] = array
    return make(case.body, weights, opset=case.opset, ms=case.ms)


def onnxprune_array(t):
    from onnx import numpy_helper

    return numpy_helper.to_array(t)


@pytest.mark.parametrize("case", INEXACT, ids=[c.id for c in INEXACT])
def test_inexact_surgery_is_the_small_model(case):
    """What `width` makes is the model one gets from slicing the weights by hand."""
    result = onnxprune.prune(case.model, ratio=0.5, width=True, reconstruct="none")
    hand = small(case, result.plan)
    feeds = feeds_of(hand, result.report.shapes)
    for expected, actual in zip(run(hand, feeds), run(result.model, feeds), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_group_norm_loses_channels_of_every_group_alike():
    """With `width` there is the other way: as many channels of each group, inexactly. Rows win by default."""
    model = make(between_convs("n = GroupNormalization <num_groups = 2> (a, g, b)"), IMAGE | LN, opset=21)
    exact = onnxprune.prune(model, ratio=0.5)
    assert attribute(exact.model, "GroupNormalization", "num_groups") == 1
    wide = onnxprune.prune(model, ratio=0.5, width=True)
    assert [(g.kind, g.units) for g in wide.report.groups] == [("group-channels", 4)]
    assert attribute(wide.model, "GroupNormalization", "num_groups") == 2
    assert shapes_of(wide.model)["g"] == (4,)


def test_transformer_width_goes_through_all_residuals():
    """One class from the embedding to the head: every LayerNorm, projection and residual loses the same channels."""
    body = """(int64[2, 7] i) => (float[2, 7, 5] y) {
      e = Gather (table, i)
      a = LayerNormalization (e, g1, b1)
      h = MatMul (a, w1)
      r = Gelu (h)
      o = MatMul (r, w2)
      s = Add (e, o)
      n = LayerNormalization (s, g2, b2)
      y = MatMul (n, w3)
    }"""
    weights = dict(table=(11, 8), g1=(8,), b1=(8,), w1=(8, 12), w2=(12, 8), g2=(8,), b2=(8,), w3=(8, 5))
    narrow = dict(table=(11, 4), g1=(4,), b1=(4,), w1=(4, 6), w2=(6, 4), g2=(4,), b2=(4,), w3=(4, 5))
    result = onnxprune.prune(make(body, weights, opset=20), ratio=0.5, width=True)
    assert shapes_of(result.model) == narrow
    assert sorted((g.kind, g.units, g.exact) for g in result.report.groups) == [("channel", 8, False), ("channel", 12, True)]
    result = onnxprune.prune(make(body, weights, opset=20), ratio=0.5)
    assert shapes_of(result.model) == shapes_of(make(body, weights, opset=20)) | dict(w1=(8, 6), w2=(6, 8))
