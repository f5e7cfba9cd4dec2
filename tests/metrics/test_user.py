"""Metrics that users write: in a file, behind the decorator, or in a package."""

import importlib.metadata
import textwrap

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics import registry
from tests.models_text import make

RNG = np.random.default_rng(2)
X = RNG.standard_normal((230, 8)).astype(np.float32)
LABELS = RNG.integers(0, 6, 230)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a test registers is gone after it."""
    registry.metrics()
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))


@pytest.fixture
def file(tmp_path):
    """A Python file with a metric `m`, as `--metric` names it."""

    def write(text: str) -> str:
        (tmp_path / "mine.py").write_text(textwrap.dedent(text))
        return f"{tmp_path / 'mine.py'}:m"

    return write


def test_a_number_for_the_whole_run(linear, score, file):
    """F1 of class 2 is no mean over samples."""
    name = file("""
        import helper
        def m(outputs, feeds):
            assert outputs["y"].shape == (230, 6) and feeds["x"].shape == (230, 8)
            return helper.f1(outputs["y"].argmax(1) == 2, feeds["labels"] == 2)
    """)
    helper = name.replace("mine.py:m", "helper.py")
    with open(helper, "w") as out:
        out.write("def f1(a, b):\n    return 2 * (a & b).sum() / (a.sum() + b.sum())\n")
    model, weights = linear
    found = score(model, {"x": X, "labels": LABELS}, metric=name)
    a, b = (X @ weights).argmax(1) == 2, LABELS == 2
    assert found.value == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert (found.metric, found.title, found.higher_is_better, found.samples) == ("mine.py:m", "m", True, 230)
    assert found.change(found).interval is None and found.change(found).within_noise is None


def test_a_value_for_each_sample(linear, score, file):
    name = file("""
        import numpy as np
        def m(outputs, feeds):
            return np.abs(outputs["y"] - feeds["truth"]).max(axis=1)
        m.higher_is_better = False
    """)
    model, weights = linear
    truth = RNG.standard_normal((230, 6)).astype(np.float32)
    found = score(model, {"x": X, "truth": truth}, metric=name)
    own = np.abs(X @ weights - truth).max(axis=1)
    assert found.value == pytest.approx(own.mean(), rel=1e-5) and not found.higher_is_better
    other = score(
        make("(float[N, 8] x) => (float[N, 6] y) { y = MatMul (x, w) }", {"w": weights * 0.9}),
        {"x": X, "truth": truth},
        metric=name,
    )
    change = found.change(other)
    assert change.interval.low < change.value < change.interval.high


def test_samples_of_different_shape_come_as_lists_in_the_order_of_the_data(score, file):
    name = file("""
        def m(outputs, feeds):
            assert [len(a) for a in feeds["x"]] == [len(a) for a in outputs["y"]] == [3, 5, 3, 5, 4]
            return [float(a.sum()) for a in outputs["y"]]
    """)
    rows = [np.full(n, k, np.float32) for k, n in enumerate([3, 5, 3, 5, 4])]
    model = make("(float[N, S] x) => (float[N, S] y) { y = Identity (x) }", {})
    assert score(model, [{"x": r} for r in rows], metric=name).totals.tolist() == [0, 5, 6, 15, 16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def m(outputs, feeds):\n    x = 1\n    return outputs['nothere']",
            r"fails with KeyError at .*mine\.py:3 \('nothere'\)",
        ),
        ("import numpy as np\ndef m(o, f):\n    return np.linalg.inv(np.zeros((2, 2)))", r"LinAlgError at .*mine\.py:3"),
        ("def m(outputs):\n    return 1", "TypeError.*takes 1 positional"),
        ("def m(o, f):\n    return 'good'", "returns str, not one value for each of 230 samples, or one number"),
        ("def m(o, f):\n    return None", "returns"),
        ("def m(o, f):\n    return float('nan')", "returns nan"),
        ("def m(o, f):\n    return [1, 2]", r"returns an array \[2\], not one value for each of 230 samples"),
        ("def m(o, f):\n    a = o['y'][:, 0] * 0\n    a[7] = float('inf')\n    return a", "returns inf for sample 7"),
        ("1 / 0\ndef m(o, f): pass", r"fails with ZeroDivisionError at .*mine\.py:1"),
        ("def m(o, f)\n    pass", r"SyntaxError at .*mine\.py:1"),
    ],
)
def test_code_that_fails_names_file_and_line(linear, score, file, text, words):
    with pytest.raises(ModelError, match=words) as error:
        score(linear[0], {"x": X, "labels": LABELS}, metric=file(text))
    assert "\n" not in str(error.value)


def test_files_and_functions_that_are_not_there(linear, score, file, tmp_path):
    with pytest.raises(ModelError, match=r"nothere\.py: no such file"):
        score(linear[0], {"x": X}, metric=f"{tmp_path}/nothere.py:m")
    with pytest.raises(UsageError, match="has no function 'm'; it has 'other'"):
        score(linear[0], {"x": X}, metric=file("def other(o, f): pass"))
    with pytest.raises(UsageError, match="unknown metric 'acuracy'; there are accuracy, cosine, mse, perplexity, top5"):
        score(linear[0], {"x": X}, metric="acuracy")


def test_the_decorator_gets_batches_and_may_choose_a_unit(linear, score):
    sizes = []

    @onnxprune.metric("top-two", title="top-2 accuracy", higher_is_better=True, unit="percent")
    def top_two(outputs, feeds):
        sizes.append(len(outputs["y"]))
        return (np.argsort(-outputs["y"], axis=1)[:, :2] == feeds["labels"][:, None]).any(1)

    model, weights = linear
    found = score(model, {"x": X, "labels": LABELS}, metric="top-two")
    expected = (np.argsort(-(X @ weights), axis=1)[:, :2] == LABELS[:, None]).any(1)
    assert sizes == [100, 100, 30]
    assert found.value == pytest.approx(expected.mean() * 100)
    assert found.change(found).p_value == 1  # right or wrong, so McNemar's test holds


def test_a_decorated_function_in_a_file_is_what_it_was_registered_as(linear, score, file):
    name = file("""
        from onnxprune import metric
        @metric("size", title="largest output", higher_is_better=False)
        def m(outputs, feeds):
            assert len(feeds["x"]) <= 100
            return outputs["y"].max(axis=1)
    """)
    found = score(linear[0], {"x": X}, metric=name)
    assert (found.metric, found.title, found.higher_is_better) == ("size", "largest output", False)


def test_entry_points(monkeypatch, linear, score):
    class Entry:
        def load(self):
            onnxprune.metric("theirs", higher_is_better=True)(lambda outputs, feeds: outputs["y"][:, 0])

    def entry_points(group):
        return [Entry()] if group == "onnxprune.metrics" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._load.cache_clear()
    assert "theirs" in registry.metrics()
    assert score(linear[0], {"x": X}, metric="theirs").value == pytest.approx((X @ linear[1])[:, 0].mean(), abs=1e-5)
    registry._load.cache_clear()
