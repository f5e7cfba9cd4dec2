"""Targets: what stays is what was asked for, or the reason why not."""

import math

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.budget.targets import Target, parse_target, read_targets
from onnxprune.errors import BudgetError, UsageError
from tests.models_text import ints, make

RESNET = "models/resnet.onnx"
MOBILENET = "models/mobilenet.onnx"
DATA = "models/fashion_mnist.npz"


@pytest.fixture(scope="module")
def images():
    data = np.load(DATA)
    return [{"image": ((data["calibration"][:64, None] / 255 - 0.2860) / 0.3530).astype(np.float32)}]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
def test_macs(share, ranking):
    report = onnxprune.prune(RESNET, target={"macs": share}, ranking=ranking, check=False).report
    assert 0.9 * share < report.macs_after / report.macs_before <= share


def test_absolute_parameters():
    report = onnxprune.prune(RESNET, target={"params": 300e3}, check=False).report
    assert 270e3 < report.params_after <= 300e3


def test_all_targets_hold():
    report = onnxprune.prune(RESNET, target={"macs": 0.9, "params": 0.4}, check=False).report
    assert report.params_after <= 0.4 * report.params_before and report.macs_after <= 0.9 * report.macs_before


def test_the_knapsack_spends_what_it_may(images):
    """With samples it is what targets go by, and several hold at once."""
    asked = ["macs=0.6", "size=400kB", "memory=0.75"]
    report = onnxprune.prune(MOBILENET, target=asked, data=images, check=False).report
    assert [r.quantity for r in report.targets] == ["macs", "size", "memory"]
    assert all(r.met and r.after <= r.limit for r in report.targets)
    assert max(r.after / r.limit for r in report.targets) > 0.97
    assert report.bytes_after <= 400e3


def test_the_knapsack_loses_less_than_equal_ratios(images):
    """At equal MACs the error of the output is lower where groups are weighed by what they do to it."""
    errors = {}
    for ranking in ("local", "knapsack"):
        result = onnxprune.prune(MOBILENET, target={"macs": 0.5}, ranking=ranking, data=images, check=False)
        errors[ranking] = result.report.fidelity[0].relative_error
    assert errors["knapsack"] < 0.75 * errors["local"]


def test_the_same_widths_every_time(images):
    rows = [
        onnxprune.prune(RESNET, target={"macs": 0.5}, data=images, check=False, reconstruct="bias", criterion="obs")
        for _ in "ab"
    ]
    assert rows[0].plan.to_json() == rows[1].plan.to_json()


def test_floors_and_rounding_hold(images):
    result = onnxprune.prune(
        MOBILENET, target={"macs": 0.6}, data=images, check=False, round_to=8, min_channels={"*": 8, "g1": 40}
    )
    kept = {g.id: (g.units - g.removed, g.units) for g in result.report.groups}
    assert kept["g1"][0] >= 40
    assert all(n % 8 == 0 or n == of for n, of in kept.values())


def test_a_target_beyond_reach_says_what_is_left():
    with pytest.raises(BudgetError, match=r"macs=0\.001 can't be met: .*% of macs stay; most hangs on g\d+ .* at 4 of"):
        onnxprune.prune(RESNET, target={"macs": 0.001}, min_channels=4, check=False)


def test_the_closest_model_is_what_the_floors_leave():
    report = onnxprune.prune(RESNET, target={"macs": 0.001}, min_channels=4, check=False, closest=True).report
    assert "can't be met" in report.unmet and not report.targets[0].met
    assert all(g.units - g.removed == 4 for g in report.groups)


def test_a_drop_is_kept_to_by_evaluation(images):
    result = onnxprune.prune(
        RESNET, target=["drop=3%"], data=images, evaluation=DATA, check=False, reconstruct="bias", criterion="obs"
    )
    before, after = (onnxprune.evaluate(m, DATA).value for m in (RESNET, result.model))
    assert before - after <= 3
    trials = result.report.trials
    assert any(not t.met for t in trials) and any(t.met for t in trials)
    assert min(float(t.target.split("=")[1]) for t in trials if t.met) == pytest.approx(
        result.report.macs_after / result.report.macs_before, abs=0.02
    )


