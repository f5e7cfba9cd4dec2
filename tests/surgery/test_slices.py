"""Slices of weights are cut out and put back; numbers that count them follow."""

import numpy as np
import pytest

import onnxprune
from onnxprune.surgery.weights import cut, cut_shape, kept_indices, put_back
from tests.models_text import attribute, ints, make, node, shapes_of, tensors


def mask(*kept: int) -> np.ndarray:
    return np.array(kept, np.bool_)


KEEPS = {
    "first axis": ({0: mask(1, 0, 1, 1)}, (3, 3, 2)),
    "middle axis": ({1: mask(0, 1, 1)}, (4, 2, 2)),
    "two axes": ({0: mask(1, 0, 0, 1), 2: mask(0, 1)}, (2, 3, 1)),
    "per block of axis 0": ({1: np.array([[1, 0, 1], [0, 1, 1]], np.bool_)}, (4, 2, 2)),
    "per block, and axis 0 itself": ({0: mask(1, 0, 0, 1), 1: np.array([[1, 0, 1], [0, 1, 1]], np.bool_)}, (2, 2, 2)),
    "a whole block": ({0: mask(0, 0, 1, 1), 1: np.array([[0, 0, 0], [0, 1, 1]], np.bool_)}, (2, 2, 2)),
}


@pytest.mark.parametrize("name", KEEPS)
def test_put_back_is_the_inverse_of_cut(name):
    keep, shape = KEEPS[name]
    array = 1 + np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    small = cut(array, keep)
    assert small.shape == cut_shape(array.shape, keep) == shape
    full = put_back(small, array.shape, keep, {})
    kept = np.zeros(array.shape, np.bool_)
    for index, _ in kept_indices(array.shape, keep):
        kept[index] = True
    np.testing.assert_array_equal(full, np.where(kept, array, 0))
    assert kept.sum() == small.size


def test_cut_keeps_order():
    array = np.arange(8).reshape(4, 2)
    assert cut(array, {0: mask(0, 1, 0, 1)}).tolist() == [[2, 3], [6, 7]]
    blocks = {1: np.array([[1, 0], [0, 1]], np.bool_)}
    assert cut(array, blocks).tolist() == [[0], [2], [5], [7]]


def test_removed_slices_take_their_neutral_value():
    full = put_back(np.array([5.0, 6.0], np.float32), (4,), {0: mask(1, 0, 1, 0)}, {0: np.array([0.0, 1.0, 0.0, 2.0])})
    assert full.tolist() == [5, 1, 6, 2]


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="nothing would be left"):
        cut(np.ones((2, 2)), {0: mask(0, 0)})


def test_rows_that_would_differ_in_length_are_an_error():
    with pytest.raises(ValueError):
        cut(np.ones((2, 2)), {1: np.array([[1, 1], [0, 1]], np.bool_)})


# ---- numbers that follow ----


