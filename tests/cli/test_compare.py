"""`onnxprune compare` and `onnxprune profile`: exit codes, JSON, tables that fit."""

import csv
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.profiling.count import profile
from tests.cli.conftest import ROOT


@pytest.fixture
def wrong(tmp_path, model):
    """A copy of the model with one wrong weight."""
    copy = onnx.load(model)
    tensor = next(t for t in copy.graph.initializer if t.name == "w2")
    array = np.array(numpy_helper.to_array(tensor))
    array[1, 2] *= 3
    tensor.CopyFrom(numpy_helper.from_array(array, "w2"))
    path = tmp_path / "wrong.onnx"
    onnx.save(copy, path)
    return path


def test_a_model_and_itself_pass(invoke, model):
    result = invoke("compare", model, model, "--rtol", 0, "--atol", 0, "--min-agreement", 1)
    assert (result.code, result.err) == (0, "")
    assert "every threshold holds" in result.out


def test_without_thresholds_a_difference_is_told_and_passes(invoke, model, wrong):
    result = invoke("compare", model, wrong)
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "part at Conv 'c': c differs by" in text
    assert "constant 'w2' [4, 16, 3, 3]: 9 of 576 elements differ" in text
    assert "the outputs of the second agree" in text


def test_a_threshold_that_is_exceeded_has_exit_code_3(invoke, model, wrong):
    result = invoke("compare", model, wrong, "--rtol", "1e-4", "--json", "--no-search")
    assert result.code == 3
    document = json.loads(result.out)
    assert not document["passed"]
    assert document["exceeded"] and document["exceeded"][0] in result.err
    assert document["trail"] is None


def test_the_worst_samples_are_written(invoke, model, wrong, tmp_path):
    path = tmp_path / "worst.npz"
    assert invoke("compare", model, wrong, "--save-worst", path, "--worst", 2).code == 0
    assert np.load(path)["x"].shape == (2, 1, 8, 8)
    again = invoke("compare", model, wrong, "--data", path, "--json")
    assert json.loads(again.out)["outputs"][0]["samples"] == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--rtol", "much"], 2, "--rtol much: needs a number"),
        (["--rtol", "1", "--rtol", "2"], 2, "one for all outputs already"),
        (["--atol", "z=1"], 2, "there is no such output"),
        (["--max-drop", "1"], 2, "need data to evaluate on"),
        (["--min-agreement", "50"], 2, "from 0 to 1"),
        (["--data", "nowhere.npz"], 1, "nowhere.npz"),
        (["--plan", "nowhere.json"], 2, "can't read plan"),
        (["--provider", "quantum"], 2, "not part of this ONNX Runtime"),
        (["--save-worst", "no/such/folder.npz"], 2, "does not exist"),
    ],
)
def test_wrong_calls_are_one_line(invoke, model, wrong, options, code, message):
    result = invoke("compare", model, wrong, *options)
    assert (result.code, result.out) == (code, "")
    assert message in result.err and result.err.count("\n") == 1


def test_a_broken_file_is_named(invoke, model, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07 nothing")
    result = invoke("compare", model, broken)
    assert result.code == 1 and str(broken) in result.err


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit(invoke, wrong, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for arguments in (["compare", wrong, wrong, "-v"], ["profile", ROOT / "models" / "vit_legacy.onnx", "--top", "0"]):
        out = invoke(*arguments).out
        assert out and max(map(len, out.splitlines())) <= width


def test_profile_table_json_and_csv_agree(invoke, tmp_path):
    source = ROOT / "models" / "mobilenet.onnx"
    found = profile(str(source))
    document = json.loads(invoke("profile", source, "--json").out)
    assert document["totals"]["macs"] == found.macs
    path = tmp_path / "costs.csv"
    result = invoke("profile", source, "--by", "op", "--sort", "params", "--csv", path)
    assert result.code == 0
    rows = list(csv.DictReader(path.open()))
    assert sum(int(r["macs"]) for r in rows) == found.macs
    assert [int(r["params"]) for r in rows] == sorted((o.params for o in found.by_op()), reverse=True)
    assert result.out.split().index("Conv") < result.out.split().index("Gemm")


def test_profile_counts_at_the_shape_that_is_given(invoke):
    source = ROOT / "models" / "mobilenet.onnx"
    one, four = (json.loads(invoke("profile", source, "--json", "--shape", f"image={n},1,28,28").out) for n in (1, 4))
    assert four["totals"]["macs"] == 4 * one["totals"]["macs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--by", "layer"], "--by layer"), (["--sort", "time"], "--sort time"), (["--shape", "x=0"], "--shape x=0")],
)
def test_profile_refuses_what_it_does_not_know(invoke, model, options, message):
    result = invoke("profile", model, *options)
    assert result.code == 2 and message in result.err
