"""Profiles of whole graphs against values worked out by hand."""

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from jsonschema import Draft202012Validator

from onnxprune.cli.screen import to_json
from onnxprune.errors import ModelError
from onnxprune.io.load import load_model
from onnxprune.profiling.count import profile
from onnxprune.profiling.profile import schema
from onnxprune.profiling.tables import csv_text, sorted_costs
from tests.cli.conftest import ROOT
from tests.models_text import make


def costs(model, **shapes):
    found = profile(model, shapes or None)
    return found, {n.name: n for n in found.nodes}


CHAIN = """(float[N, 3, 8, 8] x) => (float[N, 5] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, v)
  d = Add (c, b)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = Gemm (f, g, h)
}"""
WEIGHTS = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "g": (4, 5), "h": (5,)}


def test_a_chain_with_a_residual():
    found, nodes = costs(make(CHAIN, WEIGHTS))
    assert found.shapes == {"x": (1, 3, 8, 8)}
    assert (nodes["a"].macs, nodes["c"].macs, nodes["y"].macs) == (4 * 64 * 27, 4 * 64 * 36, 20)
    assert found.macs == 4 * 64 * (27 + 36) + 20
    assert found.params == 4 * 27 + 4 * 36 + 20 + 5
    assert found.weight_bytes == 4 * found.params
    a = nodes["a"]
    assert (a.weight_bytes, a.input_bytes, a.output_bytes) == (4 * 108, 4 * 192, 4 * 256)
    assert a.intensity == 2 * a.macs / (4 * (108 + 192 + 256))
    assert nodes["f"].moved_bytes == 0, "a view moves nothing"
    # x (768), b, c and d (1024 each) while d is added
    assert found.peak.bytes == 768 + 3 * 1024
    assert found.peak.node == "d"
    # made: a, b, c, d (1024 each), e, f (16 each), y (20)
    assert found.activation_bytes == 4 * 1024 + 2 * 16 + 20


def test_a_batch_multiplies_activations_and_not_weights():
    one, _ = costs(make(CHAIN, WEIGHTS))
    eight, _ = costs(make(CHAIN, WEIGHTS), x=(8, 3, 8, 8))
    assert eight.macs == 8 * one.macs
    assert (eight.params, eight.weight_bytes) == (one.params, one.weight_bytes)
    assert eight.peak.bytes == 8 * one.peak.bytes


def test_a_size_that_is_given_holds_wherever_its_symbol_stands():
    text = "(float[B, 4] x, float[2, B, 4] s, float[T] t) => (float[2, B, 4] y, float[T] u) { y = Add (x, s) u = Relu (t) }"
    found, _ = costs(make(text, {}), x=(3, 4))
    assert (found.shapes["x"], found.shapes["s"]) == ((3, 4), (2, 3, 4))


def test_a_shape_that_contradicts_the_model_is_an_error():
    with pytest.raises(ModelError, match="does not fit input 'x'"):
        profile(make(CHAIN, WEIGHTS), {"x": (1, 4, 8, 8)})


def test_a_view_takes_no_memory_of_its_own():
    text = "(float[2, 64] x) => (float[64, 2] y) { a = Relu (x) b = Reshape (a, s) y = Relu (b) }"
    found, _ = costs(make(text, {"s": np.array([64, 2])}))
    assert found.peak.bytes == 3 * 2 * 64 * 4, "x, what Relu made, and y; b is a"


def test_shared_weights_are_stored_once():
    text = "(float[2, 4] x) => (float[2, 4] y) { a = MatMul (x, w) y = MatMul (a, w) }"
    found, nodes = costs(make(text, {"w": (4, 4)}))
    assert found.params == 16
    assert (nodes["a"].params, nodes["y"].params) == (16, 16)
    assert found.macs == 2 * 32


def test_weights_behind_moves_and_dequantization():
    text = """(float[2, 4] x) => (float[2, 6] y) {
      d = DequantizeLinear (q, s)
      t = Transpose <perm = [1, 0]> (d)
      y = MatMul (x, t)
    }"""
    quantized = np.arange(24, dtype=np.int8).reshape(6, 4)
    found, nodes = costs(make(text, {"q": quantized, "s": np.array(0.1, np.float32)}))
    assert [n.name for n in found.nodes] == ["y"], "the rest is folded when the model is loaded"
    assert nodes["y"].macs == 2 * 4 * 6
    assert (nodes["y"].params, nodes["y"].weight_bytes) == (25, 24 + 4)


def test_packed_weights_count_their_numbers():
    text = """(float[2, 64] x) => (float[2, 5] y) {
      y = com.microsoft.MatMulNBits <K = 64, N = 5, bits = 4, block_size = 32> (x, b, s)
    }"""
    packed = np.zeros((5, 2, 16), np.uint8)
    found, _ = costs(make(text, {"b": packed, "s": (10,)}, ms=True))
    assert found.params == 64 * 5 + 10
    assert found.weight_bytes == 160 + 40
    assert found.macs == 2 * 64 * 5


def test_a_lookup_reads_what_it_gives():
    text = "(int64[1, 3] i) => (float[1, 3, 8] y) { y = Gather (t, i) }"
    found, nodes = costs(make(text, {"t": (1000, 8)}))
    assert nodes["y"].weight_bytes == 32000
    assert nodes["y"].moved_bytes == 2 * 3 * 8 * 4


