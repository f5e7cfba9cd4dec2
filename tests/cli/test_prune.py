"""`onnxprune prune`: results, files and figures."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest


def test_it_writes_a_smaller_model_and_a_table(invoke, model, tmp_path):
    before = model.read_bytes()
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency")
    assert (result.code, result.err) == (0, "")
    shapes = {t.name: list(t.dims) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert shapes == {"w1": [8, 1, 3, 3], "w2": [4, 8, 3, 3]}
    assert model.read_bytes() == before
    rows = [line.split() for line in result.out.splitlines()]
    assert ["parameters", "720", "360", "-50.0", "%"] in rows
    assert "8 of 16 units in 1 group" in result.out
    assert "verified" in result.out
    assert "it reaches graph output 'y'" in result.out


def test_the_same_options_give_the_same_bytes(invoke, model, tmp_path):
    for name in ("one.onnx", "two.onnx"):
        assert invoke("prune", model, "-o", tmp_path / name, "--no-latency", "-q").code == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--ratio", "0.25"], 12),
        (["--ratio", "0"], None),
        (["--ratio", "w1=0.75"], 4),
        (["--ratio", "0.75", "--ratio", "w2=0.25"], 12),
        (["--ratio", "0.9", "--min-channels", "5"], 5),
        (["--ratio", "0.4", "--round-to", "8"], 16),
        (["--ratio", "0.6", "--round-to", "4"], 8),
        (["--only", "w?"], 8),
        (["--ignore", "w1"], None),
        (["--ranking", "global", "--criterion", "l1"], 8),
    ],
)
def test_options_choose_what_goes(invoke, model, tmp_path, options, kept):
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", *options)
    if kept in (None, 16):
        assert result.code == 5
        return
    assert result.code == 0
    assert onnx.load(tmp_path / "out.onnx").graph.initializer[0].dims[0] == kept


def test_json_is_one_document_with_all_figures(invoke, model, tmp_path):
    report = tmp_path / "report.json"
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--json", "--report-out", report)
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert document == json.loads(report.read_text())
    assert document["output"] == str(tmp_path / "out.onnx")
    assert document["report"]["params_after"] == 360
    assert document["report"]["verification"]["passed"] is True
    assert document["latency"]["before"]["p50_ms"] > 0
    assert len(document["latency"]["before"]["ms"]) == len(document["latency"]["after"]["ms"]) >= 10
    assert document["evaluation"] is None


def test_quiet_shows_nothing_but_json(invoke, model, tmp_path):
    assert invoke("-q", "prune", model, "-o", tmp_path / "a.onnx", "--no-latency").out == ""
    result = invoke("prune", model, "-o", tmp_path / "b.onnx", "--no-latency", "--json", "-q")
    assert json.loads(result.out)["report"]["params_before"] == 720


def test_verbose_flags_may_stand_behind_the_command(invoke, model, tmp_path):
    result = invoke("prune", model, "-o", tmp_path / "a.onnx", "--no-latency", "-v")
    assert "seconds" in result.out
    assert "slides over it" in result.out


def test_unverified_results_say_so(invoke, model, tmp_path):
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--no-verify")
    assert result.code == 0
    assert "not verified" in result.out


def test_scores_are_those_of_the_files(invoke, model, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((250, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(model))
    np.savez(tmp_path / "data.npz", x=x, labels=session.run(None, {"x": x})[0].argmax(1))
    arguments = ("--eval", tmp_path / "data.npz", "--no-latency")
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", *arguments, "--json")
    found = json.loads(result.out)["evaluation"]
    assert (found["metric"], found["samples"], found["before"]) == ("accuracy", 250, 100.0)
    small = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    expected = (small.run(None, {"x": x})[0].argmax(1) == session.run(None, {"x": x})[0].argmax(1)).mean() * 100
    assert found["after"] == pytest.approx(expected)
    assert found["agreement"] == pytest.approx(expected)
    table = invoke("prune", model, "-o", tmp_path / "out.onnx", *arguments)
    assert "top-1 accuracy" in table.out
    assert "250 samples" in table.out


def test_nothing_to_prune_copies_only_if_asked(invoke, nothing, tmp_path):
    out = tmp_path / "out.onnx"
    result = invoke("prune", nothing, "-o", out)
    assert (result.code, out.exists()) == (5, False)
    assert result.err.startswith("error: ")
    assert invoke("prune", nothing, "-o", out, "--copy-if-nothing").code == 5
    assert onnx.load(out) == onnx.load(nothing)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_fit_the_width(invoke, model, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    out = invoke("prune", model, "-o", tmp_path / "out.onnx", "-v").out
    body = out.splitlines()[2:]  # the title is two paths of any length
    assert body
    assert max(len(line) for line in body if str(tmp_path)[:8] not in line) <= int(columns)
