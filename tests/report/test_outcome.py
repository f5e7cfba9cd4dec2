"""What scores, likeness and losses look like."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from onnxprune.bench.timing import Times
from onnxprune.metrics.score import Score
from onnxprune.report.evaluation import Evaluation
from onnxprune.report.fidelity import Fidelity, Worst
from onnxprune.report.losses import GroupLoss
from onnxprune.report.outcome import (
    evaluation_notes,
    fidelity_table,
    losses_table,
    score_rows,
    speed_notes,
    worst_table,
)


def render(renderable, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def accuracy(right: int, of: int = 200) -> Score:
    totals, classes = (np.arange(of) < right).astype(float), np.arange(of) % 3
    return Score(
        "accuracy", right / of * 100, of, classes, "top-1 accuracy", "percent", True, totals, np.ones(of), ("y", "labels")
    )


def mean(scale: float, of: int = 200, *, better: bool = False) -> Score:
    totals = scale * np.random.default_rng(0).uniform(0.5, 1.5, of)
    return Score("m", totals.mean(), of, np.zeros(0, int), "squares", "plain", better, totals, np.ones(of))


def text(evaluation: Evaluation) -> str:
    return "\n".join(f"{n.topic}: {n.text}" for n in evaluation_notes(evaluation))


def test_shares_change_in_points():
    evaluation = Evaluation("200 samples of d.npz", accuracy(190), accuracy(180))
    rows = score_rows(evaluation)
    assert rows[0] == ("top-1 accuracy", "95.00 %", "90.00 %", "-5.00 points")
    assert rows[1][0].strip() == "95 % interval" and rows[1][3].startswith("-") and " to -" in rows[1][3]
    found = text(evaluation)
    assert "evaluated: 200 samples of d.npz: top-1 accuracy of output 'y' against 'labels', higher is better" in found
    assert "change: worse beyond noise: its interval does not contain 0" in found and "McNemar p = 0.002" in found
    assert "agreement: same top-1 class on 100.0 % (95 % interval 98." in found
    assert "not held out" not in found


@pytest.mark.parametrize(("after", "words"), [(191, "within noise: its interval contains 0"), (200, "better beyond noise")])
def test_words_for_a_change(after, words):
    assert words in text(Evaluation("d", accuracy(190), accuracy(after)))


def test_errors_change_in_percent_and_less_is_better():
    rows = score_rows(Evaluation("d", mean(0.002), mean(0.003)))
    assert rows[0][3] == "+50.0 %" and rows[0][1] == f"{mean(0.002).value:.4g}"
    low, high = (float(end.removesuffix(" %")) for end in rows[1][3].split(" to "))
    assert 45 < low < 50 < high < 55
    assert "worse beyond noise" in text(Evaluation("d", mean(0.002), mean(0.003)))
    assert "better beyond noise" in text(Evaluation("d", mean(0.003), mean(0.002)))
    assert score_rows(Evaluation("d", mean(1.0, better=True), mean(0.5, better=True)))[0][3].startswith("-0.")


def test_one_figure_for_a_run_has_no_interval():
    one = Score("f1", 0.5, 30, np.zeros(0, int), "f1")
    evaluation = Evaluation("d", one, Score("f1", 0.25, 30, np.zeros(0, int), "f1"))
    assert score_rows(evaluation) == [("f1", "0.5", "0.25", "-0.25")]
    assert "no interval: it is one figure for the whole run" in text(evaluation)


def test_what_is_not_held_out_and_what_failed_is_said():
    assert "not held out: 3 of 200 samples were used for calibration" in text(
        Evaluation("d", accuracy(190), accuracy(190), seen=3)
    )
    failed = Evaluation("d", accuracy(190), failed="output 'y' is NaN")
    assert score_rows(failed) == [("top-1 accuracy", "95.00 %", "", "not evaluated")]
    assert "not scored: output 'y' is NaN" in text(failed)


LIKENESS = [
    ("calibration", Fidelity("last_hidden_state", 512, 0.05, 0.99, None, None, [Worst(3, 0.2, "")])),
    ("evaluation", Fidelity("logits", 2000, 0.1, 0.9876, 0.97, (0.962, 0.977), [Worst(1713, 0.5, "a/long/path/img.png")])),
]
LOSSES = [GroupLoss(f"g{k}", 2, 1, 0.5, 0.3 - k / 100, "/blocks/blocks.0/conv/Conv", 0.4) for k in range(14)]


def test_only_names_are_folded():
    lines = render(fidelity_table(LIKENESS), 80)
    assert sum("%" in line for line in lines[3:]) == 2 and any("97.0 % (96.2-97.7)" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("table", [fidelity_table(LIKENESS), worst_table(LIKENESS), losses_table(LOSSES)])
def test_tables_fit(table, width):
    assert max(map(len, render(table, width))) <= width


def test_tables_hold_the_figures():
    lines = "\n".join(render(fidelity_table(LIKENESS), 120))
    assert "97.0 % (96.2-97.7)" in lines and "1,713: 50.0 %" in lines and "0.9876" in lines
    assert "a/long/path/img.png" in "\n".join(render(worst_table(LIKENESS), 120))
    assert "same top-1" not in "\n".join(render(fidelity_table(LIKENESS[:1])))
    assert "file" not in "\n".join(render(worst_table(LIKENESS[:1]), 120))
    losses = render(losses_table(LOSSES), 120)
    assert any(line.split()[:7] == ["g0", "2", "1", "50.0", "%", "30.0", "%"] for line in losses)
    assert "and 4 more" in "\n".join(losses)


@pytest.mark.parametrize(
    ("macs", "ms", "round_to", "quantities", "words"),
    [
        (100, (10.0, 9.5), 1, (), ["2.00x", "--round-to 8", "--target latency=N"]),
        (100, (10.0, 12.0), 16, (), ["--target latency=N"]),
        (100, (10.0, 6.0), 1, (), None),  # most of what the MACs promise
        (190, (10.0, 12.0), 1, (), None),  # hardly less work
        (100, (10.0, 9.5), 1, ("macs", "latency"), None),  # it was measured which widths pay
    ],
)
def test_less_work_that_saves_little_time_gets_advice(macs, ms, round_to, quantities, words):
    targets = [SimpleNamespace(quantity=q) for q in quantities]
    report = SimpleNamespace(macs_before=200, macs_after=macs, targets=targets)
    notes = speed_notes(report, tuple(Times((np.array([t]),)) for t in ms), round_to)
    assert [n.topic for n in notes] == (["speed"] if words else [])
    for note in notes:
        assert all(word in note.text for word in words)
        assert ("--round-to" in note.text) == bool(round_to % 8)
