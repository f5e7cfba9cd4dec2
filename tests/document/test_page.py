"""The page: structure, escaping, nothing from elsewhere, and every figure of the files."""

import json
import re
from html.parser import HTMLParser

import pytest

from onnxprune.document.build import build
from onnxprune.document.page import to_html
from onnxprune.document.read import read_results
from onnxprune.report.tables import si
from tests.document.conftest import QUOTES, SCRIPT, benchmark, front, written

VOID = {"meta", "link", "br", "img", "input", "hr", "line"}


class Page(HTMLParser):
    """Elements with their attributes, visible text, and whether all tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words, self.errors = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), list(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), list(self.open)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag):
        return [(attributes, above) for found, attributes, above in self.elements if found == tag]


@pytest.fixture(scope="module")
def html(folder, bench_file):
    return to_html(
        build(read_results([folder / "prune.json", bench_file]), command="onnxprune report prune.json bench.json -o r.html")
    )


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_well_formed(page):
    assert not page.errors and not page.open
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_comes_from_elsewhere(page, html):
    for _, attributes, _ in page.elements:
        for key in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import|https?://", html)
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert len(page.all("script")) == 1


def test_names_are_text(page, html):
    assert "alert(1)" in page.text and "onerror" in page.text
    assert SCRIPT not in html and "<img" not in html
    assert QUOTES in "".join(page.words)
    assert not any(key.startswith("on") for _, attributes, _ in page.elements for key in attributes)


def test_tables_can_be_read_by_machines(page):
    tables = page.all("table")
    assert len(tables) >= 8 and len(page.all("caption")) == len(tables)
    heads = [a for a, above in page.all("th") if "thead" in above]
    assert heads and all(a["scope"] == "col" and a["aria-sort"] == "none" for a in heads)
    rows = [a for a, above in page.all("th") if "tbody" in above]
    assert rows and all(a["scope"] == "row" for a in rows)
    assert [a for a, above in page.all("button") if "thead" in above]


def test_charts_are_told_in_words(page):
    charts = page.all("svg")
    assert len(charts) == 4  # a trade-off and a distribution, for screens and for phones
    for attributes, _ in charts:
        assert attributes["role"] == "img" and len(attributes["aria-labelledby"].split()) == 2
    assert len([1 for _, above in page.all("title") if above[-1] == "svg"]) == 4


def test_all_sections_are_there(page):
    sections = {a["id"] for a, _ in page.all("section")}
    assert sections >= {
        "summary",
        "models",
        "latency",
        "layers",
        "groups",
        "outputs",
        "frozen",
        "missing",
        "environment",
        "commands",
    }
    links = {a["href"] for a, above in page.all("a") if "nav" in above}
    assert links == {f"#{s}" for s in sections - {"summary"}}


def test_figures_of_a_pruning(page, pruning):
    report, evaluation = pruning["report"], pruning["evaluation"]
    assert f"{evaluation['before']:.2f} %" in page.text and f"{evaluation['after']:.2f} %" in page.text
    interval = evaluation["change"]["interval"]
    assert f"{interval['low']:+.2f} to {interval['high']:+.2f}" in page.text
    for group in report["groups"]:
        assert re.search(
            rf"{group['id']} {group['kind']} +{group['units'] - group['removed']} +{group['units']} ", page.text
        )
    for layer in report["layers"]:
        assert si(layer["macs_before"]).strip() in page.text and si(layer["params_after"]).strip() in page.text
    for loss in report["losses"]:
        assert f"{loss['lost_before'] * 100:.1f} %" in page.text and f"{loss['lost_after'] * 100:.1f} %" in page.text
    for frozen in report["frozen"]:
        assert frozen["reason"] in page.text
    for found in [*report["fidelity"], *evaluation["fidelity"]]:
        assert f"{found['cosine']:.4f}" in page.text
    assert pruning["command"] in page.text and pruning["environment"]["cpu"] in page.text


def test_figures_of_a_benchmark(page, bench_file):
    data = json.loads(bench_file.read_text("utf-8"))
    for measured in data["configurations"][0]["measurements"]:
        for key in ("p50_ms", "p90_ms", "p99_ms", "session_ms", "first_ms"):
            assert f"{measured[key]:.3g}" in page.text
    assert "made up for a test" in page.text and data["command"] in page.text
    assert re.search(r"pruned.onnx: 2\.0\dx faster than dense.onnx beyond noise", page.text)


def test_both_files_tell_of_the_same_models(page):
    """One names them by another path, but their content is the same."""
    assert "dense.onnx → pruned.onnx" in page.text and "elsewhere" not in page.text


def test_what_was_not_measured_is_said(page):
    assert re.search(r"GPU and other accelerators +not measured +all measurements ran on cpu", page.text)


def test_equal_models_are_called_equal(folder, tmp_path):
    path = written(benchmark(folder, factor=1.0, profile=False), tmp_path / "bench.json")
    page = Page(to_html(build(read_results([path]))))
    assert "no measurable difference" in page.text and "faster than" not in page.text
    assert re.search(r"accuracy +not measured", page.text)
    assert "Time of layers: not measured" in page.text


def test_a_pruning_alone_claims_nothing_about_noise(folder):
    page = Page(to_html(build(read_results([folder / "prune.json"]))))
    assert "not judged against noise" in page.text and "beyond noise on" not in page.text
    assert re.search(r"latency beyond noise +not measured", page.text)


def test_a_family(tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps(front()), "utf-8")
    page = Page(to_html(build(read_results([path]))))
    assert "A family of 3 models pruned for macs; 1 of them are beaten" in page.text
    assert "p1 is the smallest model whose top-1 accuracy is not worse" in page.text
    beaten = [a for a, _ in page.all("path") if "beaten" in a["class"]]
    assert len(beaten) == 2  # one mark in each of two pictures


def test_targets_are_told_with_what_came_of_them(pruning, tmp_path):
    target = {
        "quantity": "size",
        "target": "size=0.5",
        "unit": "B",
        "before": 4e6,
        "limit": 2e6,
        "after": 2.5e6,
        "met": False,
        "rounds": 3,
    }
    pruning["report"]["targets"], pruning["report"]["unmet"] = [target], "a floor"
    (tmp_path / "t.json").write_text(json.dumps(pruning), "utf-8")
    page = Page(to_html(build(read_results([tmp_path / "t.json"]))))
    assert "Target size=0.5: missed; 4.00 MB before, at most 2.00 MB asked for, 2.50 MB after" in page.text
    assert "can't be met: a floor" in page.text
