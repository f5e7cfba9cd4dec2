"""`prune --low-rank` and `sensitivity --sparsity` as users call them."""

import json

import jsonschema
import pytest

from onnxprune.report.record import schema as prune_schema
from onnxprune.search.sensitivity import schema

DATA = ["--data", "models/fashion_mnist.npz", "--samples", "16"]
VIT = "models/vit_legacy.onnx"


def test_low_rank_from_file_to_file(invoke, tmp_path):
    files = ["--plan-out", tmp_path / "plan.json", "--report-out", tmp_path / "report.json"]
    out = tmp_path / "small.onnx"
    done = invoke("prune", VIT, "-o", out, "--target", "params=0.6", "--low-rank", "--no-latency", *DATA, *files)
    assert done.code == 0, done.err
    assert "wide nodes became two" in done.out and "can't be replayed" in " ".join(done.out.split())
    document = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(document, prune_schema())
    assert document["report"]["low_rank"]["factored"]
    again = invoke("apply", VIT, tmp_path / "plan.json", "-o", tmp_path / "again.onnx")
    assert again.code == 2 and "can't be replayed" in again.err and len(again.err.strip().splitlines()) == 1
    checked = invoke("verify", VIT, out, "--plan", tmp_path / "plan.json")
    assert checked.code == 2 and not (tmp_path / "again.onnx").exists()
    page = invoke("report", tmp_path / "report.json", "-o", tmp_path / "report.md")
    assert page.code == 0, page.err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--target", "macs=0.5", "--ranking", "global"],
        ["--target", "macs=0.5", "--merge"],
        ["--target", "macs=0.5", "--reconstruct", "none"],
        ["--lossless"],
    ],
)
def test_low_rank_without_a_knapsack(invoke, tmp_path, options):
    done = invoke("prune", VIT, "-o", tmp_path / "small.onnx", "--low-rank", *options)
    assert done.code == 2 and "--low-rank" in done.err and not (tmp_path / "small.onnx").exists()


def test_sparsity_is_told_and_nothing_written(invoke, tmp_path):
    call = ["sensitivity", "models/resnet.onnx", *DATA, "--ratio", "0.5", "--sparsity", "2:4", "--sparsity", "75%"]
    done = invoke(*call, "-o", tmp_path / "found.json")
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert "told, not done" in told and "would not run faster" in told and "2:4" in told and "75%" in told
    document = json.loads((tmp_path / "found.json").read_text())
    jsonschema.validate(document, schema())
    found = document["sparsity"]
    assert found["patterns"] == ["2:4", "75%"] and found["nodes"][0]["weight"]
    assert all(0 < a < b for a, b in zip(found["reconstructed"], found["magnitude"], strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("text", ["4:2", "half", "100%"])
def test_texts_that_are_no_pattern(invoke, text):
    done = invoke("sensitivity", "models/resnet.onnx", *DATA, "--sparsity", text)
    assert done.code == 2 and repr(text) in done.err and not done.out
