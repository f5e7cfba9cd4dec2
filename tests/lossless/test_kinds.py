"""What makes a unit lossless, operator by operator, and what does not."""

import numpy as np
import pytest

from onnxprune.lossless.find import edited, find_lossless, verify_lossless
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import relative_error
from onnxprune.proof.session import run
from tests.lossless.plants import Planted, outcome
from tests.models_text import make

DENSE = """(float[N, 6] x) => (float[N, 3] y) {{
  a = Gemm (x, w1, b1)
  b = {act} (a)
  y = Gemm (b, w2, b2)
}}"""
DENSE_WEIGHTS = dict(w1=(6, 8), b1=(8,), w2=(8, 3), b2=(3,))
IMAGE = """(float[N, 3, 8, 8] x) => (float[N, 4, H, W] y) {{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  b = {act} (a)
  y = Conv <pads = {pads}> (b, w2{b2})
}}"""
IMAGE_WEIGHTS = dict(w1=(8, 3, 3, 3), b1=(8,), w2=(4, 8, 3, 3), b2=(4,))


def planted(body: str, weights, changes, **options) -> dict[int, str]:
    """Kinds by unit of the only group, after `changes` to the weights; no output may change."""
    plants = Planted(make(body, weights, **options))
    changes(plants.weights)
    plants.edited = set(plants.weights)
    pruned, found, _, error = outcome(plants.build())
    assert error < 1e-6
    assert len({u.group for u in found.units}) < 2
    return {u.index: u.kind for u in found.units}


def dense(act: str, changes, **weights) -> dict[int, str]:
    return planted(DENSE.format(act=act), {**DENSE_WEIGHTS, **weights}, changes)


def like(a: int, b: int, factor: float = 1.0, shift: float = 0.0):
    """Unit `b` is a multiple of unit `a`."""

    def change(w):
        w["w1"][:, b] = w["w1"][:, a] * np.float32(factor)
        w["b1"][b] = w["b1"][a] * np.float32(factor) + np.float32(shift)

    return change


def holds(value: float, unit: int = 5):
    """A unit is a constant."""

    def change(w):
        w["w1"][(slice(None), unit) if w["w1"].ndim == 2 else unit] = 0
        w["b1"][unit] = value

    return change


@pytest.mark.parametrize(
    ("act", "factor", "kind"),
    [
        ("Tanh", 1.0, "duplicate"),
        ("Tanh", 2.0, None),
        ("Tanh", -1.0, None),
        ("Sigmoid", 1.0, "duplicate"),
        ("Relu", 1.0, "duplicate"),
        ("Relu", 2.0, "multiple"),
        ("Relu", 1.7, "multiple"),
        ("Relu", 1e-3, "multiple"),
        ("Relu", -1.7, None),
        ("LeakyRelu", 0.3, "multiple"),
        ("LeakyRelu", -0.3, None),
        ("HardSwish", 1.7, None),
        ("Identity", -1.7, "multiple"),
        ("Neg", -1.7, "multiple"),
    ],
)
def test_multiples(act, factor, kind):
    assert dense(act, like(1, 6, factor)) == ({} if kind is None else {6: kind})


def test_a_multiple_with_another_offset_is_one_only_where_nothing_bends_it():
    assert dense("Relu", like(1, 6, 1.5, 0.25)) == {}
    assert dense("Identity", like(1, 6, 1.5, 0.25)) == {6: "multiple"}


def test_what_is_nearly_equal_is_not_equal():
    def nearly(w):
        like(1, 6)(w)
        w["w1"][2, 6] = np.nextafter(w["w1"][2, 6], np.float32(10))

    def roughly(w):
        like(1, 6, 1.7)(w)
        w["w1"][2, 6] *= np.float32(1 + 1e-5)

    assert dense("Relu", nearly) == {}
    assert dense("Relu", roughly) == {}


