"""The rules that groups follow, one test each: moves, ties, freezes, grids, exactness, and the details that bite."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import attribute, feeds_of, found_groups, ints, make, run, shapes_of, without

MLP = """(float[3, 5] x) => (float[3, 2] y) {
  a = MatMul (x, w1)
  b = Relu (a)
  y = MatMul (b, w2)
}"""


def groups_of(model, **options):
    groups = onnxprune.analyze(model, **options)
    assert groups.trace.failures == []
    return groups


def kinds(model, **options):
    return sorted((g.kind, g.units) for g in groups_of(model, **options).groups)


def reasons(model):
    return {(f.weight, f.axis): f.reason for f in groups_of(model).frozen}


def test_every_axis_of_every_float_initializer_carries_one_label_per_index():
    groups = groups_of(make(MLP, dict(w1=(5, 8), w2=(8, 2))))
    labels = [v for w in groups.trace.weights.values() for v in w.labels.values()]
    assert sorted(v.size for v in labels) == [2, 5, 8, 8]
    assert np.unique(np.concatenate([v.ravel() for v in labels])).size == 23


def test_integer_initializers_carry_none():
    model = make(
        "(float[2, 7, 5] x) => (float[14, 2] y) { r = Reshape (x, s)  a = MatMul (r, w1)  y = MatMul (a, w2) }",
        dict(w1=(5, 8), w2=(8, 2), s=ints(14, 5)),
    )
    assert set(groups_of(model).trace.weights) == {"w1", "w2"}


def test_no_axis_is_passed_over():
    """Each labelled axis is in a group, or frozen with a reason."""
    model = make(MLP, dict(w1=(5, 8), w2=(8, 2)))
    groups = groups_of(model)
    members = {m for g in groups.groups for m in g.members}
    frozen = {(f.weight, f.axis) for f in groups.frozen}
    assert members == {("w1", 1), ("w2", 0)}
    assert frozen == {("w1", 0), ("w2", 1)}
    assert all(f.reason for f in groups.frozen)


def test_graph_inputs_and_outputs_are_frozen():
    assert reasons(make(MLP, dict(w1=(5, 8), w2=(8, 2)))) == {
        ("w1", 0): "MatMul 'a' combines it with graph input 'x'",
        ("w2", 1): "it reaches graph output 'y'",
    }


def test_an_unknown_operator_freezes_with_a_reason():
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  b = acme.Foo (a)  y = MatMul (b, w2) }"
    model = make(body, dict(w1=(5, 8), w2=(8, 2)), domains=["acme"])
    assert reasons(model)["w1", 1] == "Foo 'b': no rule for acme::Foo"
    assert kinds(model) == []


def test_classes_that_touch_the_same_axes_form_one_group():
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  b = Add (a, c)  y = MatMul (b, w2) }"
    groups = groups_of(make(body, dict(w1=(5, 8), c=(8,), w2=(8, 2)))).groups
    assert [(g.units, sorted(g.members)) for g in groups] == [(8, [("c", 0), ("w1", 1), ("w2", 0)])]


def test_ids_follow_the_order_of_weights_in_the_graph():
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)  b = Relu (a)  c = MatMul (b, w2)  d = Relu (c)  e = MatMul (d, w3)  y = MatMul (e, w4)
    }"""
    groups = groups_of(make(body, dict(w1=(5, 8), w2=(8, 6), w3=(6, 7), w4=(7, 2)))).groups
    assert [(g.id, g.units) for g in groups] == [("g0", 8), ("g1", 6), ("g2", 7)]


# ---- grids ----

SHUFFLE = """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {{
  a = Conv (x, w1)
  b = Reshape (a, split)
  {inner}
  d = Reshape (c, merge)
  y = Conv (d, w2)
}}"""
SPLIT = dict(w1=(12, 3, 1, 1), w2=(2, 12, 3, 3), split=ints(2, 3, 4, 6, 6), merge=ints(2, 12, 6, 6))


def test_a_split_axis_that_is_merged_back_costs_an_equal_count():
    assert kinds(make(SHUFFLE.format(inner="c = Relu (b)"), SPLIT)) == [("group-channels", 4)]


def test_an_axis_needed_alone_gets_rows():
    assert kinds(make(SHUFFLE.format(inner="s = Softmax <axis = 2> (b)\n c = Mul (b, s)"), SPLIT)) == [("conv-groups", 3)]
    assert kinds(make(SHUFFLE.format(inner="s = Softmax <axis = 1> (b)\n c = Mul (b, s)"), SPLIT)) == [("group-channels", 4)]


