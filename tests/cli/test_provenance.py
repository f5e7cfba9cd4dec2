"""Every result file tells program, date, command and machine; the command makes the same figures again."""

import json
import shlex
import sys
from datetime import datetime, timedelta, timezone

import jsonschema
import pytest

import onnxprune
from onnxprune.bench.result import schema as bench_schema
from onnxprune.comparison.result import schema as compare_schema
from onnxprune.document.read import read_results
from onnxprune.profiling.profile import schema as profile_schema
from onnxprune.report.record import schema as prune_schema
from onnxprune.search.sensitivity import schema as sensitivity_schema

TOLD = {"onnxprune", "created", "command", "environment"}
COMMANDS = {
    "profile": (["profile", "MODEL", "--shape", "x=2,1,8,8", "--json"], profile_schema),
    "compare": (["compare", "MODEL", "MODEL", "--rtol", "1e-4", "--json"], compare_schema),
    "prune": (["prune", "MODEL", "-o", "OUT", "--no-latency", "--json"], prune_schema),
    "simplify": (["simplify", "MODEL", "-o", "OUT", "--json"], None),
    "sensitivity": (["sensitivity", "MODEL", "--data", "synthetic", "--samples", "8", "--json"], sensitivity_schema),
}


def figures(data: object) -> object:
    """What must not change from one run to the next."""
    if isinstance(data, dict):
        passing = ("created", "environment", "seconds", "check_seconds")
        return {k: figures(v) for k, v in data.items() if k not in passing}
    return [figures(v) for v in data] if isinstance(data, list) else data


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_a_file_makes_it_again(name, invoke, model, tmp_path, monkeypatch):
    call, schema = COMMANDS[name]
    places = {"MODEL": model.rename(tmp_path / "a model's.onnx"), "OUT": tmp_path / "out.onnx"}
    arguments = [str(places.get(a, a)) for a in call]
    monkeypatch.setattr(sys, "argv", ["anything", *arguments])
    first = json.loads(invoke(*arguments).out)
    assert first.keys() >= TOLD
    assert first["onnxprune"] == onnxprune.__version__
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(first["created"])) < timedelta(minutes=2)
    assert first["environment"].keys() == bench_schema()["$defs"]["environment"]["properties"].keys()
    program, *again = shlex.split(first["command"])
    assert program == "onnxprune"
    second = json.loads(invoke(*again).out)
    assert figures(second) == figures(first)
    if schema is not None:
        jsonschema.validate(first, schema())


@pytest.mark.parametrize("name", ["profile", "compare"])
def test_a_report_takes_files_with_and_without_it(name, invoke, model, tmp_path, monkeypatch):
    arguments = [str(model) if a == "MODEL" else a for a in COMMANDS[name][0]]
    monkeypatch.setattr(sys, "argv", ["onnxprune", *arguments])
    document = json.loads(invoke(*arguments).out)
    path = tmp_path / "result.json"

    def pages(data: dict) -> str:
        path.write_text(json.dumps(data), "utf-8")
        onnxprune.write_report([path], tmp_path / "page.md")
        return (tmp_path / "page.md").read_text("utf-8")

    page = pages(document)
    assert f"onnxprune {name}" in page.replace("\\", "") and document["created"][:10] in page.replace("\\", "")
    old = pages({k: v for k, v in document.items() if k not in TOLD})
    assert "not told" in old and document["created"][:10] not in old.replace("\\", "")
    for key, wrong in (("command", 3), ("environment", "a laptop"), ("environment", {"memory": "much"})):
        path.write_text(json.dumps({**document, key: wrong}), "utf-8")
        with pytest.raises(onnxprune.ModelError, match=rf"is damaged: \$.{key}"):
            read_results([path])
