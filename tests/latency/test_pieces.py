"""Pieces of a graph: each node once, and together they compute what the whole does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxprune.bench.inputs import made_up
from onnxprune.io.load import load_model
from onnxprune.latency.pieces import cut_graph, extract, structure
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.check import alive_after
from onnxprune.proof.session import run
from onnxprune.select.allocate import Options, allocate
from onnxprune.surgery.apply import apply_alive

MODELS = Path(__file__).parents[2] / "models"


def values_of(model: onnx.ModelProto, feeds: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Tensors of a model."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    have = {o.name for o in model.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    return {**feeds, **dict(zip(names, run(opened, feeds, names), strict=True))}


@pytest.mark.parametrize(("name", "ratio"), [("unet", 0.0), ("unet", 0.5), ("gru", 0.5), ("vit_dynamo", 0.5)])
def test_pieces_compute_what_the_whole_does(name: str, ratio: float) -> None:
    prepared, groups = analysed(load_model(MODELS / f"{name}.onnx"), width=False, shapes=None)
    alive = alive_after(groups, allocate(groups, Options(ratio=ratio)))
    model = apply_alive(prepared.model, groups, alive)
    pieces = cut_graph(model.graph)
    feeds = made_up(model)
    known = values_of(model, feeds, sorted({n for p in pieces for n in p.outputs}))
    for piece in pieces:
        part = extract(model, piece, known)
        onnx.checker.check_model(part)
        for output, value in zip(piece.outputs, run(part, known, piece.outputs), strict=True):
            np.testing.assert_allclose(value, known[output], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet", "vit_legacy", "unet"])
def test_every_node_that_is_fed_is_in_one_piece(name: str) -> None:
    model = load_model(MODELS / f"{name}.onnx")
    pieces = cut_graph(model.graph)
    owned = sorted(k for p in pieces for k in p.nodes)
    assert len(owned) == len(set(owned))
    assert set(owned).isdisjoint(k for p in pieces for k in p.copied)
    made = {o.name for o in model.graph.output}
    assert made <= {n for p in pieces for n in p.outputs}


def test_pruning_keeps_the_names_of_pieces() -> None:
    prepared, groups = analysed(load_model(MODELS / "unet.onnx"), width=False, shapes=None)
    pruned = apply_alive(prepared.model, groups, alive_after(groups, allocate(groups, Options(ratio=0.5))))
    assert [p.name for p in cut_graph(pruned.graph)] == [p.name for p in cut_graph(prepared.model.graph)]


TWO = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
<float[4, 4, 3, 3] w1 = {}, float[4, 4, 3, 3] w2 = {}> {{
  a = Conv<pads = [1, 1, 1, 1]> (x, w1)
  b = Relu(a)
  c = Conv<pads = [1, 1, 1, 1]> (b, w2)
  d = {}(c)
  y = Add(d, b)
}}"""


def two(second: str) -> onnx.ModelProto:
    """Two layers, of different weights."""
    weights = ["{" + ", ".join(str(float(k + n)) for k in range(144)) + "}" for n in (0, 1)]
    return parser.parse_model(TWO.format(*weights, second))


def parts(model: onnx.ModelProto) -> list[str]:
    """Structures of the pieces."""
    pieces = cut_graph(model.graph)
    known = values_of(model, {"x": np.ones((1, 4, 8, 8), np.float32)}, ["b", "y"])
    return [structure(extract(model, p, known)) for p in pieces]


def test_a_residual_sum_belongs_to_the_later_layer() -> None:
    pieces = cut_graph(two("Relu").graph)
    assert [(p.nodes, p.inputs, p.outputs) for p in pieces] == [([0, 1], ["x"], ["b"]), ([2, 3, 4], ["b"], ["y"])]


def test_names_and_weights_do_not_count_but_operators_and_attributes_do() -> None:
    model = two("Relu")
    named = two("Relu")
    for node in named.graph.node:
        node.name = f"other {node.output[0]}"
    named.graph.initializer[0].ClearField("raw_data")
    named.graph.initializer[0].float_data[:] = [2.0] * 144
    assert parts(named) == parts(model)
    assert parts(two("Sigmoid"))[0] == parts(model)[0]
    assert parts(two("Sigmoid"))[1] != parts(model)[1]
    strided = two("Relu")
    strided.graph.node[0].attribute.append(onnx.helper.make_attribute("dilations", [1, 1]))
    assert parts(strided)[0] != parts(model)[0]