def test_both_axes_frozen_leave_nothing():
    inner = "s = Softmax <axis = 1> (b)\n t = Softmax <axis = 2> (s)\n c = Mul (b, t)"
    assert kinds(make(SHUFFLE.format(inner=inner), SPLIT)) == []


def test_columns_of_different_rows_are_paired_by_rank_of_score():
    """Row 0 loses its two weakest columns, row 1 and 2 theirs: other indices, as many."""
    w1 = np.ones((12, 3, 1, 1), np.float32)
    for k, strong in enumerate([(0, 1), (2, 3), (0, 3)]):
        w1[[4 * k + s for s in strong]] = 5
    model = make(SHUFFLE.format(inner="c = Relu (b)"), SPLIT | dict(w1=w1, w2=np.ones((2, 12, 3, 3), np.float32)))
    result = onnxprune.prune(model, ratio=0.5)
    assert result.plan.initializers["w1"]["removed"]["0"] == [2, 3, 4, 5, 9, 10]
    assert result.report.put_back == []


def test_what_is_shared_by_rows_makes_columns_one_class():
    model = make(SHUFFLE.format(inner="c = Mul (b, g)"), SPLIT | dict(g=(4, 1, 1)))
    result = onnxprune.prune(model, ratio=0.5)
    removed = np.array(result.plan.initializers["w1"]["removed"]["0"]).reshape(3, 2)
    assert (removed % 4 == removed[0] % 4).all()
    assert shapes_of(result.model)["g"] == (2, 1, 1)


def test_three_axes_take_the_row_that_keeps_most_units_alive():
    """(2, 3, 4): the middle axis is frozen, rows of 2 or columns of 4 are left."""
    body = SHUFFLE.format(inner="s = Softmax <axis = 2> (b)\n c = Mul (b, s)")
    weights = dict(w1=(24, 3, 1, 1), w2=(2, 24, 3, 3), split=ints(2, 2, 3, 4, 6, 6), merge=ints(2, 24, 6, 6))
    assert kinds(make(body, weights)) == [("group-channels", 4)]
    body = SHUFFLE.format(inner="s = Softmax <axis = 3> (b)\n c = Mul (b, s)")
    assert kinds(make(body, weights)) == [("conv-groups", 3)]


# ---- exact and inexact ----


def test_inexact_groups_are_off_unless_asked_for():
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  b = LayerNormalization (a, g)  y = MatMul (b, w2) }"
    model = make(body, dict(w1=(5, 8), g=(8,), w2=(8, 2)))
    assert kinds(model) == []
    assert "statistic" in reasons(model)["w1", 1]
    group = groups_of(model, width=True).groups[0]
    assert not group.exact and "statistic" in group.note


def test_removing_an_exact_unit_equals_zeroing_its_weights():
    """f(0) = 1 in between: the consumer's zeros are what counts."""
    model = make(MLP.replace("Relu", "Exp"), dict(w1=(5, 8), w2=(8, 2)))
    result = onnxprune.prune(model, ratio=0.5)
    feeds = feeds_of(model, {"x": (3, 5)})
    np.testing.assert_allclose(run(result.model, feeds)[0], run(without(model, result.plan), feeds)[0], rtol=1e-5)


# ---- details that bite ----


def test_symbolic_dims_get_distinct_sizes_of_at_least_two():
    model = make(
        """(float[a, b, 5] x, float[c, 5] z) => (float[a, b, 2] y) {
          m = MatMul (x, w1)  n = MatMul (z, w1)  s = ReduceSum <keepdims = 0> (n)  t = Add (m, s)  y = MatMul (t, w2)
        }""",
        dict(w1=(5, 8), w2=(8, 2)),
    )
    shapes = onnxprune.prune(model, ratio=0.5).report.shapes
    sizes = [shapes["x"][0], shapes["x"][1], shapes["z"][0]]
    assert len(set(sizes)) == 3 and min(sizes) >= 2


@pytest.mark.parametrize(
    ("shape", "cut"), [((), ()), ((1,), (1,)), ((8,), (4,)), ((3, 1), (3, 1)), ((3, 8), (3, 4)), ((1, 8), (1, 4))]
)
def test_a_constant_ties_at_full_size_and_does_nothing_at_size_one(shape, cut):
    body = "(float[3, 5] x) => (float[3, 2] y) { a = MatMul (x, w1)  b = Mul (a, c)  y = MatMul (b, w2) }"
    result = onnxprune.prune(make(body, dict(w1=(5, 8), c=shape, w2=(8, 2))), ratio=0.5)
    from tests.models_text import tensors

    assert tuple(tensors(result.model)["c"].dims) == cut
    assert result.report.put_back == []


