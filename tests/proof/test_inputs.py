"""Random inputs that a model can be run with."""

import numpy as np
import pytest

from onnxprune.prepare.prepare import prepare
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.session import run

TABLE = """
<ir_version: 8, opset_import: ["" : 17]>
m (int64[2, 50] ids) => (float[2, 50, 3] y) {
  %s
  y = Gather (table, i)
}
"""


def feeds(model, seed: int = 0) -> dict[str, np.ndarray]:
    prepared = prepare(model)
    return random_inputs(prepared.graph, prepared.shapes, prepared.inferred.scopes[id(prepared.graph)], seed)


@pytest.mark.parametrize(
    ("way", "high"),
    [
        ("i = Identity (ids)", 7),
        ("i = Cast <to = 7> (ids)", 7),
        ("i = Add (ids, two)", 5),
        ("j = Unsqueeze (ids, axis)\n  k = Squeeze (j, axis)\n  i = Add (k, two)", 5),
    ],
)
def test_an_index_stays_within_its_table(make, way, high):
    model = make(TABLE % way, table=(7, 3), two=np.int64(2), axis=np.array([0], np.int64))
    found = feeds(model)
    assert found["ids"].dtype == np.int64 and found["ids"].shape == (2, 50)
    assert found["ids"].min() == 0 and found["ids"].max() == high - 1
    run(model, found, ["y"])


def test_the_smallest_of_two_tables_counts(make):
    text = (TABLE % "i = Identity (ids)").replace("(float[2, 50, 3] y)", "(float[2, 50, 3] y, float[2, 50, 2] z)")
    model = make(text.replace("y = Gather", "z = Gather (small, ids)\n  y = Gather"), table=(7, 3), small=(4, 2))
    found = feeds(model)
    assert found["ids"].max() == 3
    run(model, found, ["y", "z"])


def test_elements_along_an_axis(make):
    model = make(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        m (float[4, 5] x, int64[4, 40] i) => (float[4, 40] y) { y = GatherElements <axis = 1> (x, i) }
        """
    )
    found = feeds(model)
    assert found["i"].min() >= 0 and found["i"].max() == 4
    run(model, found, ["y"])


def test_other_types(make):
    model = make(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        m (bool[3] c, float[3] a, double[3] d, float16[3] h, int32[3] mask, int64 count, string[2] s)
          => (float[3] y, double[3] e, float16[3] g, int32[3] n, int64 k, string[2] t) {
          y = Where (c, a, a)
          e = Identity (d)
          g = Identity (h)
          n = Identity (mask)
          k = Identity (count)
          t = Identity (s)
        }
        """
    )
    found = feeds(model)
    assert found["c"].dtype == np.bool_ and found["c"].all()
    assert found["a"].dtype == np.float32 and found["d"].dtype == np.float64 and found["h"].dtype == np.float16
    assert found["mask"].dtype == np.int32 and (found["mask"] == 1).all()
    assert found["count"].shape == () and found["count"] == 3
    assert found["s"].tolist() == ["a", "a"]
    run(model, found, [o.name for o in model.graph.output])


def test_seeds(make):
    model = make('<ir_version: 8, opset_import: ["" : 17]> m (float[3] x) => (float[3] y) { y = Relu (x) }')
    assert np.array_equal(feeds(model, 1)["x"], feeds(model, 1)["x"])
    assert not np.array_equal(feeds(model, 1)["x"], feeds(model, 2)["x"])


def test_symbolic_sizes(make):
    model = make('<ir_version: 8, opset_import: ["" : 17]> m (float[N, C, 3] x) => (float[N, C, 3] y) { y = Relu (x) }')
    n, c, _ = feeds(model)["x"].shape
    assert n >= 2 and c >= 2 and n != c


@pytest.mark.parametrize(
    ("way", "high"),
    [
        ("y = OneHot (ids, depth, values)", 9),
        ("i = Unsqueeze (ids, axis)\n  c = Equal (i, row)\n  y = Cast <to = 1> (c)", 9),
        ("c = Equal (ids, padding)\n  y = Cast <to = 1> (c)", 2),  # a mark alone tells nothing: ones
    ],
)
def test_a_one_hot_vector_tells_the_classes(make, way, high):
    text = TABLE.replace("y = Gather (table, i)", "").replace("float[2, 50, 3] y", "float y") % way
    known = {
        "depth": np.int64(9), "values": np.array([0, 1], np.float32), "row": np.arange(9, dtype=np.int64),
        "axis": np.array([2], np.int64), "padding": np.int64(0),
    }  # fmt: skip
    found = feeds(make(text, **{n: a for n, a in known.items() if n in way}))["ids"]
    assert found.max() == high - 1 and (high == 2 or found.min() == 0)