@pytest.mark.parametrize(
    ("act", "value", "kind"),
    [
        ("Relu", 0.0, "zero"),
        ("Relu", -2.0, "zero"),
        ("Relu", 2.0, "constant"),
        ("Sigmoid", 0.0, "constant"),
        ("Exp", 1.0, "constant"),
    ],
)
def test_constants(act, value, kind):
    assert dense(act, holds(value)) == {5: kind}


def test_equal_units_leave_one():
    def all_equal(w):
        for k in range(1, 8):
            like(0, k, 1.0 + k / 4)(w)

    found = dense("Relu", all_equal)
    assert sorted(found) == list(range(1, 8))


def test_one_unit_stays_where_all_are_constant():
    def all_constant(w):
        w["w1"][:] = 0

    assert len(dense("Relu", all_constant)) == 7


@pytest.mark.parametrize(
    ("pads", "b2", "value", "found"),
    [
        ("[1, 1, 1, 1]", ", b2", 0.0, {5: "zero"}),
        ("[1, 1, 1, 1]", ", b2", 0.5, {}),
        ("[0, 0, 0, 0]", ", b2", 0.5, {5: "constant"}),
        ("[0, 0, 0, 0]", "", 0.5, {}),
    ],
)
def test_constants_meet_padding_and_missing_biases(pads, b2, value, found):
    weights = {k: v for k, v in IMAGE_WEIGHTS.items() if b2 or k != "b2"}
    assert planted(IMAGE.format(act="Relu", pads=pads, b2=b2), weights, holds(value)) == found


def test_a_refusal_has_a_reason():
    plants = Planted(
        make(IMAGE.format(act="Relu", pads="[0, 0, 0, 0]", b2=""), {k: IMAGE_WEIGHTS[k] for k in ("w1", "b1", "w2")})
    )
    holds(0.5)(plants.weights)
    plants.edited = {"w1", "b1"}
    found = find_lossless(*analysed(plants.build(), width=False, shapes=None))
    assert [r[2:] for r in found.refused] == [(5, "Conv 'y' has no bias of its own to take a constant of 0.5")]


BEHIND = [
    ("an Add", "c = MatMul (b, w2) y = Add (b2, c)", dict(w2=(8, 3), b2=(3,)), {5: "constant"}),
    ("an Add that is read twice", "c = MatMul (b, w2) d = Add (b2, c) y = Mul (d, c)", dict(w2=(8, 3), b2=(3,)), {}),
    ("a shared bias", "c = MatMul (b, w2) d = Add (b2, c) y = Mul (d, b2)", dict(w2=(8, 3), b2=(3,)), {}),
    (
        "the mean of a normalization",
        "c = MatMul (b, w2) y = BatchNormalization (c, s, t, m, v)",
        dict(w2=(8, 3), s=(3,), t=(3,), m=(3,), v=np.array([0.5, 1, 2], np.float32)),
        {5: "constant"},
    ),
    ("a bias with a factor", "y = Gemm <alpha = 0.5, beta = 2.0> (b, w2, b2)", dict(w2=(8, 3), b2=(1, 3)), {5: "constant"}),
    ("a transposed weight", "t = Transpose (w2) y = Gemm (b, t, b2)", dict(w2=(3, 8), b2=(3,)), {5: "constant"}),
]


@pytest.mark.parametrize(("nodes", "weights", "found"), [c[1:] for c in BEHIND], ids=[c[0] for c in BEHIND])
def test_where_a_constant_goes(nodes, weights, found):
    body = f"(float[N, 6] x) => (float[N, 3] y) {{ a = Gemm (x, w1, b1) b = Relu (a) {nodes} }}"
    assert planted(body, dict(w1=(6, 8), b1=(8,), **weights), holds(0.5)) == found


def test_shared_weights_take_nothing_over():
    body = """(float[N, 6] x) => (float[N, 3] y) {
      a = Gemm (x, w1, b1)
      b = Relu (a)
      c = Tanh (a)
      d = MatMul (b, w2)
      e = MatMul (c, w2)
      y = Add (d, e)
    }"""
    weights = dict(w1=(6, 8), b1=(8,), w2=(8, 3))
    assert planted(body, weights, like(1, 6)) == {}

    def zeros(w):
        w["w2"][4] = 0

    assert planted(body, weights, zeros) == {4: "unread"}


