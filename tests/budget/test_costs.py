"""Costs by widths are those of the pruned model."""

import numpy as np
import pytest

from onnxprune.budget.kinds import Setting
from onnxprune.io.load import load_model
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.check import alive_after
from onnxprune.select.allocate import Options, ranked, take
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.surgery.apply import apply_alive

CASES = [("resnet", "heads"), ("mobilenet", "heads"), ("vit_legacy", "heads"), ("vit_dynamo", "both"), ("unet", "heads")]


class Case:
    def __init__(self, name, attention="heads"):
        self.source = load_model(f"models/{name}.onnx")
        self.prepared, self.groups = analysed(self.source, width=False, shapes=None)
        scores = score(ScoreContext(self.groups), "l2")
        self.choices = ranked(self.groups, Options(attention=attention), scores)
        self.setting = Setting(self.source, self.prepared, self.groups, self.choices)

    def cut(self, widths):
        """The pruned model, and the labels that are left."""
        counts = [c.group.units - widths.get(c.group.id, c.group.units) for c in self.choices]
        alive = alive_after(self.groups, take(self.groups, self.choices, counts))
        return apply_alive(self.prepared.model, self.groups, alive), alive

    def random(self, seed):
        rng = np.random.default_rng(seed)
        return {c.group.id: int(rng.integers(1, c.group.units + 1)) for c in self.choices}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def case(request):
    return Case(*request.param)


@pytest.mark.parametrize("quantity", ["macs", "params", "memory"])
def test_totals_are_what_the_pruned_model_has(case, quantity):
    cost = case.setting.cost(quantity)
    for seed in range(3):
        widths = case.random(seed)
        assert cost.total(widths) == cost.measure(*case.cut(widths))


def test_bytes_of_the_file_are_known_to_a_few_per_cent(case):
    """What is not a weight changes a little: numbers in the graph get shorter, or constants of their own."""
    cost = case.setting.cost("size")
    assert cost.total({}) == cost.measure(case.source, np.zeros(0, np.bool_))
    widths = case.random(0)
    assert cost.total(widths) == pytest.approx(cost.measure(*case.cut(widths)), rel=0.05)


@pytest.mark.parametrize("quantity", ["macs", "params", "size", "memory"])
def test_tables_are_totals_with_one_group_changed(case, quantity):
    cost, widths = case.setting.cost(quantity), case.random(1)
    levels = {c.group.id: np.array([1, c.group.units]) for c in case.choices}
    for group, costs in cost.table(widths, levels).items():
        for width, found in zip(levels[group].tolist(), costs, strict=True):
            assert found == pytest.approx(cost.total({**widths, group: width}), rel=1e-12)


def test_memory_is_that_of_tensors_alive_together():
    """The first convolution of this chain holds its input and its output, (2, 1, 28, 28) and (2, 128, ...) floats at most."""
    case = Case("resnet")
    cost = case.setting.cost("memory")
    profile = cost.profile({})
    assert profile.max() == cost.total({}) and profile.min() > 0
    limit = 0.6 * cost.total({})
    widths = case.random(2)
    steps = cost.steps(limit)
    assert steps and all(step.total({}) > limit for step in steps)
    inside = all(step.total(widths) <= limit for step in steps)
    assert inside == (cost.total(widths) <= limit)
