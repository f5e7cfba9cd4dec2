"""Rankings: who competes with whom."""

import pytest

import onnxprune
from onnxprune.errors import UsageError
from onnxprune.select.allocate import Options, allocate, ranked
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score
from onnxprune.select.rankings import _isomorphic

RATIO = 0.5


@pytest.fixture(scope="module", params=["resnet", "mobilenet"])
def groups(request):
    return onnxprune.analyze(f"models/{request.param}.onnx")


def alike(groups):
    """Ids of groups of the same structure, from the choices that the ranking sees."""
    choices = ranked(groups, Options(), score(ScoreContext(groups), "l2"))
    return [[choices[k].group.id for k in part] for part in _isomorphic(groups, choices, range(len(choices)))]


def test_isomorphic_groups_lose_the_ratio_together(groups):
    """Each kind of structure loses the same share of its parameters, to a unit, though its groups lose different ones."""
    gone = {c.group.id: (c.count, c.group) for c in allocate(groups, Options(RATIO, ranking="isomorphic"))}
    parts = alike(groups)
    assert any(len(part) > 1 for part in parts) and len(parts) > 1
    for part in parts:
        of = sum(gone[g][1].units * gone[g][1].unit_params for g in part)
        lost = sum(gone[g][0] * gone[g][1].unit_params for g in part)
        widest = max(gone[g][1].unit_params for g in part)
        assert abs(lost - RATIO * of) <= widest
    shares = {round(n / group.units, 3) for n, group in gone.values()}
    assert len(shares) > len(parts)


def test_a_knapsack_has_no_ratio(groups):
    with pytest.raises(UsageError, match="give a target"):
        allocate(groups, Options(RATIO, ranking="knapsack"))