RESIDUAL = """(float[N, 6] x) => (float[N, 3] y) {
  a = Gemm (x, w1, b1)
  h = Relu (a)
  b = Gemm (x, w3, b3)
  r = Add (h, b)
  s = Relu (r)
  y = Gemm (s, w2, b2)
}"""


def test_all_that_is_added_has_to_agree():
    weights = dict(DENSE_WEIGHTS, w3=(6, 8), b3=(8,))

    def both(factor, other):
        def change(w):
            like(1, 6, factor)(w)
            w["w3"][:, 6], w["b3"][6] = w["w3"][:, 1] * np.float32(other), w["b3"][1] * np.float32(other)

        return change

    assert planted(RESIDUAL, weights, like(1, 6)) == {}
    assert planted(RESIDUAL, weights, both(1, 1)) == {6: "duplicate"}
    assert planted(RESIDUAL, weights, both(3, 3)) == {6: "multiple"}
    assert planted(RESIDUAL, weights, both(1, 3)) == {}
    assert planted(RESIDUAL, weights, holds(-1.0)) == {}


def test_what_only_removed_channels_read_goes_too():
    body = """(float[N, 6] x) => (float[N, 3] y) {
      a = Gemm (x, w1, b1)
      b = Relu (a)
      c = Gemm (b, w2, b2)
      d = Relu (c)
      y = Gemm (d, w3, b3)
    }"""
    plants = Planted(make(body, dict(w1=(6, 8), b1=(8,), w2=(8, 8), b2=(8,), w3=(8, 3), b3=(3,))))
    plants.weights["w3"][2] = 0  # nobody reads channel 2 of d, which alone reads channel 4 of b
    plants.weights["w2"][4, np.arange(8) != 2] = 0
    plants.weights["w2"][:, 5] = plants.weights["w2"][:, 3]  # equal once what differs is gone
    plants.weights["w2"][4, 5] = 0
    plants.weights["b2"][5] = plants.weights["b2"][3]
    plants.edited = set(plants.weights)
    _, found, _, error = outcome(plants.build())
    assert [(u.group, u.index, u.kind) for u in found.units] == [
        ("g0", 4, "unread"),
        ("g1", 2, "unread"),
        ("g1", 5, "duplicate"),
    ]
    assert error < 1e-6


def test_a_number_that_follows_from_a_shape_is_no_constant():
    body = """(float[N, 6] x) => (float[N, 3] y) {
      a = Gemm (x, w1, b1)
      n = Size (x)
      f = Cast <to = 1> (n)
      b = Mul (a, f)
      y = Gemm (b, w2, b2)
    }"""
    assert planted(body, DENSE_WEIGHTS, holds(0.5)) == {}
    assert planted(body, DENSE_WEIGHTS, like(1, 6, 1.5)) == {6: "multiple"}


def test_a_depthwise_branch_keeps_duplicates_equal_and_scales_multiples():
    body = """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
      b = Relu (a)
      c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w3, b3)
      d = Relu (c)
      g = GlobalAveragePool (d)
      e = Mul (d, g)
      y = Conv (e, w2, b2)
    }"""
    weights = dict(IMAGE_WEIGHTS, w2=(4, 8, 1, 1), w3=(8, 1, 3, 3), b3=(8,))

    def pair(inner, outer, bias):
        def change(w):
            w["w1"][6], w["b1"][6] = w["w1"][1] * np.float32(inner), w["b1"][1] * np.float32(inner)
            w["w3"][6], w["b3"][6] = w["w3"][1] * np.float32(outer), w["b3"][1] * np.float32(bias)

        return change

    assert planted(body, weights, pair(1, 1, 1)) == {6: "duplicate"}
    assert planted(body, weights, pair(2, 1.5, 2)) == {}
    assert planted(body, weights, pair(2, 1.5, 3)) == {6: "multiple"}


