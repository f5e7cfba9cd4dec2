"""Any legal removal from any graph computes what the source computes with zeros in its place."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from onnxprune.groups.build import build
from onnxprune.groups.group import Groups
from onnxprune.io.structure import sha256_model
from onnxprune.plan.plan import alive_of, make_plan, parse
from onnxprune.prepare.prepare import Prepared, prepare
from onnxprune.proof.check import alive_after
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import Verification, compare
from onnxprune.proof.session import run
from onnxprune.select.allocate import Choice, _hold_floors
from onnxprune.surgery.apply import apply_alive
from onnxprune.surgery.inflate import inflate
from onnxprune.trace.tracer import trace
from tests.properties.random_graphs import block_names, models, sandwiches

TOLERANCE = 1e-4


def analyze(model: onnx.ModelProto, *, width: bool = False) -> tuple[Prepared, Groups]:
    prepared = prepare(model)
    assert prepared.inferred.errors == []
    traced = trace(prepared.graph, prepared.shapes, prepared.inferred)
    traced.clones = prepared.clones
    assert traced.failures == []
    assert traced.unknown == {}
    return prepared, build(traced, width=width)


def choose(draw, groups: Groups, least: int = 0) -> list[Choice]:
    """Any units of any groups; every group keeps one, columns go by as many from each bucket, no tensor is left empty.

    Of groups that cut the same grids two ways one goes: both together are not always legal, see the documentation.
    """
    choices: list[Choice] = []
    for group in groups.groups:
        taken = any(c.group.id in group.alternatives and c.count for c in choices)
        count = 0 if taken else draw(st.integers(min(least, group.units - 1), group.units - 1))
        rng = np.random.default_rng(draw(st.integers(0, 1000)) if count else 0)
        scores = [rng.permutation(len(b)).astype(np.float64) for b in group.buckets]
        choices.append(Choice(group, [sorted(np.argsort(s)[:count].tolist()) for s in scores], scores))
    _hold_floors(groups, choices)
    return [c for c in choices if c.count]


def signature(model: onnx.ModelProto) -> tuple[list[bytes], list[bytes]]:
    return [i.SerializeToString() for i in model.graph.input], [o.SerializeToString() for o in model.graph.output]


def check(model: onnx.ModelProto, prepared: Prepared, groups: Groups, choices: list[Choice]) -> Verification:
    """Surgery on the chosen units, and everything that has to hold of its result."""
    alive = alive_after(groups, choices)
    assert groups.violations(alive) == []
    pruned = apply_alive(prepared.model, groups, alive)
    onnx.checker.check_model(pruned, full_check=True)
    assert signature(pruned) == signature(model)
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 0)
    whole = inflate(prepared.model, pruned, groups, alive)
    result = compare(whole, pruned, prepared.graph, feeds, TOLERANCE)
    assert result.passed, result.message
    data = make_plan(sha256_model(model), groups, choices, alive).to_json()
    assert np.array_equal(alive_of(parse(json.loads(data)), groups), alive)
    return result


def explain(model: onnx.ModelProto, choices: list[Choice]) -> None:
    note(onnx.printer.to_text(model))
    for c in choices:
        note(f"{c.group.id} {c.group.kind} {c.group.members} loses {c.removed} of {c.group.units}")


@given(st.data())
def test_a_random_legal_plan_is_exact(data):
    model = data.draw(models())
    before = model.SerializeToString(deterministic=True)
    prepared, groups = analyze(model)
    choices = choose(data.draw, groups)
    event("something goes" if choices else "nothing goes")
    explain(model, choices)
    check(model, prepared, groups, choices)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", block_names())
@settings(max_examples=max(settings.default.max_examples // 6, 1))
@given(st.data())
def test_each_block(name, data):
    """Each kind of block between two layers, with something gone from every group: none is left to chance."""
    model = data.draw(sandwiches(name))
    prepared, groups = analyze(model)
    choices = choose(data.draw, groups, least=1)
    explain(model, choices)
    check(model, prepared, groups, choices)


@given(st.data())
def test_width_keeps_models_valid(data):
    """Inexact groups change values, never shapes: the result runs, and its exact part is exact."""
    model = data.draw(models(max_blocks=6))
    prepared, groups = analyze(model, width=True)
    choices = choose(data.draw, groups)
    explain(model, choices)
    check(model, prepared, groups, [c for c in choices if c.group.exact])
    if all(c.group.exact for c in choices):
        return
    alive = alive_after(groups, choices)
    assert groups.violations(alive) == []
    pruned = apply_alive(prepared.model, groups, alive)
    onnx.checker.check_model(pruned, full_check=True)
    assert signature(pruned) == signature(model)
    run(
        pruned, random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 0), [o.name for o in pruned.graph.output]
    )
