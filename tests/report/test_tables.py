"""What a report looks like."""

import io

import numpy as np
import pytest
from rich.console import Console

from onnxprune.bench.timing import Times
from onnxprune.groups.group import Frozen
from onnxprune.proof.oracle import Verification
from onnxprune.report.report import GroupRow, PutBack, Report
from onnxprune.report.tables import (
    frozen_reasons,
    is_inexact,
    notes_table,
    percent,
    result_notes,
    result_table,
    si,
    verification_note,
)


def render(renderable, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def report() -> Report:
    frozen = [Frozen(f"w{k}", 0, 4, 4, f"LayerNormalization 'norm{k}' computes a statistic over it") for k in range(12)]
    frozen += [Frozen("conv", 2, 3, 3, "Conv 'c' slides over it"), Frozen("fc", 0, 9, 9, "it reaches graph output 'y'")]
    return Report(
        1_000_000,
        250_000,
        4_089_000_000,
        1_000_000_000,
        98_000_000,
        24_500_000,
        [GroupRow("g0", "channel", 64, 32, True, [("w", 0)], 10, 10), GroupRow("g1", "heads", 4, 0, True, [], 1, 1)],
        frozen,
        {"acme::Foo": ["n1", "n2"]},
        ["Foo 'n': KeyError: 3"],
        put_back=[PutBack("g7", "output 'y' differs by 0.5")],
        verification=Verification(True, 2e-7, 1e-4, ["y"], shapes={"x": (1, 3), "s": ()}),
        shapes={"x": (1, 3)},
    )


def test_the_table_has_a_row_for_everything_measured(report):
    lines = render(result_table(report, (Times((np.array([2.0]),)), Times((np.array([1.0]),)))))
    cells = [line.split() for line in lines]
    assert ["size", "98.0", "MB", "24.5", "MB", "-75.0", "%"] in cells
    assert ["parameters", "1,000,000", "250,000", "-75.0", "%"] in cells
    assert ["MACs", "4.09", "G", "1.00", "G", "-75.5", "%"] in cells
    assert ["latency", "p50", "2", "ms", "1", "ms", "2.00x", "faster"] in cells


def test_slower_is_called_slower(report):
    assert "1.50x slower" in "\n".join(render(result_table(report, (Times((np.array([2.0]),)), Times((np.array([3.0]),))))))


def test_notes_tell_what_was_not_done(report):
    text = "\n".join(f"{n.topic}: {n.text}" for n in result_notes(report, verbose=False, width=False))
    assert "removed: 32 of 64 units in 1 group" in text
    assert "12 axes: LayerNormalization '...' computes a statistic over it (try --width)" in text
    assert "1 axis: it reaches graph output 'y'" in text
    assert "slides" not in text
    assert "acme::Foo (2 nodes)" in text
    assert "Foo 'n': KeyError: 3 (a bug of onnxprune, please report it)" in text
    assert "put back: group g7 stays as it was: output 'y' differs by 0.5 (a bug" in text
    assert "verified: largest relative error 2.0e-07, tolerance 1e-04; 1 output on random inputs: x 1x3, s scalar" in text


def test_width_is_not_offered_to_who_has_it(report):
    assert "--width" not in "".join(n.text for n in result_notes(report, verbose=False, width=True))


def test_verbose_notes_leave_nothing_out(report):
    assert "slides" in "".join(n.text for n in result_notes(report, verbose=True, width=False))


def test_without_verification_the_reason_is_given(report):
    report.verification, report.unverified = None, "not asked for"
    note = result_notes(report, verbose=False, width=False)[-1]
    assert (note.topic, note.text) == ("not verified", "not asked for")


def test_an_error_that_is_rounding_is_explained():
    note = verification_note(Verification(True, 2e-4, 1e-4, ["y"], noise=1.5e-4))
    assert note.topic == "verified"
    assert "moves the source by 1.5e-04" in note.text


def test_inexact_groups_are_not_called_verified(report):
    report.groups[0].exact = False
    note = result_notes(report, verbose=False, width=True)[-1]
    assert note.topic == "not verified"
    assert note.text.startswith("g0: ")


def test_a_failed_verification():
    note = verification_note(Verification(False, 0.5, 1e-4, ["y"], before=["a", "b"], message="output 'y' differs"))
    assert note.topic == "failed"
    assert note.text.startswith("output 'y' differs; largest relative error 5.0e-01")
    assert "2 inputs of discrete operators" in note.text


@pytest.mark.parametrize("width", [80, 120])
def test_notes_fit(report, width):
    lines = render(notes_table(result_notes(report, verbose=True, width=False)), width)
    assert max(map(len, lines)) <= width


def test_reasons_are_counted_by_pattern():
    reasons = ["Conv 'a' reads \"b\"", "Conv 'c' reads \"d\"", "other 'x'", "other 'x'", "other 'x'", "alone 'x'"]
    found = frozen_reasons(Frozen("w", 0, 1, 1, r) for r in reasons)
    assert found == [("other 'x'", 3), ("Conv '...' reads '...'", 2), ("alone 'x'", 1)]


def test_inexact_reasons():
    assert is_inexact("ReduceMean 'm' computes a statistic over it")
    assert not is_inexact("Conv 'c' slides over it")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 "),
        (12, "12 "),
        (999, "999 "),
        (1000, "1.00 k"),
        (123456, "123 k"),
        (4.089e9, "4.09 G"),
        (2.5e12, "2500 G"),
    ],
)
def test_unit_prefixes(number, text):
    assert si(number) == text


def test_percent():
    assert percent(200, 100) == "-50.0 %"
    assert percent(0, 0) == ""
    assert percent(0, 5) == "from 0"
    assert percent(2, 1000) == "500x"
