"""What a model reads at one input size only is not free to go."""

import numpy as np
import pytest

import onnxprune
from tests.models_text import make

LENGTH = """
  shape = Shape (x)
  i = Constant <value = int64 {1}> ()
  n = Gather (shape, i)
"""
SLICED = (
    LENGTH
    + """
  zero = Constant <value = int64[1] {0}> ()
  axis = Constant <value = int64[1] {0}> ()
  end = Unsqueeze (n, axis)
  rows = Slice (table, zero, end, axis)
"""
)
GATHERED = (
    LENGTH
    + """
  from = Constant <value = int64 {0}> ()
  step = Constant <value = int64 {1}> ()
  ids = Range (from, n, step)
  rows = Gather (table, ids)
"""
)
REST = """
  h = MatMul (x, w1)
  s = Add (h, rows)
  r = Relu (s)
  y = MatMul (r, w2)
"""
WEIGHTS = dict(w1=(5, 12), w2=(12, 4), table=(64, 12))


@pytest.mark.parametrize("way", [SLICED, GATHERED])
def test_rows_of_a_position_table_stay(way):
    """Rows beyond the traced length are read by longer inputs."""
    model = make(f"(float[N, S, 5] x) => (float[N, S, 4] y) {{ {way} {REST} }}", WEIGHTS)
    result = onnxprune.prune(model, ratio=0.5)
    table = next(t for t in result.model.graph.initializer if t.name == "table")
    assert list(table.dims) == [64, 6]
    assert any(f.weight == "table" and f.axis == 0 and "other input sizes" in f.reason for f in result.report.frozen)
    import onnxruntime as ort

    session = ort.InferenceSession(result.model.SerializeToString())
    (y,) = session.run(None, {"x": np.ones((1, 64, 5), np.float32)})
    assert y.shape == (1, 64, 4)


def test_rows_beyond_a_fixed_length_go():
    model = make(f"(float[N, 7, 5] x) => (float[N, 7, 4] y) {{ {SLICED} {REST} }}", WEIGHTS)
    result = onnxprune.prune(model, ratio=0.5)
    assert next(t for t in result.model.graph.initializer if t.name == "table").dims[0] < 64


def test_halves_computed_from_a_shape_are_followed():
    """The channel axis has one size at any batch size, so its computed bounds are as good as constants."""
    text = """(float[N, S, 5] x) => (float[N, S, 4] y) {
      h = MatMul (x, w1)
      shape = Shape (h)
      two = Constant <value = int64 {2}> ()
      c = Gather (shape, two)
      half = Div (c, two)
      zero = Constant <value = int64[1] {0}> ()
      axis = Constant <value = int64[1] {2}> ()
      end = Unsqueeze (half, zero)
      a = Slice (h, zero, end, axis)
      all = Unsqueeze (c, zero)
      b = Slice (h, end, all, axis)
      g = Sigmoid (a)
      m = Mul (g, b)
      y = MatMul (m, w2)
    }"""
    result = onnxprune.prune(make(text, dict(w1=(5, 16), w2=(8, 4))), ratio=0.5)
    assert result.report.verification.passed and result.report.params_after * 2 == result.report.params_before
