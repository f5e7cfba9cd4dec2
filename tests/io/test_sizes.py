"""Sizes for symbolic dimensions."""

import pytest
from onnx import TensorProto, helper

from onnxprune.shapes.dims import assignments


def model(*dims):
    inputs = [helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, own) for k, own in enumerate(dims)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x0"], ["y"])], "sizes", inputs, [output]))


def test_symbols_get_distinct_sizes_and_equal_names_equal_ones():
    first = next(assignments(model(["n", 3, "h", "w"], ["n", "s"])))
    n, channels, h, w = first["x0"]
    assert channels == 3 and first["x1"][0] == n
    assert len({n, h, w, first["x1"][1]}) == 4 and min(h, w) >= 64


@pytest.mark.parametrize(
    ("dims", "long"),
    [
        ([["n", 3, "h", "w"]], False),  # a batch of 640 images runs for minutes
        ([["n", 3, "d", "h", "w"]], False),
        ([["n", "samples"]], True),
        ([["n", 3, "h", "w"], ["n", "samples"]], True),
    ],
)
def test_lengths_of_audio_are_tried_where_there_may_be_audio(dims, long):
    found = list(assignments(model(*dims)))
    plain = [size for shapes in found for own in shapes.values() for axis, size in enumerate(own) if axis < 2]
    assert (max(plain) > 500) == long


def test_given_shapes_stay():
    assert all(s["x0"] == (1, 3, 8, 8) for s in assignments(model(["n", 3, "h", "w"]), {"x0": (1, 3, 8, 8)}))
