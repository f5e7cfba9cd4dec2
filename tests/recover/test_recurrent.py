"""Recurrent layers: hidden units and inputs that others can express cost nothing, whatever the direction and the variant."""

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.proof.session import run
from onnxprune.statistics.recurrent import before
from tests.models_text import ints, make

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, WIDTH = 7, 5
SHARED = "its weight is read by several nodes"


def normal(*shape, scale=0.5):
    return (scale * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def samples(n=192, batch=32, lengths=False):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((n, STEPS, WIDTH)).astype(np.float32)
    held = rng.integers(2, STEPS + 1, n).astype(np.int32)
    batches = []
    for k in range(0, n, batch):
        feeds = {"x": x[k : k + batch]}
        if lengths:
            feeds["n"] = held[k : k + batch]
        batches.append(Batch(feeds, batch))
    return Samples(batches, n, "test", False, None)


def lost(model, result, data):
    feeds = {name: a[::-1].copy() for name, a in data.batches[-1].feeds.items()}
    (a,), (b,) = (run(m, feeds, ["y"]) for m in (model, result.model))
    return float(((a - b) ** 2).mean() / a.var())


def pairs(op, directions, hidden=4):
    """Weights of a layer whose units come in pairs that do the same: W, R and B."""
    gates, rng = GATES[op], np.random.default_rng(directions)
    w = rng.standard_normal((directions, gates, hidden, WIDTH)) * 0.5
    r = rng.standard_normal((directions, gates, hidden, 2 * hidden)) * 0.4
    b = rng.standard_normal((directions, 2, gates, hidden)) * 0.5
    w, r, b = np.repeat(w, 2, axis=2), np.repeat(r, 2, axis=2), np.repeat(b, 2, axis=3)
    return [a.reshape(directions, -1, *rest).astype(np.float32) for a, rest in ((w, (WIDTH,)), (r, (2 * hidden,)), (b, ()))]


def layer(op, *, direction="forward", attrs="", state=False, lengths=False, bias=True, last=False, peepholes=False):
    directions = 2 if direction == "bidirectional" else 1
    w, r, b = pairs(op, directions)
    weights = dict(w=w, r=r, o=normal(directions * 8, 3))
    if bias:
        weights["b"] = b
    if state:
        weights |= dict(one=np.ones((directions, 32, 1), np.float32), h=np.repeat(normal(directions, 1, 4), 2, axis=2))
    inputs = ["t", "w", "r", "b" if bias else "", "n" if lengths else "", "s" if state else ""]
    if peepholes:
        weights["p"] = np.repeat(normal(directions, 3, 4), 2, axis=2).reshape(directions, -1)
        inputs += ["", "p"]
    n = 32 if state else "N"
    given = f"float[{n}, 7, 5] x" + (f", int32[{n}] n" if lengths else "")
    first = "s = Mul (one, h)" if state else ""
    outputs, perm, shape = ("unused, z", "[1, 0, 2]", "N, 3") if last else ("z", "[2, 0, 1, 3]", "N, 7, 3")
    weights["flat"] = ints(0, -1) if last else ints(0, 0, -1)
    text = f"""({given}) => (float[{shape}] y) {{
      t = Transpose <perm = [1, 0, 2]> (x)
      {first}
      {outputs} = {op} <direction = "{direction}", {attrs}hidden_size = 8> ({", ".join(inputs).rstrip(", ")})
      u = Transpose <perm = {perm}> (z)
      f = Reshape (u, flat)
      y = MatMul (f, o)
    }}"""
    model = make(text, weights)
    if last:
        model.graph.node[-4].output[0] = ""
    return model


CASES = {
    **{op: dict(op=op) for op in GATES},
    "GRU with the reset gate behind R": dict(op="GRU", attrs="linear_before_reset = 1, "),
    "GRU, reverse": dict(op="GRU", direction="reverse"),
    "LSTM, both directions": dict(op="LSTM", direction="bidirectional"),
    "LSTM, reverse with lengths and states": dict(op="LSTM", direction="reverse", lengths=True, state=True),
    "RNN, both directions, no bias": dict(op="RNN", direction="bidirectional", bias=False),
    "GRU of which only the last state is used": dict(op="GRU", attrs="linear_before_reset = 1, ", last=True),
    "LSTM with peepholes": dict(op="LSTM", peepholes=True),
    "LSTM with input_forget": dict(op="LSTM", attrs="input_forget = 1, "),
}


@pytest.mark.parametrize("name", CASES)
def test_redundant_units_cost_nothing(name):
    """One of each pair stays, and does what both did."""
    model, data = layer(**CASES[name]), samples(lengths=bool(CASES[name].get("lengths")))
    options = dict(ratio=0.5, data=data, criterion="obs")
    bare = onnxprune.prune(model, reconstruct="none", **options)
    result = onnxprune.prune(model, **options)
    fit = result.report.fits[0]
    assert fit.weight == "w" and fit.kind == "lsq" and fit.lost_after < 1e-4 < 1e-2 < fit.lost_before
    assert lost(model, result, data) < 1e-4 < 0.1 < lost(model, bare, data)
    assert result.report.verification.passed


@pytest.mark.parametrize("op", GATES)
def test_redundant_inputs_cost_nothing(op):
    """Channels in front of the layer come in pairs."""
    text = f"""(float[N, 7, 5] x) => (float[7, 1, N, 6] y) {{
      t = Transpose <perm = [1, 0, 2]> (x)
      p = MatMul (t, q)
      a = Relu (p)
      y = {op} <hidden_size = 6> (a, w, r, b)
    }}"""
    g = GATES[op]
    weights = dict(
        q=np.repeat(normal(5, 6), 2, axis=1), w=normal(1, g * 6, 12), r=normal(1, g * 6, 6), b=normal(1, 2 * g * 6)
    )
    model, data = make(text, weights), samples()
    options = dict(ratio=0.5, data=data, criterion="obs")
    bare = onnxprune.prune(model, reconstruct="none", **options)
    result = onnxprune.prune(model, **options)
    assert lost(model, result, data) < 1e-4 < 0.01 < lost(model, bare, data)


def test_nothing_is_kept_that_makes_it_worse():
    """Noise for data: what fits it does not fit other samples, and the node's own output says so."""
    model, data = layer("LSTM"), samples(n=16, batch=16)
    result = onnxprune.prune(model, ratio=0.75, data=data)
    fit = result.report.fits[0]
    assert fit.lost_after <= fit.lost_before and (fit.kind == "none") == (fit.lost_after == fit.lost_before)


def test_gates_that_are_put_in_another_order():
    """As the exporter of torch writes it: four slices of a weight, side by side again in another order."""
    plain, data = layer("LSTM"), samples()
    weights = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    text = """(float[N, 7, 5] x) => (float[N, 7, 3] y) {
      t = Transpose <perm = [1, 0, 2]> (x)
      i, f, c, o4 = Split <axis = 0> (turned, four)
      joined = Concat <axis = 0> (i, o4, f, c)
      r = Unsqueeze (joined, zero)
      z = LSTM <hidden_size = 8> (t, w, r, b)
      u = Transpose <perm = [2, 0, 1, 3]> (z)
      k = Reshape (u, flat)
      y = MatMul (k, o)
    }"""
    turned = weights.pop("r")[0].reshape(4, 8, 8)[[0, 2, 3, 1]].reshape(32, 8)
    model = make(text, weights | dict(turned=turned, four=ints(8, 8, 8, 8), zero=ints(0)))
    result = onnxprune.prune(model, ratio=0.5, data=data)
    assert lost(plain, result, data) < 1e-4 and result.report.fits[0].kind == "lsq"
    assert result.report.verification.passed


def test_states_before_each_step():
    y = np.arange(2 * 2 * 3 * 1, dtype=np.float32).reshape(2, 2, 3, 1) + 1  # (T, D, N, H)
    start = np.full((2, 3, 1), -1, np.float32)
    h = before(y, start, np.array([2, 1, 2]), (False, True))
    assert np.array_equal(h[0, :, 0, 0], [-1, -1, -1]) and np.array_equal(h[1, :, 0, 0], y[0, 0, :, 0])
    assert np.array_equal(h[1, :, 1, 0], [-1, -1, -1]) and np.array_equal(h[0, :, 1, 0], [y[1, 1, 0, 0], -1, y[1, 1, 2, 0]])


def test_shared_and_computed_weights_are_declined():
    text = """(float[N, 7, 5] x) => (float[7, 1, N, 3] y) {
      t = Transpose <perm = [1, 0, 2]> (x)
      v = Mul (u, two)
      p = MatMul (t, q)
      a = LSTM <hidden_size = 8> (p, v, r)
      b = LSTM <hidden_size = 8> (t, w2, r2)
      c = LSTM <hidden_size = 8> (t, w2, r2)
      d = Mul (b, c)
      e = Relu (a)
      f = Concat <axis = 3> (d, e)
      y = MatMul (f, o)
    }"""
    model = make(
        text,
        dict(
            two=np.full((1, 32, 1), 2, np.float32),
            q=(5, 5),
            u=(1, 32, 5),
            r=(1, 32, 8),
            w2=(1, 32, 5),
            r2=(1, 32, 8),
            o=(16, 3),
        ),
    )
    fits = onnxprune.prune(model, ratio=0.5, data=samples(), criterion="l2").report.fits
    reasons = {f.node: f.reason for f in fits}
    assert reasons == {"a": "its weights are computed", "b": SHARED, "c": SHARED, "y": ""}