def test_a_gather_index_is_renumbered():
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)
      b = Gather <axis = 1> (a, i)
      y = MatMul (b, w2)
    }"""
    w1 = np.ones((5, 4), np.float32)
    w1[:, [0, 2]] = 0.1
    weights = dict(w1=w1, w2=np.ones((4, 2), np.float32), i=ints(3, 0, -3, 2))
    result = onnxprune.prune(make(body, weights), ratio=0.5)
    assert result.plan.initializers["w1"]["removed"]["1"] == [0, 2]
    index = tensors(result.model)[node(result.model, "Gather").input[1]]
    assert np.frombuffer(index.raw_data, np.int64).tolist() == [1, 0]
    assert result.report.put_back == []


def test_minus_one_in_a_target_stays():
    body = """(float[3, 5] x) => (float[3, 2] y) {
      a = MatMul (x, w1)
      b = Reshape (a, s)
      y = MatMul (b, w2)
    }"""
    result = onnxprune.prune(make(body, dict(w1=(5, 8), w2=(8, 2), s=ints(3, -1))), ratio=0.5)
    target = tensors(result.model)[node(result.model, "Reshape").input[1]]
    assert np.frombuffer(target.raw_data, np.int64).tolist() == [3, -1]


def test_a_target_shared_by_two_readers_is_given_to_one_of_them():
    """(3, 8) is the target of a pruned and of an unpruned tensor: the unpruned one keeps it."""
    body = """(float[3, 5] x, float[24] z) => (float[3, 2] y, float[3, 8] v) {
      a = MatMul (x, w1)
      b = Reshape (a, s)
      y = MatMul (b, w2)
      v = Reshape (z, s)
    }"""
    result = onnxprune.prune(make(body, dict(w1=(5, 8), w2=(8, 2), s=ints(3, 8))), ratio=0.5)
    assert result.report.put_back == []
    assert shapes_of(result.model) == dict(w1=(5, 4), w2=(4, 2))
    stored = tensors(result.model)
    targets = [np.frombuffer(stored[node(result.model, "Reshape", k).input[1]].raw_data, np.int64).tolist() for k in (0, 1)]
    assert targets == [[3, 4], [3, 8]]


def test_what_does_not_shrink_is_not_touched():
    """Nodes, names and constants apart from the pruned ones are the same bytes."""
    body = """(float[3, 5] x, float[3, 4] u) => (float[3, 2] y, float[3, 4] v) {
      a = MatMul (x, w1)
      y = MatMul (a, w2)
      r = Reshape (u, s)
      v = Mul (r, k)
    }"""
    model = make(body, dict(w1=(5, 8), w2=(8, 2), s=ints(3, 4), k=(4,)))
    result = onnxprune.prune(model, ratio=0.5)
    assert list(result.model.graph.node) == list(model.graph.node)
    old = {t.name: t.SerializeToString() for t in model.graph.initializer}
    new = {t.name: t.SerializeToString() for t in result.model.graph.initializer}
    assert {n for n in old if old[n] != new[n]} == {"w1", "w2"}


def test_group_attributes_are_only_set_where_they_change():
    body = "(float[2, 3, 4, 4] x) => (float[2, 2, 4, 4] y) { a = Conv <group = 1> (x, w1)  y = Conv (a, w2) }"
    result = onnxprune.prune(make(body, dict(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1))), ratio=0.5)
    assert attribute(result.model, "Conv", "group") == 1
    assert attribute(result.model, "Conv", "group", 1) is None


@pytest.mark.parametrize("shared", [False, True])
def test_what_made_sizes_that_were_replaced_goes_with_them(shared):
    """Runtimes complain about nodes that nothing reads; those that something else reads stay, and so do those of the source."""
    body = f"""(float[3, 5] x) => (float[3, 2] y, float[3, 2] z{", int64[2] v" if shared else ""}) {{
      c = Constant <value_ints = [2, 6]> ()
      s = Identity (c)
      {"v = Neg (c)" if shared else ""}
      unread = Constant <value_int = 1> ()
      a = MatMul (x, w1)
      p, q = Split <axis = 1> (a, s)
      y = MatMul (p, w2)
      z = MatMul (q, w3)
    }}"""
    result = onnxprune.prune(make(body, dict(w1=(5, 8), w2=(2, 2), w3=(6, 2))), ratio=0.5)
    assert result.report.put_back == [] and shapes_of(result.model) == dict(w1=(5, 4), w2=(1, 2), w3=(3, 2))
    left = {o for n in result.model.graph.node for o in n.output}
    assert "s" not in left and ("c" in left) == shared and "unread" in left


@pytest.mark.parametrize("target", ["t = Constant <value_ints = [3, 2, 4]> ()", "t = Concat <axis = 0> (n, two, four)"])
def test_sizes_that_come_from_a_shape_that_changes(target):
    """They are those that the parts need, whatever the shape says now; all that led to them goes, what was mended too."""
    body = f"""(float[3, 5] x) => (float[3, 2] y, float[3, 2] z) {{
      a = MatMul (x, w1)
      all = Shape (x)
      n = Gather <axis = 0> (all, i0)
      four = Mul (two, two)
      {target}
      b = Reshape (a, t)
      shape = Shape (b)
      k = Gather <axis = 0> (shape, i2)
      some = Div (k, two)
      rest = Add (some, k)
      sizes = Concat <axis = 0> (some, rest)
      p, q = Split <axis = 1> (a, sizes)
      y = MatMul (p, w2)
      z = MatMul (q, w3)
    }}"""
    numbers = {name: np.array([n]) for name, n in dict(i0=0, i2=2, two=2).items()}
    result = onnxprune.prune(make(body, dict(w1=(5, 8), w2=(2, 2), w3=(6, 2)) | numbers), ratio=0.5)
    assert result.report.put_back == [] and shapes_of(result.model) == dict(w1=(5, 4), w2=(1, 2), w3=(3, 2))
    assert not {"b", "shape", "sizes"} & {o for n in result.model.graph.node for o in n.output}
