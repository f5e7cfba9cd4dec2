"""`onnxprune prune`: results, files and figures."""

import json
import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.cli.conftest import make


def test_it_writes_a_smaller_model_and_a_table(invoke, model, tmp_path):
    before = model.read_bytes()
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--reconstruct", "none")
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
    sizes = {t.name: math.prod(t.dims) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert document["report"]["params_after"] == sum(sizes.values()) == 364 and len(sizes) == 3, "a bias was fitted"
    assert document["report"]["verification"]["passed"] is True
    assert document["latency"]["before"]["p50_ms"] > 0
    assert all(len(document["latency"][side]["ms"]) >= 10 for side in ("before", "after"))
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


@pytest.fixture
def calibration(model, tmp_path):
    """Samples for the model's input."""
    name = onnx.load(model).graph.input[0].name
    path = tmp_path / "samples.npz"
    shape = onnx.load(model).graph.input[0].type.tensor_type.shape.dim
    sizes = [d.dim_value or 6 for d in shape][1:]
    np.savez(path, **{name: np.random.default_rng(0).standard_normal((40, *sizes)).astype(np.float32)})
    return path


def test_samples_rank_and_repair(invoke, model, calibration, tmp_path):
    arguments = ("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--data", calibration)
    report = json.loads(invoke(*arguments, "--json").out)["report"]
    assert report["calibration"] == "40 samples of samples.npz" and report["criterion"] == "obs"
    assert [f["kind"] for f in report["fits"]] == ["lsq"]
    assert report["fits"][0]["lost_after"] < report["fits"][0]["lost_before"]
    assert report["fidelity"][0]["samples"] == 40 and report["verification"]["passed"]
    bare = json.loads(invoke(*arguments, "--json", "--reconstruct", "none").out)["report"]
    assert bare["criterion"] == "l2" and bare["fits"] == []
    assert bare["fidelity"][0]["relative_error"] > report["fidelity"][0]["relative_error"]
    table = invoke(*arguments, "--samples", "12").out
    assert "12 samples of samples.npz; ranked by obs" in table and "recovered" in table and "likeness on" in table


def test_without_data_random_samples_rank_and_repair(invoke, model, tmp_path):
    arguments = ("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--json")
    report = json.loads(invoke(*arguments).out)["report"]
    assert report["calibration"] == "1,024 synthetic samples, no data was given: 'x' images" and report["criterion"] == "obs"
    assert report["fits"][0]["lost_after"] < report["fits"][0]["lost_before"] and report["verification"]["passed"]
    few = json.loads(invoke(*arguments, "--samples", "20", "--criterion", "l1", "--reconstruct", "bias").out)["report"]
    assert few["calibration"].startswith("20 synthetic samples") and few["criterion"] == "l1"
    assert [f["kind"] for f in report["fits"]] == ["lsq"] and few["fits"][0]["kind"] in ("bias", "none")
    bare = json.loads(invoke(*arguments, "--reconstruct", "none").out)["report"]
    assert (bare["calibration"], bare["criterion"], bare["fits"]) == ("", "l2", [])


def test_models_that_no_random_samples_resemble_are_pruned_by_weights(invoke, tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[N, 6] x, float[N, 16] state) => (float[N, 4] y, float[N, 16] next) {
      a = MatMul (x, w1)
      next = Add (a, state)
      b = MatMul (x, w2)
      c = Relu (b)
      y = MatMul (c, w3)
    }
    """
    onnx.save(make(text, w1=(6, 16), w2=(6, 12), w3=(12, 4)), tmp_path / "model.onnx")
    arguments = ("prune", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", "--no-latency")
    result = invoke(*arguments)
    assert result.code == 0 and "none, as inputs 'x', 'state' depend on each other; ranked by l2" in result.out
    assert (tmp_path / "out.onnx").exists()
    refused = invoke(*arguments, "--reconstruct", "lsq")
    assert refused.code == 2 and "random ones do not do" in refused.err
    assert invoke(*arguments, "--data", "synthetic").code == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--mask", "x"], 2, "need samples: give --data PATH"),
        (["--reconstruct", "more", "--data", "synthetic"], 2, "--reconstruct more"),
        (["--data", "nothere.npz"], 1, "nothere.npz: no such file or folder"),
        (["--criterion", "obs", "--reconstruct", "none"], 2, "needs samples"),
        (["--lossless", "--ratio", "0.3"], 2, "--lossless decides by itself"),
        (["--lossless", "--reconstruct", "lsq"], 2, "--lossless decides by itself"),
        (["--lossless"], 5, "every channel does something"),
        (["--lossless", "--merge"], 2, "leave out --ratio, --target, --criterion, --data, --merge and --reconstruct"),
    ],
)
def test_options_that_do_not_go_together(invoke, model, tmp_path, options, code, message):
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", *options)
    assert result.code == code and message in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_merging_is_reported(invoke, model, tmp_path):
    arguments = ["prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--merge"]
    report = json.loads(invoke(*arguments, "--json").out)["report"]
    assert report["criterion"] == "obs" and report["verification"]["passed"] and report["calibration"] == ""
    assert report["merges"] and all(m["channels"] and 0 < m["explained"] < 1 for m in report["merges"])
    table = invoke(*arguments).out
    assert "merged" in table and "as far as weights tell" in table
    assert json.loads(invoke(*arguments[:-1], "--json").out)["report"]["merges"] is None


def test_lossless_removes_what_is_dead(invoke, model, tmp_path):
    source = onnx.load(model)
    for tensor in source.graph.initializer:
        if tensor.name == "w2":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, [2, 9]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    onnx.save(source, tmp_path / "dead.onnx")
    result = invoke("prune", tmp_path / "dead.onnx", "-o", tmp_path / "out.onnx", "--no-latency", "--lossless")
    assert result.code == 0 and "2 unread" in result.out and "2 of 16 units" in result.out


def test_weights_that_make_nan_of_random_samples(invoke, tmp_path):
    """Weights decide then, and nobody is told to leave out samples that nobody gave."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[N, 6] x) => (float[N, 4] y) { a = MatMul (x, w1)  b = Relu (a)  y = MatMul (b, w2) }
    """
    model = make(text, w1=(6, 16), w2=(16, 4))
    weights = np.full((6, 16), np.inf, np.float32)
    weights[:, 3:] = 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))
    onnx.save(model, tmp_path / "model.onnx")
    result = invoke("prune", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", "--no-latency")
    assert result.code == 0 and "Traceback" not in result.err
    told = " ".join(result.out.split())
    assert "none, as the model makes NaN or infinity of some calibration samples at tensor 'b'; ranked by l2" in told


def test_a_target_beyond_reach_ends_with_4_and_writes_the_closest_on_request(invoke, model, tmp_path):
    out = tmp_path / "out.onnx"
    options = ["--target", "params=0.01", "--min-channels", "3", "--no-latency", "--reconstruct", "none"]
    result = invoke("prune", model, "-o", out, *options)
    assert result.code == 4 and not out.exists()
    assert "params=0.01 can't be met" in result.err and "(w1) at 3 of 16 units" in result.err
    result = invoke("prune", model, "-o", out, "--closest", *options)
    assert result.code == 4 and onnx.load(out).graph.initializer[0].dims[0] == 3
    assert "params=0.01 can't be met" in result.err and "target missed" in result.out


def test_targets_are_in_the_table_and_the_report(invoke, model, tmp_path):
    report = tmp_path / "report.json"
    options = ["--target", "macs=0.5", "--target", "size=0.9", "--no-latency", "--report-out", report]
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", *options)
    assert result.code == 0 and "macs=0.5:" in result.out and "size=0.9:" in result.out
    rows = json.loads(report.read_text())["report"]["targets"]
    assert [r["quantity"] for r in rows] == ["macs", "size"]
    assert all(r["met"] and r["after"] <= r["limit"] < r["before"] for r in rows)
    tensors = len(onnx.load(tmp_path / "out.onnx").graph.initializer)
    assert abs(rows[1]["after"] - (tmp_path / "out.onnx").stat().st_size) <= 8 * tensors
