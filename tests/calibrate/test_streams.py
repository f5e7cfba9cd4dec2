"""Samples that Python code hands out."""

import numpy as np
import pytest

from onnxprune.calibrate.read import read_samples
from onnxprune.errors import ModelError, UsageError

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def rows(samples) -> np.ndarray:
    return np.concatenate([b.feeds["x"][: b.count] for b in samples.batches])


class Reader:
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def one_by_one():
    for row in X:
        yield {"x": row[None]}


def one_array():
    """Fills the same array again and again."""
    array = np.zeros(6, np.float32)
    for row in X:
        array[:] = row
        yield {"x": array}


@pytest.mark.parametrize("make", [one_by_one, one_array, lambda: list(one_by_one()), lambda: Reader(one_by_one())])
def test_sources_of_dicts(model, make):
    found = read_samples(make(), model("float[N, 6] x"), batch=16)
    assert [b.count for b in found.batches] == [16, 16, 8]
    np.testing.assert_array_equal(rows(found), X)
    np.testing.assert_array_equal(rows(found), X)  # once more


def test_one_dict_and_values_that_become_arrays(model):
    found = read_samples({"x": X.tolist(), "note": object()}, model("float[N, 6] x"))
    assert found.origin == "40 samples of dict"
    np.testing.assert_array_equal(rows(found), X)


def test_no_more_is_read_than_is_needed(model):
    read = []

    def endless():
        while True:
            read.append(1)
            yield {"x": X[:3]}

    found = read_samples(endless(), model("float[2, 6] x"), samples=8)
    assert [b.count for b in found.batches] == [2, 2, 2, 2]
    assert len(read) == 3
    assert found.origin == "8 samples of generator"


CODE = """
import numpy as np
import {neighbour}

def samples():
    import {neighbour} as again
    for k in range(5):
        yield {{"x": np.full((1, 6), k * again.FACTOR, np.float32)}}

class Data:
    def get_next(self):
        return None if self.left < 0 else self.take()
    def take(self):
        self.left -= 1
        return {{"x": np.ones((2, 6))}}
    left = 1

def text(): return "x"
def broken(): raise RuntimeError("out of cheese\\nmore")
def late():
    yield {{"x": np.ones((1, 6))}}
    raise KeyError("gone")
def tuples(): return [(1, 2)]
def nothing(): return []
def ragged(): return [{{"x": [[1.0], [1.0, 2.0]]}}]
def narrow(): return [{{"x": np.ones((1, 6))}}, {{"x": np.ones((1, 5))}}]
def other(): return [{{"z": 1, "k": 2}}]
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "calibration_factor.py").write_text("FACTOR = 2")
    (tmp_path / "data.py").write_text(CODE.format(neighbour="calibration_factor"))
    return f"{tmp_path}/data.py"


def test_functions_of_a_file(model, code):
    wanted = model("float[N, 6] x")
    found = read_samples(f"{code}:samples", wanted)
    assert rows(found)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert found.origin == "5 samples of data.py:samples"
    assert rows(read_samples(f"{code}:Data", wanted)).shape == (4, 6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", r"data\.py: broken fails with RuntimeError \(out of cheese\)$"),
        ("late", r"data\.py:late: fails with KeyError"),
        ("tuples", r"data\.py:tuples: item 0: has to be a dict of arrays by input name \('x'\), not tuple"),
        ("nothing", r"data\.py:nothing: yields no samples"),
        ("ragged", r"data\.py:ragged: item 0: 'x' is no array"),
        ("narrow", r"data\.py:narrow: item 1: float64 \[1, 5\] does not fit input 'x' \[N, 6\]"),
        ("other", r"data\.py:other: item 0: has the arrays 'z', 'k', but needs .*\('x'\)$"),
    ],
)
def test_code_that_fails_or_does_not_fit(model, code, name, words):
    with pytest.raises(ModelError, match=words):
        read_samples(f"{code}:{name}", model("float[N, 6] x"))


def test_calls_that_name_no_data(model, code, tmp_path):
    wanted = model("float[N, 6] x")
    with pytest.raises(UsageError, match=r"data\.py: has no function 'sample'; it has 'samples', 'Data'"):
        read_samples(f"{code}:sample", wanted)
    with pytest.raises(UsageError, match=r"data\.py:text: str is no calibration data"):
        read_samples(f"{code}:text", wanted)
    with pytest.raises(UsageError, match="int is no calibration data"):
        read_samples(3, wanted)
    with pytest.raises(ModelError, match=r"none\.py: no such file"):
        read_samples(f"{tmp_path}/none.py:f", wanted)
    (tmp_path / "wrong.py").write_text("def f(:")
    with pytest.raises(ModelError, match=r"wrong\.py: f fails with SyntaxError"):
        read_samples(f"{tmp_path}/wrong.py:f", wanted)
