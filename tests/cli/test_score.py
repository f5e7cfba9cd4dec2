"""`onnxprune score`: tables, JSON and figure."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.api import analyze
from onnxprune.report.ranking import rank_groups, rank_initializers
from onnxprune.select.context import ScoreContext, Scores
from onnxprune.select.criteria import score


def arrays(path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer}


def test_tables(invoke, model):
    result = invoke("score", model)
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    group = next(r for r in rows if r[:1] == ["g0"])
    assert group[1:5] == ["16", "channel", "100.0", "%"]
    w = arrays(model)
    norms = np.square(w["w1"]).sum((1, 2, 3)) + np.square(w["w2"]).sum((0, 2, 3))
    order = [str(k) for k in np.argsort(norms)]
    assert " ".join(group).endswith(f"{', '.join(order[:3])} {', '.join(order[::-1][:3])}")
    assert [f"{norms.min() / np.median(norms):.2f}x", f"{norms.max() / np.median(norms):.2f}x"] == group[5:7]
    first = next(r for r in rows if r[:1] == ["w1:0"])
    assert first[1:4] == ["16", "20.0", "%"]
    assert first[4] == f"{np.sqrt(np.square(w['w1']).mean()):.3g}"
    order = [str(k) for k in np.argsort(np.square(w["w1"]).sum((1, 2, 3)))]
    assert " ".join(first).endswith(f"{', '.join(order[:3])} {', '.join(order[::-1][:3])}")
    assert next(r for r in rows if r[:1] == ["w2:0"])[1:4] == ["4", "80.0", "%"]


def test_json_has_all_scores(invoke, model):
    document = json.loads(invoke("score", model, "--json", "--criterion", "l1").out)
    w = {k: np.abs(v) for k, v in arrays(model).items()}
    expected = w["w1"].sum((1, 2, 3)) + w["w2"].sum((0, 2, 3))
    (group,) = document["groups"]
    assert (group["id"], group["kind"], group["units"], group["curve"]) == ("g0", "channel", 16, None)
    np.testing.assert_allclose(group["scores"], [expected])
    assert group["ranked"] == [str(k) for k in np.argsort(expected)]
    assert [i["name"] for i in document["initializers"]] == ["w2", "w1"]
    assert document["initializers"][1]["ranked"] == np.argsort(np.square(w["w1"]).sum((1, 2, 3))).tolist()
    assert document["criterion"] == "l1"


def test_near_zero_and_channel_axis(model):
    changed = onnx.load(model)
    w1 = numpy_helper.to_array(changed.graph.initializer[0]).copy()
    w1.reshape(-1)[:36] = 1e-6
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(w1, "w1"))
    context = ScoreContext(analyze(changed))
    row = next(r for r in rank_initializers(context) if r.name == "w1")
    assert (row.near_zero, row.axis, row.params) == (36 / 144, 0, 0.2)
    assert row.ranked[:4] == ["0", "1", "2", "3"]


def test_names_of_heads_and_of_elements_in_buckets():
    from tests.select.conftest import ATTENTION, make

    context = ScoreContext(analyze(make(ATTENTION)))
    rows = {(r.kind, r.members[0]): r for r in rank_groups(context, score(context, "l2"))}
    heads = next(r for (kind, _), r in rows.items() if kind == "heads")
    assert heads.names == [["0", "1", "2", "3"]]
    dims = [r for (kind, _), r in rows.items() if kind == "head-dim"]
    for row in dims:
        assert sorted(int(n) for bucket in row.names for n in bucket) == list(range(16)), "slices of the first weight"
    rows = rank_groups(ScoreContext(analyze("models/gru.onnx")), Scores([[np.ones(96)] * 2] * 2))
    assert rows[0].names == [[f"{b}/{k}" for k in range(96)] for b in range(2)], "a hidden unit is three slices"


@pytest.mark.parametrize("top", [0, 1, 30])
def test_top(invoke, model, top):
    out = invoke("score", model, "--top", top).out
    table = out[: out.index("initializers by themselves")]
    assert ("least" in table) is bool(top)
    assert table.count(",") == 2 * max(min(top, 16) - 1, 0)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_fit_the_width(invoke, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    out = invoke("score", "models/vit_legacy.onnx", "-v", "--top", "5").out
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "256 channel" in out and "16 head-dim" in out


def test_a_model_without_groups(invoke, nothing):
    result = invoke("score", nothing)
    assert result.code == 0
    assert "nothing can be removed" in result.out
    assert "w:1" in result.out


def test_errors(invoke, model, tmp_path):
    for arguments, words in [
        (["--criterion", "l7"], ["l7", "l1, l2", "wanda"]),
        (["--criterion", "obs"], ["'obs'", "needs samples"]),
        (["--plot", tmp_path / "out.gif"], ["out.gif", ".png, .svg"]),
        (["--plot", model.with_suffix(".png") / "x.svg"], ["does not exist"]),
        (["--top", "-1"], ["--top"]),
    ]:
        result = invoke("score", model, *arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("error: ") and result.err.count("\n") == 1
        for word in words:
            assert word in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_a_figure_without_matplotlib_says_what_to_install(invoke, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("score", model, "--plot", tmp_path / "out.png")
    assert (result.code, result.out) == (2, "")
    assert "pip install 'onnxprune[plot]'" in result.err


def test_figures(invoke, model, nothing, tmp_path):
    pytest.importorskip("matplotlib")
    for name, start in (("out.png", b"\x89PNG"), ("out.svg", b"<?xml")):
        assert invoke("score", model, "--plot", tmp_path / name, "-q").code == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert invoke("score", model, "--plot", tmp_path / "again.svg", "-q").code == 0
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "out.svg").read_bytes()
    assert invoke("score", nothing, "--plot", tmp_path / "none.svg", "-q").code == 0


@pytest.mark.parametrize("criterion", [[], ["--criterion", "wanda"], ["--criterion", "fisher"]])
def test_criteria_that_look_at_samples(invoke, criterion):
    data = ["--data", "models/fashion_mnist.npz", "--samples", "32"]
    found = json.loads(invoke("score", "models/mobilenet.onnx", "--json", *data, *criterion).out)
    assert found["criterion"] == (criterion or ["", "obs"])[1]
    plain = json.loads(invoke("score", "models/mobilenet.onnx", "--json").out)
    same = [a["ranked"] == b["ranked"] for a, b in zip(found["groups"], plain["groups"], strict=True)]
    assert sum(same) < len(same) / 2


def test_such_a_criterion_without_samples_says_what_to_do(invoke):
    result = invoke("score", "models/mobilenet.onnx", "--criterion", "wanda")
    assert result.code == 2 and "needs samples" in result.err