def test_fused_attention_costs_what_its_parts_cost():
    fused = "(float[1, 6, 5, 8] q, float[1, 2, 7, 8] k, float[1, 2, 7, 4] v) => (float[1, 6, 5, 4] y) { y = Attention (q, k, v) }"
    parts = """(float[1, 6, 5, 8] q, float[1, 2, 7, 8] k, float[1, 2, 7, 4] v) => (float[1, 2, 15, 4] y) {
      g = Reshape (q, s)
      t = Transpose <perm = [0, 1, 3, 2]> (k)
      a = MatMul (g, t)
      p = Softmax (a)
      y = MatMul (p, v)
    }"""
    one, _ = costs(make(fused, {}, opset=23))
    other, _ = costs(make(parts, {"s": np.array([1, 2, 15, 8])}))
    assert one.macs == other.macs == 6 * 5 * 7 * (8 + 4)


LOOP = """(float[2, 4] x) => (float[2, 4] y) {
  y = Loop (COUNT, go, x) <body = b (int64 i, bool more, float[2, 4] s) => (bool again, float[2, 4] t) {
    again = Identity (more)
    t = MatMul (s, w)
  }>
}"""


def test_a_loop_costs_every_round():
    text = LOOP.replace("COUNT", "n")
    found, nodes = costs(make(text, {"n": np.array(7), "go": np.array(True), "w": (4, 4)}))
    assert nodes["t"].times == 7
    assert found.macs == 7 * 32
    assert found.once == []
    assert found.params == 16


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    text = LOOP.replace("COUNT", "n").replace("float[2, 4] x", "float[2, 4] x, int64 n", 1)
    found, _ = costs(make(text, {"go": np.array(True), "w": (4, 4)}))
    assert found.macs == 32
    assert found.once == ["y.body"]


def test_a_loop_that_may_stop_early_counts_once():
    text = LOOP.replace("COUNT", "n").replace(
        "again = Identity (more)", "m = ReduceMax <keepdims = 0> (s) again = Less (m, w0)"
    )
    found, _ = costs(make(text, {"n": np.array(7), "go": np.array(True), "w": (4, 4), "w0": np.array(9, np.float32)}))
    assert (found.macs, found.once) == (32, ["y.body"])


def test_a_scan_costs_every_slice():
    text = """(float[9, 2, 4] x, float[2, 4] h) => (float[2, 4] last, float[9, 2, 4] all) {
      last, all = Scan <num_scan_inputs = 1, body = b (float[2, 4] s, float[2, 4] i) => (float[2, 4] o, float[2, 4] z) {
        m = MatMul (s, w)
        o = Add (m, i)
        z = Identity (o)
      }> (h, x)
    }"""
    found, nodes = costs(make(text, {"w": (4, 4)}))
    assert nodes["m"].times == 9
    assert found.macs == 9 * 32


def test_the_dearer_branch_counts():
    text = """(float[2, 3] x, bool c) => (float[2, 7] z) {
      y = MatMul (x, w)
      z = If (c) <
        then_branch = t () => (float[2, 7] a) { a = MatMul (y, v) },
        else_branch = e () => (float[2, 7] b) { h = MatMul (y, u) b = MatMul (h, s) }
      >
    }"""
    found, nodes = costs(make(text, {"w": (3, 5), "v": (5, 7), "u": (5, 11), "s": (11, 7)}))
    assert found.macs == 30 + 2 * 5 * 11 + 2 * 11 * 7
    assert (nodes["a"].times, nodes["h"].times) == (0, 1)
    assert found.params == 15 + 35 + 55 + 77, "the file holds both branches"


def test_operators_nobody_knows_are_named():
    text = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[2, 3] x) => (float[2, 3] y) { y = acme.Magic (x) }'
    found = profile(onnx.parser.parse_model(text))
    assert found.unknown == ["acme.Magic 'y'"]
    assert found.nodes[0].macs is None


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vit_legacy", "vit_dynamo", "gru", "unet"])
def test_trained_models_follow_the_schema_and_the_report(name):
    from onnxprune.api import prune

    model = load_model(ROOT / "models" / f"{name}.onnx")
    found = profile(model)
    document = json.loads(to_json({"model": name, **found.to_dict()}))
    assert list(Draft202012Validator(schema()).iter_errors(document)) == []
    assert sum(n["macs"] for n in document["nodes"]) == sum(o["macs"] for o in document["ops"]) == found.macs
    shapes = found.shapes
    report = prune(model, ratio=0.25, check=False, shapes=shapes).report
    assert report.macs_before == found.macs, "one counter in the project"
    lines = csv_text(sorted_costs(found, "node", "macs")).splitlines()
    assert len(lines) == len(found.nodes) + 1
    assert lines[1].split(",")[3] == str(max(n.macs for n in found.nodes))


def test_pruning_halves_what_the_profile_counts():
    from onnxprune.api import prune

    model = load_model(ROOT / "models" / "resnet.onnx")
    result = prune(model, ratio=0.5, check=False)
    before, after = profile(model, result.report.shapes), profile(result.model, result.report.shapes)
    assert after.macs == result.report.macs_after
    assert after.peak.bytes < before.peak.bytes
    assert after.weight_bytes < 0.3 * before.weight_bytes
