"""Markdown, CSV and pictures of the same document."""

import csv
import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

import onnxprune
from onnxprune.document.build import build
from onnxprune.document.lines import HEADER, plain, to_csv
from onnxprune.document.markdown import LONGEST, escape, to_markdown
from onnxprune.document.models import Models
from onnxprune.document.read import read_results
from onnxprune.document.svg import Axis, draw, ticks
from tests.document.conftest import SCRIPT


@pytest.fixture(scope="module")
def document(folder, bench_file):
    return build(read_results([folder / "prune.json", bench_file]))


def test_markdown(document, pruning):
    text = to_markdown(document)
    assert SCRIPT not in text and "<img" not in text
    assert f"{pruning['evaluation']['after']:.2f} %" in text
    assert text.count("<details>") == text.count("</details>") > 2
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:  # rows have as many cells as the head: no name breaks out of its cell
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_markdown_stays_within_a_comment(pruning, tmp_path):
    frozen = pruning["report"]["frozen"][0]
    pruning["report"]["frozen"] = [{**frozen, "weight": f"w{k}" * 60, "reason": f"reason {k} " * 20} for k in range(400)]
    (tmp_path / "long.json").write_text(json.dumps(pruning), "utf-8")
    text = to_markdown(build(read_results([tmp_path / "long.json"])))
    assert len(text) <= LONGEST and "more rows" in text


@pytest.mark.parametrize(
    "text",
    ["a|b", "<b>", "*x*", "`x`", "[a](b)", "![a](b)", "# x", "- x", "1. x", "---", "===", "~~x~~", "_x_", "&lt;", "\\|"],
)
def test_marks_of_markdown_are_escaped(text):
    made = re.sub(r"&#\d+;(<!-- -->)?", "", escape(text))
    assert not re.search(r"[|<>*`\[\]!#~&\\]|^- |^\d+\. |^---|^===|\b_|_\b", made)


def test_mentions_and_links_are_not_made():
    assert "@<" not in escape("@user") and re.search(r"&#64;<!-- -->user", escape("@user"))
    assert "://" not in escape("http://a.b") and "www." not in escape("www.a.b")


def test_words_stay_readable():
    assert escape("-2.10 points, 93.30 % of fashion_mnist.npz") == "-2.10 points, 93.30 % of fashion_mnist.npz"


def test_csv(document, bench_file):
    rows = list(csv.reader(io.StringIO(to_csv(document))))
    assert tuple(rows[0]) == HEADER and all(len(r) == len(HEADER) for r in rows)
    found = {(r[1], r[3], r[4]): r[5] for r in rows[1:]}
    first = json.loads(bench_file.read_text("utf-8"))["configurations"][0]["measurements"][0]
    assert float(found["latency-1", "dense.onnx", "p50 ms"]) == pytest.approx(first["p50_ms"])
    assert float(found["figures", "dense.onnx", "size"]) == 3000


def test_no_formulas_in_csv():
    assert plain("=1+1") == "'=1+1" and plain("@x") == "'@x" and plain("-1.5 %") == "-1.5 %" and plain("-x") == "'-x"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures(folder, bench_file, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plots.{suffix}"
    onnxprune.write_report([folder / "prune.json", bench_file], path)
    content = path.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG") and len(content) > 20_000
    else:
        words = "".join(ET.fromstring(content).itertext())
        assert "Distribution of latency" in words and "MACs of layers" in words and "alert(1)" in words  # text as text


def test_pictures_need_matplotlib(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(onnxprune.UsageError, match="pip install"):
        onnxprune.write_report([folder / "prune.json"], tmp_path / "plots.png")
    onnxprune.write_report([folder / "prune.json"], tmp_path / "page.html")


def test_nothing_to_draw(tmp_path):
    pytest.importorskip("matplotlib")
    empty = {"first": "a.onnx", "second": "b.onnx", "data": "x", "passed": True, "exceeded": [], "outputs": []}
    (tmp_path / "c.json").write_text(json.dumps({"format": "onnxprune.compare/1", **empty}), "utf-8")
    with pytest.raises(onnxprune.ModelError, match="nothing to draw"):
        onnxprune.write_report([tmp_path / "c.json"], tmp_path / "plots.png")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.26, 0.347), (3, 3.001), (1e-6, 1e6), (-5, 5), (123456, 123999)])
def test_ticks_are_round_and_within(low, high):
    found, slack = ticks(low, high, 5), 1e-6 * (high - low)
    assert 2 <= len(found) <= 5 and all(low - slack <= t <= high + slack for t in found)
    steps = {round(b - a, 12) for a, b in pairwise(found)}
    assert max(steps) - min(steps) < 1e-6 * (high - low)


def test_axes_of_durations():
    axis = Axis(0.1, 200.0, True)
    assert axis.share(0.1) == 0 and axis.share(200) == pytest.approx(1) and axis.share(1e9) == 1
    assert axis.share(0.1 * 2000**0.5) == pytest.approx(0.5)
    assert 2 <= len(axis.ticks(5)) <= 5


@pytest.mark.parametrize("width", [720.0, 340.0])
def test_marks_lie_on_the_canvas(document, width):
    for chart in document.charts:
        picture = draw(chart, width)
        for line in picture.lines:
            assert min(line.x1, line.x2) >= 0 and max(line.x1, line.x2) <= width
            assert min(line.y1, line.y2) >= 0 and max(line.y1, line.y2) <= picture.height
        for label in picture.labels:
            extent = 6.5 * len(label.text)
            left = {"start": label.x, "middle": label.x - extent / 2, "end": label.x - extent}[label.anchor]
            assert label.turn or (left >= -2 and left + extent <= width + 2), label


def test_models_are_told_by_content_or_path():
    models = Models()
    assert models.add("models/a.onnx") == models.add("/home/me/models/a.onnx") == 0
    assert models.add("b.onnx", "1") == models.add("other/c.onnx", "1") == 1
    assert models.add("b.onnx", "2") == 2  # the same path with other content
    assert models.replaced == ["b.onnx"] and models.names == ["a.onnx", "b.onnx (1)", "b.onnx (2)"]
    assert models.add("x/a.onnx") == 3 and models.names[0] == "models/a.onnx"
