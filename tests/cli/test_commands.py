"""`onnxprune apply`, `verify` and `inspect`."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture
def pruned(invoke, model, tmp_path):
    """(pruned model, plan)."""
    paths = tmp_path / "small.onnx", tmp_path / "plan.json"
    done = invoke("prune", model, "-o", paths[0], "--plan-out", paths[1], "--no-latency", "--reconstruct", "none")
    assert done.code == 0
    return paths


def test_apply_replays_a_plan(invoke, model, pruned, tmp_path):
    small, plan = pruned
    result = invoke("apply", model, plan, "-o", tmp_path / "again.onnx")
    assert (result.code, result.err) == (0, "")
    assert "again.onnx" in result.out
    assert (tmp_path / "again.onnx").read_bytes() == small.read_bytes()


def test_apply_refuses_another_model_and_a_broken_plan(invoke, nothing, model, pruned, tmp_path):
    _, plan = pruned
    out = tmp_path / "again.onnx"
    result = invoke("apply", nothing, plan, "-o", out)
    assert (result.code, result.out) == (2, "")
    assert "hash" in result.err
    edited = json.loads(plan.read_text())
    edited["initializers"]["w1"]["removed"]["0"] = [99]
    plan.write_text(json.dumps(edited))
    result = invoke("apply", model, plan, "-o", out)
    assert result.code == 2
    assert "w1" in result.err and "99" in result.err
    plan.write_text("{")
    assert invoke("apply", model, plan, "-o", out).code == 2
    assert invoke("apply", model, tmp_path / "no.json", "-o", out).code == 2
    assert not out.exists()


def test_apply_does_not_overwrite_its_plan(invoke, model, pruned):
    _, plan = pruned
    assert "used twice" in invoke("apply", model, plan, "-o", plan).err


def test_verify_accepts_the_pruned_model(invoke, model, pruned):
    small, plan = pruned
    result = invoke("verify", model, small, "--plan", plan)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("verified")
    assert "x 2x1x8x8" in result.out
    document = json.loads(invoke("verify", model, small, "--plan", plan, "--json", "--shape", "x=3,1,8,8").out)
    assert document["passed"] is True
    assert document["shapes"] == {"x": [3, 1, 8, 8]}


def test_verify_refuses_a_model_with_another_result(invoke, model, pruned):
    small, plan = pruned
    changed = onnx.load(small)
    changed.graph.node[1].op_type = "LeakyRelu"
    onnx.save(changed, small)
    result = invoke("verify", model, small, "--plan", plan)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    result = invoke("verify", model, small, "--plan", plan, "--json")
    assert result.code == 3
    assert json.loads(result.out)["passed"] is False


def test_verify_takes_a_tolerance(invoke, model, pruned):
    small, plan = pruned
    changed = onnx.load(small)
    changed.graph.node[1].op_type = "LeakyRelu"
    onnx.save(changed, small)
    assert invoke("verify", model, small, "--plan", plan, "--tolerance", "1000").code == 0
    assert invoke("verify", model, small, "--plan", plan, "--tolerance", "-1").code == 2
    assert invoke("verify", model, small, "--plan", plan, "--tolerance", "nan").code == 2


def test_inspect_lists_groups_and_reasons(invoke, model):
    result = invoke("inspect", model)
    assert (result.code, result.err) == (0, "")
    row = next(line for line in result.out.splitlines() if line.lstrip().startswith("g0"))
    assert row.split()[:4] == ["g0", "channel", "16", "45"]
    assert "w1:0" in row
    assert "it reaches graph output 'y'" in result.out
    full = invoke("inspect", model, "-v").out
    assert "slides over it" in full


def test_inspect_of_a_model_without_groups(invoke, nothing):
    result = invoke("inspect", nothing)
    assert result.code == 0
    assert "nothing can be removed" in result.out


def test_inspect_json(invoke, model):
    document = json.loads(invoke("inspect", model, "--json").out)
    (group,) = document["groups"]
    assert group["kind"] == "channel"
    assert group["units"] == 16
    assert group["unit_params"] == 45
    assert sorted(map(tuple, group["members"])) == [("w1", 0), ("w2", 1)]
    assert {
        "weight": "w2",
        "axis": 0,
        "slices": 4,
        "of": 4,
        "reason": "it reaches graph output 'y'",
        "inexact": False,
    } in document["frozen"]
    assert document["unknown_ops"] == {}


def test_inspect_tells_of_unknown_operators(invoke, model):
    changed = onnx.load(model)
    changed.graph.node[1].op_type = "Foo"
    changed.graph.node[1].domain = "acme"
    changed.opset_import.add(domain="acme", version=1)
    onnx.save(changed, model)
    out = invoke("inspect", model).out
    assert "unknown op" in out
    assert "acme::Foo (1 node)" in out


def test_inspect_draws(invoke, model, tmp_path):
    result = invoke("inspect", model, "--dot", tmp_path / "out.dot", "-q")
    assert (result.code, result.out) == (0, "")
    assert (tmp_path / "out.dot").read_text().startswith("digraph")


def test_names_that_look_like_markup_are_shown_as_they_are(invoke, model):
    text = model.read_bytes()
    changed = onnx.ModelProto.FromString(text)
    name = "[red]w[/red]"
    values = numpy_helper.to_array(changed.graph.initializer[0]).astype(np.float32)
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, name))
    changed.graph.node[0].input[1] = name
    onnx.save(changed, model)
    assert name in invoke("inspect", model).out.replace("\n", "")
