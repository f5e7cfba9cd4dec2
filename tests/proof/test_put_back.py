"""A group whose surgery fails costs itself alone: the rest of the model is pruned, and the report names it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.api import analyze, apply, prune, verify
from onnxprune.errors import NothingToPruneError
from onnxprune.proof import check

apply_alive = check.apply_alive


def shapes(model) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def dead(groups, alive, name: str) -> bool:
    return not alive[groups.trace.weights[name].labels[0]].all()


@pytest.fixture
def broken(monkeypatch):
    """Surgery that goes wrong as soon as a slice of one weight's axis 0 goes."""

    def install(name: str, damage) -> None:
        def surgery(model, groups, alive):
            result = apply_alive(model, groups, alive)
            return damage(result) if dead(groups, alive, name) else result

        monkeypatch.setattr(check, "apply_alive", surgery)

    return install


def raises(model):
    raise KeyError("axis")


def shifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The wrong node: an activation is gone."""
    next(n for n in model.graph.node if n.output[0] == "d").op_type = "Identity"
    return model


def refused_by_checker(model: onnx.ModelProto) -> onnx.ModelProto:
    next(n for n in model.graph.node if n.output[0] == "d").op_type = "NoSuchOperator"
    return model


def refused_by_runtime(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, :2], "w1"))
    return model


@pytest.mark.parametrize("damage", [raises, shifted, refused_by_checker, refused_by_runtime])
@pytest.mark.parametrize("name", ["w1", "w2"])
def test_one_group_is_put_back(net, broken, damage, name):
    broken(name, damage)
    own = next(g.id for g in analyze(net).groups if (name, 0) in g.members)
    result = prune(net, ratio=0.5)
    after = shapes(result.model)
    assert after[name][0] == shapes(net)[name][0]
    assert after["w2" if name == "w1" else "w1"][0] < shapes(net)["w2" if name == "w1" else "w1"][0]
    assert [p.group for p in result.report.put_back] == [own]
    assert result.report.put_back[0].reason
    assert result.report.verification.passed
    onnx.checker.check_model(result.model, full_check=True)
    assert name not in {n for g in result.plan.groups for n, a in g["members"] if a == 0}
    assert own not in {g["id"] for g in result.plan.groups}


def test_the_plan_is_of_what_was_done(net, broken):
    broken("w2", shifted)
    result = prune(net, ratio=0.5)
    assert apply(net, result.plan).SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )
    assert verify(net, result.model, result.plan).passed


def test_all_groups_fail(net, monkeypatch):
    monkeypatch.setattr(check, "apply_alive", lambda model, groups, alive: shifted(apply_alive(model, groups, alive)))
    with pytest.raises(NothingToPruneError, match="no group passed its check"):
        prune(net, ratio=0.5)


def test_groups_that_fail_together(net, monkeypatch):
    """Each of two is fine alone: one of them stays."""

    def surgery(model, groups, alive):
        result = apply_alive(model, groups, alive)
        return shifted(result) if dead(groups, alive, "w1") and dead(groups, alive, "w2") else result

    monkeypatch.setattr(check, "apply_alive", surgery)
    result = prune(net, ratio=0.5)
    after = shapes(result.model)
    assert (after["w1"][0] < 8) != (after["w2"][0] < 10)
    assert len(result.report.put_back) == 1 + (len(result.plan.groups) == 1 and len(analyze(net).groups) == 3)


def test_without_a_check_nothing_is_put_back(net):
    result = prune(net, ratio=0.5, check=False)
    assert result.report.verification is None and result.report.unverified == "not asked for"
    assert result.report.put_back == []


def test_tolerance_follows_the_weights(make):
    def tolerance(dtype) -> float:
        model = make(
            f"""
            <ir_version: 8, opset_import: ["" : 17]>
            m ({dtype}[2, 3] x) => ({dtype}[2, 4] y) {{
              a = MatMul (x, w1)
              b = Relu (a)
              y = MatMul (b, w2)
            }}
            """
        )
        kind = {"float": np.float32, "double": np.float64, "float16": np.float16}[dtype]
        rng = np.random.default_rng(0)
        for name, shape in (("w1", (3, 8)), ("w2", (8, 4))):
            model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(kind), name))
        result = prune(model, ratio=0.5)
        assert result.report.verification.passed
        return result.report.verification.tolerance

    assert tolerance("float") == tolerance("double") == 1e-4
    assert tolerance("float16") == 5e-3
