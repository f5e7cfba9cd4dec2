"""The picture shows each node once, in the colours of its groups, with reasons as tooltips."""

import re
import sys
import types

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.api import analyze
from onnxprune.errors import UsageError
from onnxprune.report import dot as pictures


@pytest.fixture
def text() -> str:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[N, 3] x) => (float[N, 2] y, float[N, 3] z) {
      a = MatMul (x, w1)
      b = Relu (a)
      c = MatMul (b, w2)
      d = Tanh (c)
      y = MatMul (d, w3)
      z = Neg (x)
    }
    """)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (3, 8)), ("w2", (8, 5)), ("w3", (5, 2))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return pictures.dot(analyze(model))


def node(text: str, k: int) -> dict[str, str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"  n{k} [")]
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line))


def test_every_node_and_edge_is_there_once(text):
    nodes = [line.split()[0] for line in text.splitlines() if " [" in line and "->" not in line][3:]
    assert nodes == ["i0", "n0", "n1", "n2", "n3", "n4", "n5", "o0", "o1"]
    edges = {line.strip().rstrip(";") for line in text.splitlines() if "->" in line}
    assert edges == {"i0 -> n0", "n0 -> n1", "n1 -> n2", "n2 -> n3", "n3 -> n4", "i0 -> n5", "n4 -> o0", "n5 -> o1"}
    assert text.count("{") == text.count("}")


def test_nodes_have_the_colours_of_their_groups(text):
    first, relu, between, tanh, last, neg = (node(text, k) for k in range(6))
    assert first["label"] == "MatMul\\ng0"
    assert relu["fillcolor"] == first["fillcolor"] != tanh["fillcolor"]
    assert between["fillcolor"] == f"{first['fillcolor']}:{tanh['fillcolor']}"
    assert between["style"] == "striped"
    assert last["fillcolor"] == tanh["fillcolor"]
    assert neg["fillcolor"] == "#ffffff"


def test_tooltips_give_reasons(text):
    assert "frozen: w3 axis 1: it reaches graph output 'y'" in node(text, 4)["tooltip"]
    assert "g0: 8 channel units" in node(text, 0)["tooltip"]


def test_weights_that_cannot_shrink_are_grey():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3] x) => (float[N, 4] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 4), np.float32), "w"))
    assert node(pictures.dot(analyze(model)), 0)["fillcolor"] == "#c8c8c8"


def test_names_are_quoted():
    assert pictures._quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'


def test_svg_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(UsageError, match="pip install graphviz"):
        pictures.svg("digraph {}")


def fake(pipe):
    class NotFoundError(Exception):
        pass

    class CalledError(Exception):
        pass

    module = types.ModuleType("graphviz")
    module.ExecutableNotFound, module.CalledProcessError = NotFoundError, CalledError
    module.Source = lambda text: types.SimpleNamespace(pipe=lambda **options: pipe(module, text, **options))
    return module


def test_svg_needs_the_program(monkeypatch):
    def missing(module, text, **_):
        raise module.ExecutableNotFound

    monkeypatch.setitem(sys.modules, "graphviz", fake(missing))
    with pytest.raises(UsageError, match="`dot` program"):
        pictures.svg("digraph {}")


def test_svg_is_what_graphviz_draws(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", fake(lambda module, text, format, encoding: f"<{format}>{text}"))
    assert pictures.svg("digraph {}") == "<svg>digraph {}"
