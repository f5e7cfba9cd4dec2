"""A plan can be stored, edited and replayed; what is not legal is refused with tensor, axis and index."""

import json
from copy import deepcopy

import pytest
from jsonschema import Draft202012Validator

from onnxprune.api import analyze, apply, prune
from onnxprune.errors import PlanError
from onnxprune.plan.plan import Plan, load_plan, parse, schema


def changed(plan: Plan, **initializers: dict[str, object] | None) -> Plan:
    """A plan with other entries for some initializers; None takes one out."""
    data = deepcopy(plan.to_dict())
    for name, entry in initializers.items():
        if entry is None:
            data["initializers"].pop(name, None)
        else:
            data["initializers"].setdefault(name, {}).update(entry)
    return parse(data)


def refused(model, plan: Plan, *words: str) -> None:
    with pytest.raises(PlanError) as caught:
        apply(model, plan)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def plan(model) -> Plan:
    """Removes half of everything."""
    return prune(model, ratio=0.5).plan


def test_json_and_back(model, plan):
    text = plan.to_json()
    again = parse(json.loads(text))
    assert again == plan
    assert again.to_json() == text


def test_file_and_back(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def test_a_plan_follows_its_schema(plan):
    Draft202012Validator.check_schema(schema())
    assert list(Draft202012Validator(schema()).iter_errors(json.loads(plan.to_json()))) == []


def test_a_plan_lists_what_goes(plan):
    """Half of the channels in each of two groups of four, the same as input channels, half of the outputs."""
    removed = {name: entry["removed"] for name, entry in plan.initializers.items()}
    rows = removed["wg"]["1"]
    assert [len(r) for r in rows] == [2, 2]
    assert removed["w1"]["0"] == [*rows[0], *(4 + k for k in rows[1])]
    assert removed["b1"] == {"0": removed["w1"]["0"]}
    assert removed["w3"] == {"0": removed["wg"]["0"]}
    assert plan.initializers["wg"]["shape"] == [6, 4, 1, 1]


def test_numbers_stay_on_one_line(plan):
    """So that two plans can be compared line by line."""
    lines = plan.to_json().splitlines()
    numbers = json.dumps(plan.initializers["b1"]["removed"]["0"])
    assert any(numbers in line for line in lines)


def test_two_plans_differ_where_their_choices_do(model):
    def lines(ratio: float) -> list[str]:
        return prune(model, ratio=0.5, ratios={"w3": ratio}).plan.to_json().splitlines()

    before, after = lines(0.5), lines(0.7)
    assert len(before) == len(after)
    differing = [b for a, b in zip(before, after, strict=True) if a != b]
    assert 1 <= len(differing) <= 4


@pytest.mark.parametrize(
    "options", [{"ratio": 0.5}, {"ratio": 0.25, "criterion": "l1"}, {"ratio": 0.5, "ranking": "global"}]
)
def test_apply_gives_the_model_that_prune_gave(model, options, tmp_path):
    result = prune(model, **options)
    result.plan.save(tmp_path / "plan.json")
    again = apply(model, load_plan(tmp_path / "plan.json"))
    assert again.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_apply_leaves_its_source_alone(model, plan):
    before = model.SerializeToString(deterministic=True)
    apply(model, plan)
    assert model.SerializeToString(deterministic=True) == before


def test_a_plan_belongs_to_its_model(model, other, plan):
    refused(other, plan, "the plan is for the model with hash", plan.sha256[:12])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["format"], "onnxprune.plan/2", ["at format", "onnxprune.plan/1"]),
        (["format"], None, ["top level", "'format' is a required property"]),
        (["source", "sha256"], "12ab", ["at source/sha256", "'12ab'"]),
        (["initializers"], [], ["at initializers", "not of type 'object'"]),
        (["initializers", "w1"], {"shape": [8]}, ["at initializers/w1", "'removed'"]),
        (["initializers", "w1", "removed"], {"first": [1]}, ["at initializers/w1/removed", "first"]),
        (["initializers", "w1", "removed", "0"], [1, 1], ["at initializers/w1/removed/0", "[1, 1]"]),
        (["initializers", "w1", "removed", "0"], [-1], ["at initializers/w1/removed/0"]),
        (["initializers", "w1", "removed", "0"], [1.5], ["at initializers/w1/removed/0"]),
        (["initializers", "w1", "shape"], ["a"], ["at initializers/w1/shape/0", "'a'"]),
        (["surplus"], 1, ["top level", "surplus"]),
        (["groups", 0, "kind"], "rows", ["at groups/0/kind", "'rows'"]),
    ],
)
def test_a_malformed_plan_is_refused_by_place(plan, path, value, words):
    data = deepcopy(plan.to_dict())
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(PlanError) as caught:
        parse(data)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1"])
