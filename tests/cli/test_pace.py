"""The bar never goes back, and the time that is left is what the later half of the run tells."""

import io
import re

import pytest
from rich.console import Console

from onnxprune.cli.pace import Pace
from onnxprune.cli.screen import Screen, left_text


def test_even_work_is_told_exactly():
    pace = Pace()
    for second in range(1, 50):
        pace(second, second / 100)
    assert pace.left(49) == pytest.approx(51) and pace.left(59) == pytest.approx(41)
    assert pace.left(1000) == 0


def test_nothing_is_said_at_first():
    pace = Pace()
    assert pace.left(0) is None and pace.left(60) is None
    pace(1.0, 0.5)
    assert pace.left(1.0) is None


def test_shares_never_go_back():
    pace = Pace()
    assert [pace(k, share) for k, share in enumerate((0.2, 0.1, 0.5, 0.4, 2.0, 0.9))] == [0.2, 0.2, 0.5, 0.5, 1.0, 1.0]


def test_results_that_were_there_say_nothing():
    """80 % at once, then a hundredth in each second: 10 s are left at 90 %, not 1."""
    pace = Pace()
    pace(0.5, 0.8)
    for second in range(1, 11):
        pace(0.5 + second, 0.8 + second / 100)
    assert pace.left(10.5) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (0, "0:00 left"), (64.2, "1:05 left"), (3725, "1:02:05 left")])
def test_texts(seconds, text):
    assert left_text(seconds).strip() == text


def test_a_terminal_of_80_columns_holds_one_line(monkeypatch):
    """Long names are cut; the times stay."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None, highlight=False)
    now = [0.0]
    monkeypatch.setattr("onnxprune.cli.screen.time.monotonic", lambda: now[0])
    with Screen(err=console).progress() as show:
        for second in range(0, 30, 3):
            now[0] = float(second)
            show("reconstructing " + "/block.long/name" * 10, second / 30)
    lines = [part for part in stream.getvalue().replace("\r", "\n").split("\n") if "reconstructing" in part]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", lines[-1])
    assert "…" in plain and "90%" in plain and "0:03 left" in plain and len(plain) <= 80


def test_a_pipe_gets_nothing():
    stream = io.StringIO()
    with Screen(err=Console(file=stream)).progress() as show:
        show("reconstructing", 0.5)
    assert stream.getvalue() == ""
