"""Targets: what stays is what was asked for, or the reason why not."""

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import BudgetError, UsageError
from onnxprune.select.target import parse_target

RESNET = "models/resnet.onnx"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_macs(share, ranking):
    report = onnxprune.prune(RESNET, target={"macs": share}, ranking=ranking, check=False).report
    assert 0.9 * share < report.macs_after / report.macs_before <= share


def test_absolute_parameters():
    report = onnxprune.prune(RESNET, target={"params": 300e3}, check=False).report
    assert 270e3 < report.params_after <= 300e3


def test_all_targets_hold():
    report = onnxprune.prune(RESNET, target={"macs": 0.9, "params": 0.4}, check=False).report
    assert report.params_after <= 0.4 * report.params_before and report.macs_after <= 0.9 * report.macs_before


def test_a_target_beyond_reach_says_what_is_left():
    with pytest.raises(BudgetError, match=r"macs=0\.001 can't be met: .*% of macs stay"):
        onnxprune.prune(RESNET, target={"macs": 0.001}, min_channels=4, check=False)


def test_a_ratio_besides_is_refused():
    with pytest.raises(UsageError, match="exclude"):
        onnxprune.prune(RESNET, ratio=0.5, target={"macs": 0.5})


def test_global_ranking_by_effect_beats_equal_ratios():
    """At equal MACs the error of the output is lower where groups are weighed by what they do to it."""
    data = np.load("models/fashion_mnist.npz")
    images = {"image": ((data["calibration"][:64, None] / 255 - 0.2860) / 0.3530).astype(np.float32)}
    errors = {}
    for ranking in ("local", "global"):
        result = onnxprune.prune("models/mobilenet.onnx", target={"macs": 0.5}, ranking=ranking, data=[images], check=False)
        errors[ranking] = result.report.fidelity[0].relative_error
    assert errors["global"] < 0.8 * errors["local"]


@pytest.mark.parametrize(
    ("text", "expected"), [("macs=0.5", ("macs", 0.5)), ("params=5M", ("params", 5e6)), ("macs=1.5G", ("macs", 1.5e9))]
)
def test_texts(text, expected):
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["macs", "macs=", "macs=-1", "macs=0", "speed=2", "macs=0.5x", "params=5 M", "macs=50%"])
def test_bad_texts(text):
    with pytest.raises(UsageError, match="target"):
        parse_target(text)