def test_a_weight_used_with_two_keep_sets_is_cloned_or_frozen():
    """The same vector scales two layers of one width: they go together, or the vector is cloned; never one alone."""
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)  b = Mul (a, s)  c = MatMul (b, w2)  d = Mul (c, s)  y = MatMul (d, w3)
    }"""
    model = make(body, dict(w1=(5, 8), s=(8,), w2=(8, 8), w3=(8, 2)))
    result = onnxprune.prune(model, ratio=0.5)
    assert result.report.put_back == []
    assert found_groups(result) == ["channel 8"]
    assert shapes_of(result.model) == dict(w1=(5, 4), s=(4,), w2=(4, 4), w3=(4, 2))


def test_a_splat_used_twice_ties_nothing():
    """A vector of ones is the same whoever reads it: both layers keep their own choice."""
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)  b = Mul (a, s)  c = MatMul (b, w2)  d = Mul (c, s)  y = MatMul (d, w3)
    }"""
    model = make(body, dict(w1=(5, 8), s=np.ones(8, np.float32), w2=(8, 8), w3=(8, 2)))
    result = onnxprune.prune(model, ratio=0.5)
    assert [(g.kind, g.units) for g in result.report.groups] == [("channel", 8), ("channel", 8)]
    assert result.report.put_back == []
    assert shapes_of(result.model)["w2"] == (4, 4)
    some = onnxprune.prune(model, ratio=0.5, ignore=["w1"])
    assert some.report.put_back == []
    assert shapes_of(some.model)["w2"] == (8, 4)


def test_captures_of_bodies_are_labelled_across_scopes():
    body = """(float[3, 5] x, bool c) => (float[3, 2] y) {
      a = MatMul (x, w1)
      y = If (c) <
        then_branch = g1 () => (float[3, 2] t) { t = MatMul (a, w2) },
        else_branch = g2 () => (float[3, 2] e) { s = Softmax <axis = 0> (a)  e = MatMul (s, w2) }
      >
    }"""
    assert kinds(make(body, dict(w1=(5, 8), w2=(8, 2)))) == [("channel", 8)]


# ---- edges ----


def test_a_split_into_single_channels_keeps_every_part():
    """No part of a tensor may vanish: a channel that makes up a whole tensor stays."""
    body = """(float[3, 5] x) => (float[3, 1] y) {
      a = MatMul (x, w1)
      p, q, r = Split <axis = 1, split = [1, 1, 1]> (a)
      s = Mul (p, q)
      y = Add (s, r)
    }"""
    model = make(body, dict(w1=(5, 3)), opset=11)
    assert kinds(model) == []
    assert "whole tensor" in reasons(model)["w1", 1] or "graph output" in reasons(model)["w1", 1]


def test_a_part_never_vanishes_completely():
    """The two weakest channels are one whole part of a Split."""
    w1 = np.ones((5, 6), np.float32)
    w1[:, :2] = 0.01
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)
      p, q = Split <axis = 1, split = [2, 4]> (a)
      r = Relu (p)
      c = Concat <axis = 1> (q, r)
      y = MatMul (c, w2)
    }"""
    model = make(body, dict(w1=w1, w2=np.ones((6, 2), np.float32)), opset=11)
    result = onnxprune.prune(model, ratio=0.5)
    assert result.report.put_back == []
    assert attribute(result.model, "Split", "split") == [1, 3]
    assert shapes_of(result.model) == dict(w1=(5, 4), w2=(4, 2))


def test_a_slice_never_vanishes_completely():
    w1 = np.ones((5, 6), np.float32)
    w1[:, :2] = 0.01
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)
      p = Slice (a, zero, two, one)
      q = Slice (a, two, six, one)
      c = Concat <axis = 1> (q, p)
      y = MatMul (c, w2)
    }"""
    weights = dict(w1=w1, w2=np.ones((6, 2), np.float32), zero=ints(0), one=ints(1), two=ints(2), six=ints(6))
    result = onnxprune.prune(make(body, weights), ratio=0.5)
    assert result.report.put_back == []
    assert shapes_of(result.model) == dict(w1=(5, 4), w2=(4, 2))


def test_ratio_close_to_one_leaves_one_unit():
    result = onnxprune.prune(make(MLP, dict(w1=(5, 8), w2=(8, 2))), ratio=0.99)
    assert shapes_of(result.model) == dict(w1=(5, 1), w2=(1, 2))
    assert result.report.put_back == []