ATTENTION = """(float[N, 5, 6] x) => (float[N, 5, 6] y) {
  q = MatMul (x, wq)
  k = MatMul (x, wk)
  v = MatMul (x, wv)
  t = Transpose <perm = [0, 2, 1]> (k)
  s = MatMul (q, t)
  p = Softmax (s)
  o = MatMul (p, v)
  y = MatMul (o, wo)
}"""


def test_queries_keys_and_values():
    weights = dict(wq=(6, 8), wk=(6, 8), wv=(6, 10), wo=(10, 6))
    zero = {"wq": (slice(None), 3)}

    def plant(**places):
        def change(w):
            for name, index in places.items():
                w[name][index] = 0

        return change

    assert planted(ATTENTION, weights, plant(**zero)) == {3: "zero"}
    assert planted(ATTENTION, weights, plant(wk=zero["wq"])) == {3: "zero"}
    assert planted(ATTENTION, weights, plant(wo=(4,))) == {4: "unread"}

    def values(w):
        w["wv"][:, 7] = -1.25 * w["wv"][:, 2]

    assert planted(ATTENTION, weights, values) == {7: "multiple"}

    def queries(w):  # both sums of the two terms would have to change
        w["wq"][:, 7], w["wk"][:, 7] = w["wq"][:, 2], w["wk"][:, 2]

    assert planted(ATTENTION, weights, queries) == {}


def test_bodies_keep_what_they_read():
    body = """(float[N, 6] x, bool c) => (float[N, 3] y) {
      a = Gemm (x, w1, b1)
      b = Relu (a)
      d = Gemm (b, w2, b2)
      y = If (c) <
        then_branch = one () => (float[N, 3] t) { t = Gemm (b, w3, b2) },
        else_branch = two () => (float[N, 3] e) { e = Identity (d) }
      >
    }"""

    def change(w):
        like(1, 6)(w)
        w["w2"][4] = 0

    assert planted(body, dict(DENSE_WEIGHTS, w3=(8, 3)), change) == {}


@pytest.mark.parametrize("op", ["LSTM", "RNN", "GRU"])
def test_recurrent_units(op):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    candidate = {"LSTM": 3, "GRU": 2, "RNN": 0}[op]
    body = f"""(float[T, 2, 6] x) => (float[T, 2, 3] y) {{
      a = {op} <hidden_size = 8> (x, w, r, b)
      o = Constant <value_ints = [1]> ()
      s = Squeeze (a, o)
      y = MatMul (s, w2)
    }}"""
    weights = dict(w=(1, gates * 8, 6), r=(1, gates * 8, 8), b=(1, 2 * gates * 8), w2=(8, 3))

    def change(w):
        for name, count in (("w", gates), ("r", gates), ("b", 2 * gates)):
            for g in range(count):
                w[name][0, g * 8 + 5] = w[name][0, g * 8 + 2]
                if g % gates == candidate:
                    w[name][0, g * 8 + 6] = 0

    assert planted(body, weights, change) == {5: "duplicate", 6: "zero"}


def test_edits_alone_change_nothing_and_the_source_is_left_as_it_was():
    def change(w):
        like(1, 6, 1.5)(w)
        holds(0.5, 3)(w)

    plants = Planted(make(DENSE.format(act="Relu"), DENSE_WEIGHTS))
    change(plants.weights)
    plants.edited = {"w1", "b1"}
    model = plants.build()
    before = model.SerializeToString()
    prepared, groups = analysed(model, width=False, shapes=None)
    found = find_lossless(prepared, groups)
    assert found.counts() == {"g0": {"multiple": 1, "constant": 1}}
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 3)
    (expected,), (actual,) = run(model, feeds, ["y"]), run(edited(model, found), feeds, ["y"])
    assert relative_error(expected, actual) < 1e-6
    assert model.SerializeToString() == before
    pruned, *_ = outcome(model)
    assert verify_lossless(prepared, groups, pruned).passed
    wrong = edited(pruned, type(found)([], {"b2": np.zeros(3, np.float32)}))
    assert not verify_lossless(prepared, groups, wrong).passed
