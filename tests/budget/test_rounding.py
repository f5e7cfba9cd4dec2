"""Widths that suit kernels, where nobody said which."""

import numpy as np
import pytest

import onnxprune
from onnxprune.budget.levels import levels_of
from onnxprune.select.allocate import Options, ranked, rounded
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score

MOBILENET = "models/mobilenet.onnx"


@pytest.fixture(scope="module")
def images():
    data = np.load("models/fashion_mnist.npz")
    return [{"image": ((data["calibration"][:64, None] / 255 - 0.2860) / 0.3530).astype(np.float32)}]


def kept(report):
    """Channels of the groups that were cut, and of the source."""
    return [(g.units - g.removed, g.units) for g in report.groups if g.removed]


def test_a_target_keeps_widths_that_fill_vectors(images):
    asked = {"target": {"macs": 0.5}, "data": images, "check": False, "reconstruct": "none", "criterion": "obs"}
    even = onnxprune.prune(MOBILENET, **asked).report
    odd = onnxprune.prune(MOBILENET, **asked, round_to=1).report
    assert all(stays % (8 if of >= 64 else 4 if of >= 32 else 2) == 0 for stays, of in kept(even) if of >= 16)
    assert any(stays % 4 for stays, of in kept(odd) if of >= 64)
    for report in (even, odd):
        assert 0.95 * 0.5 < report.macs_after / report.macs_before <= 0.5


def test_no_target_is_out_of_reach_for_it(images):
    """A ratio is what it says, and the fewest channels that may stay are a choice."""
    report = onnxprune.prune(MOBILENET, ratio=0.3, check=False).report
    assert any(stays % 2 for stays, _ in kept(report))
    groups = onnxprune.analyze(MOBILENET)
    choices = ranked(groups, Options(), score(ScoreContext(groups), "l2"))
    for choice, levels in zip(choices, levels_of(choices, Options(round_to=None)).values(), strict=True):
        units = choice.group.units
        assert levels[0] == 1 and levels[-1] == units
        stay = [units - rounded(choice.group, gone, Options(round_to=None)) for gone in range(units)]
        assert stay == sorted(stay, reverse=True) and stay[-1] == 1