def test_a_drop_that_other_targets_do_not_allow(images):
    asked = {"macs": 0.1, "drop": "0.1%"}
    with pytest.raises(BudgetError, match="drop=0.1% can't be met: with macs=0.1 accuracy is"):
        onnxprune.prune(RESNET, target=asked, data=images, evaluation=DATA, check=False, reconstruct="none", criterion="obs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5, "target": {"macs": 0.5}}, "exclude"),
        ({"target": ["drop=1%"]}, "give data to evaluate on"),
        ({"closest": True}, "closest"),
        ({"ranking": "knapsack"}, "give a target"),
        ({"ranking": "knapsack", "target": {"macs": 0.5}}, "what each width loses"),
        ({"target": ["macs=0.5", "macs=0.4"]}, "one for macs already"),
    ],
)
def test_calls_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        onnxprune.prune(RESNET, check=False, **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs=0.5", Target("macs", 0.5, True)),
        ("params=5M", Target("params", 5e6, False)),
        ("macs=1.5G", Target("macs", 1.5e9, False)),
        ("params=300000", Target("params", 3e5, False)),
        ("size=10MB", Target("size", 1e7, False)),
        ("memory=2MiB", Target("memory", 2**21, False)),
        ("latency=0.55", Target("latency", 0.55, True)),
        ("latency=8ms", Target("latency", 8, False)),
        ("latency=0.5ms", Target("latency", 0.5, False)),
        ("drop=1%", Target("drop", 1, True)),
        ("drop=0.02", Target("drop", 0.02, False)),
    ],
)
def test_texts(text, expected):
    found = parse_target(text)
    assert (found.quantity, found.share) == (expected.quantity, expected.share)
    assert found.value == pytest.approx(expected.value)
    again = parse_target(str(found))
    assert (again.quantity, again.share) == (found.quantity, found.share)
    assert again.value == pytest.approx(found.value, rel=1e-3)


BAD = [
    "macs",
    "macs=",
    "macs=-1",
    "macs=0",
    "speed=2",
    "macs=0.5x",
    "params=5 M",
    "macs=50%",
    "size=10",
    "latency=2",
    "size=1M",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_texts(text):
    with pytest.raises(UsageError, match="target"):
        parse_target(text)


def test_percent_are_points_of_a_figure_in_percent():
    drop = parse_target("drop=2%")
    assert drop.allowed(93.0, percent=True) == 2
    assert drop.allowed(50.0, percent=False) == 1
    assert parse_target("drop=2").allowed(50.0, percent=False) == 2


def test_mappings_and_texts_mean_the_same():
    assert read_targets({"macs": 0.5, "drop": "1%"}) == read_targets(["macs=0.5", "drop=1%"])


MADE = """(float[N, 6] x) => (float[N, 4] y) {
  w = ConstantOfShape <value = float[1] {0.5}> (sizes)
  v = ConstantOfShape <value = float[1] {0.25}> (others)
  a = MatMul (x, w)
  b = Relu (a)
  y = MatMul (b, v)
}"""


def test_weights_that_nodes_make_are_named_as_the_reason_and_other_rankings_work():
    model = make(MADE, {"sizes": ints(6, 8), "others": ints(8, 4)})
    x = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    reason = "none of 2 linear nodes has a weight that can be read: its weight is computed by ConstantOfShape. Store"
    with pytest.raises(UsageError, match=reason):
        onnxprune.prune(model, target={"macs": 0.5}, data={"x": x}, criterion="obs", ranking="knapsack")
    report = onnxprune.prune(model, target={"macs": 0.5}, data={"x": x}, criterion="l2").report
    assert report.macs_after <= 0.5 * report.macs_before


def test_a_share_of_nothing_is_no_target():
    model = make("(float[N, 6] x) => (float[N, 6] y) { y = Mul (x, w) }", {"w": (6,)})
    with pytest.raises(UsageError, match=r"macs=0.5: the source has no macs"):
        onnxprune.prune(model, target={"macs": 0.5}, check=False)


def test_biases_that_were_fitted_are_parameters_too():
    result = onnxprune.prune("models/resnet.onnx", target={"params": 0.3}, data="models/fashion_mnist.npz", samples=16)
    stored = sum(math.prod(t.dims) for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    source = onnxprune.analyze("models/resnet.onnx").trace.weights
    assert {t.name for t in result.model.graph.initializer} - source.keys()
    assert result.report.params_after == result.report.targets[0].after == stored <= 0.3 * result.report.params_before


def test_biases_that_a_fit_adds_are_made_room_for():
    """What was chosen leaves less room than they take, but would be chosen again at a limit that is lower by what is over."""
    (row,) = onnxprune.prune(RESNET, target={"params": 0.4}, data=DATA, samples=64).report.targets
    assert row.met and row.after <= 0.4 * row.before
