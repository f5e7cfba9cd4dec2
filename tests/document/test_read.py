"""Kinds of files are told by content; what is wrong with one is told in one line."""

import json
import shutil

import pytest

import onnxprune
from onnxprune.bench.result import load_benchmark
from onnxprune.document.read import read_results
from onnxprune.report.record import schema
from tests.document.conftest import front


def test_kinds_are_told_by_content(folder, bench_file, tmp_path):
    family = tmp_path / "looks_like_bench.json"
    family.write_text(json.dumps(front()), "utf-8")
    found = read_results([bench_file, folder / "prune.json", family, bench_file])
    assert [f.kind for f in found.files] == ["onnxprune.bench", "onnxprune.prune", "onnxprune.front"]
    ((file, benchmark),) = found.benchmarks
    assert file is found.files[0] and benchmark.to_dict() == load_benchmark(bench_file).to_dict()


def test_a_pruning_is_written_by_its_schema(pruning):
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(pruning)
    assert pruning["format"] == schema()["properties"]["format"]["const"]


def test_the_family_of_these_tests_is_one():
    from jsonschema import Draft202012Validator

    from onnxprune.search.front import schema as published

    Draft202012Validator(published("front")).validate({**front(), "candidates": 0, "seed": 0})


def test_files_of_earlier_programs(pruning, tmp_path):
    """Without format, hashes, machine, layers and the title of the metric."""
    old = {k: v for k, v in pruning.items() if k in ("input", "output", "report", "latency", "evaluation")}
    old["report"] = {k: v for k, v in old["report"].items() if k not in ("layers", "losses", "fidelity")}
    old["evaluation"].pop("title")
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old), "utf-8")
    document = onnxprune.write_report([path], tmp_path / "old.html")
    assert document.facts[0].title == "top-1 accuracy"
    assert "does not tell the command" in (tmp_path / "old.html").read_text("utf-8")


BROKEN = {
    "empty": ("", "is no JSON"),
    "cut": ('{"format": "onnxprune.bench"', "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "NaN": ('{"format": NaN}', "is no JSON"),
    "list": ("[1]", "is no result file"),
    "other": ('{"format": 3}', "is no result file"),
    "plan": ('{"format": "onnxprune.plan/1"}', "there is no report"),
    "later": ('{"format": "onnxprune.prune/2"}', "and earlier"),
    "no bench": ('{"format": "onnxprune.bench", "version": 1}', "is a required property"),
    "no pruning": ('{"input": "a", "output": "b", "report": {}}', "is damaged"),
    "no profile": ('{"format": "onnxprune.profile/1"}', "is damaged"),
    "no comparison": ('{"format": "onnxprune.compare/1", "first": 1}', "is damaged"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named_in_one_line(tmp_path, text, said):
    path = tmp_path / "broken.json"
    path.write_text(text, "utf-8")
    with pytest.raises(onnxprune.ModelError, match=said) as error:
        read_results([path])
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_damage_anywhere_is_found(pruning, tmp_path):
    pruning["report"]["groups"][0]["removed"] = "three"
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(pruning), "utf-8")
    with pytest.raises(onnxprune.ModelError, match=r"groups\[0\].removed"):
        read_results([path])


def test_a_binary_file(tmp_path, folder):
    shutil.copy(folder / "dense.onnx", tmp_path / "dense.json")
    with pytest.raises(onnxprune.ModelError, match="is no JSON"):
        read_results([tmp_path / "dense.json"])