def test_a_file_that_is_not_json(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json' is not JSON"):
        load_plan(tmp_path / "plan.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(PlanError, match=r"can't read plan .*No such file"):
        load_plan(tmp_path / "plan.json")


def test_another_choice_of_the_same_units(model, plan):
    """An edit that stays legal is carried out as it is written."""
    edited = changed(
        plan, w3={"removed": {"0": [0, 5]}}, wg={"removed": {**plan.initializers["wg"]["removed"], "0": [0, 5]}}
    )
    shapes = {t.name: list(t.dims) for t in apply(model, edited).graph.initializer}
    assert shapes["wg"] == [4, 2, 1, 1] and shapes["w3"] == [4, 4]


def test_an_empty_plan_changes_nothing(model, plan):
    same = apply(model, Plan(plan.sha256, {}))
    assert [list(t.dims) for t in same.graph.initializer] == [list(t.dims) for t in model.graph.initializer]


def test_a_tensor_that_is_not_there(model, plan):
    refused(model, changed(plan, w9={"shape": [1], "removed": {"0": [0]}}), "'w9'")


def test_a_wrong_shape(model, plan):
    refused(model, changed(plan, w1={"shape": [8, 3, 5, 5]}), "'w1' has shape [8, 3, 3, 3]", "[8, 3, 5, 5]")


def test_an_axis_that_is_not_there(model, plan):
    refused(model, changed(plan, w1={"removed": {"7": [0]}}), "axis 7 of 'w1'")


def test_an_index_out_of_range(model, plan):
    refused(model, changed(plan, w1={"removed": {"0": [0, 8]}}), "axis 0 of 'w1' has 8 slices", "index 8")


def test_a_frozen_slice(model, plan):
    refused(model, changed(plan, w3={"removed": {"1": [0]}}), "axis 1 of 'w3'", "graph output 'y'")


def test_a_tied_slice_left_out(model, plan):
    removed = plan.initializers["w1"]["removed"]["0"]
    refused(model, changed(plan, b1={"removed": {"0": removed[1:]}}), f"also remove [{removed[0]}] of axis 0 of 'b1'")


def test_a_tied_tensor_left_out(model, plan):
    removed = plan.initializers["w1"]["removed"]["0"]
    refused(model, changed(plan, b1=None), f"also remove {removed} of axis 0 of 'b1'")


@pytest.mark.parametrize("rows", [[0, 1], [[0, 1]], [[0, 1], [0, 1], [0, 1]]])
def test_wrong_blocks(model, plan, rows):
    entry = {"removed": {**plan.initializers["wg"]["removed"], "1": rows}}
    refused(model, changed(plan, wg=entry), "axis 1 of 'wg'", "2 blocks")


def test_rows_that_lose_different_numbers(model, plan):
    edited = changed(
        plan,
        wg={"removed": {**plan.initializers["wg"]["removed"], "1": [[0, 1], [0]]}},
        w1={"removed": {"0": [0, 1, 4]}},
        b1={"removed": {"0": [0, 1, 4]}},
    )
    refused(model, edited, "breaks up a tensor", "different numbers of columns")


def test_nothing_left(model, plan):
    first, second = list(range(8)), list(range(6))
    edited = changed(
        plan,
        w1={"removed": {"0": first}},
        b1={"removed": {"0": first}},
        wg={"removed": {"0": second, "1": [[0, 1, 2, 3], [0, 1, 2, 3]]}},
        w3={"removed": {"0": second}},
    )
    refused(model, edited, "empty")


def test_a_plan_names_what_is_frozen(model, plan):
    frozen = {(row["weight"], row["axis"]): row["reason"] for row in plan.frozen}
    assert "graph output" in frozen["w3", 1] and "graph input" in frozen["w1", 1]
    assert {g["id"] for g in plan.groups} <= {g.id for g in analyze(model).groups}
