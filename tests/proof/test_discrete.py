"""Behind an operator that chooses, rounding makes another choice: then what it chose from is compared."""

import numpy as np
import pytest

from onnxprune.prepare.prepare import prepare
from onnxprune.proof.oracle import compare

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[2, 4] x) => (float[2, 4] y%s) {
  t = Mul (x, w)
  %s
}
"""
FLOOR = "y = Floor (t)"
FEEDS = {"x": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)}
ONE, BELOW, OFF = np.float32(1), np.nextafter(np.float32(1), np.float32(0)), np.float32(0.9)


def compared(make, text: str, weight, feeds=FEEDS):
    expected, actual = make(text, w=np.float32([1])), make(text, w=np.float32([weight]))
    return compare(expected, actual, prepare(expected).graph, feeds, 1e-4)


def test_rounding_before_a_floor(make):
    found = compared(make, TEXT % ("", FLOOR), BELOW)
    assert found.passed and found.before == ["t"] and found.error < 1e-6


def test_a_difference_before_a_floor(make):
    found = compared(make, TEXT % ("", FLOOR), OFF)
    assert not found.passed and found.before == ["t"] and found.error == pytest.approx(0.1, rel=1e-3)


def test_the_same_choice_is_compared_itself(make):
    found = compared(make, TEXT % ("", FLOOR), ONE)
    assert found.passed and found.before == [] and found.outputs == ["y"]


def test_an_output_beside_it_is_compared_itself(make):
    """A wrong output that no discrete operator excuses fails, whatever the others do."""
    text = TEXT % (", float[2, 4] z", FLOOR + "\n  z = Mul (w, x)")
    found = compared(make, text, OFF)
    assert not found.passed


def test_what_follows_a_choice_is_behind_it(make):
    found = compared(make, TEXT % ("", "f = Floor (t)\n  g = Relu (f)\n  y = Neg (g)"), BELOW)
    assert found.passed and found.before == ["t"]


def test_the_first_choice_of_a_row_counts(make):
    found = compared(make, TEXT % ("", "f = Floor (t)\n  y = Sign (f)"), BELOW)
    assert found.passed
    found = compared(make, TEXT % ("", "f = Floor (t)\n  y = Ceil (f)"), BELOW)
    assert found.passed and found.before == ["t"]


def test_positions(make):
    """ArgMax over a tie that rounding breaks."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[2, 4] x) => (int64[2, 1] y) {
      t = Mul (x, w)
      y = ArgMax <axis = 1> (t)
    }
    """
    expected, actual = make(text, w=np.ones(4, np.float32)), make(text, w=np.float32([BELOW, 1, 1, 1]))
    feeds = {"x": np.ones((2, 4), np.float32)}
    found = compare(expected, actual, prepare(expected).graph, feeds, 1e-4)
    assert found.passed and found.before == ["t"]
    swapped = make(text, w=np.float32([0.5, 1, 1, 1]))
    assert not compare(expected, swapped, prepare(expected).graph, feeds, 1e-4).passed
