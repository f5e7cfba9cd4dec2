"""LSTM, GRU and RNN: a hidden unit is one slice of every gate, of the recurrence and of the state."""

import onnxprune
from tests.models_text import Case, attribute, check, ints, make, shapes_of, table

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def net(op: str, *, directions: int = 1, bias: bool = True, state: str = "", attrs: str = "") -> Case:
    """One layer of 6 hidden units between the graph input and a MatMul."""
    gates = GATES[op]
    direction = 'direction = "bidirectional", ' if directions == 2 else ""
    weights = dict(w=(directions, gates * 6, 5), r=(directions, gates * 6, 6), o=(directions * 6, 2))
    cut = dict(w=(directions, gates * 3, 5), r=(directions, gates * 3, 3), o=(directions * 3, 2))
    ins = "x, w, r, "
    if bias:
        weights["b"], cut["b"] = (directions, 2 * gates * 6), (directions, 2 * gates * 3)
        ins += "b"
    ins += f", {state}" if state else ""
    return Case(
        f"{op}, {directions} direction(s), bias {bias}, {state or 'no state'} {attrs}".strip(),
        f"""(float[7, 2, 5] x) => (float[7, 2, 2] y) {{
          s = {op} <{direction}{attrs}hidden_size = 6> ({ins.rstrip(", ")})
          t = Transpose <perm = [0, 2, 1, 3]> (s)
          f = Reshape (t, flat)
          y = MatMul (f, o)
        }}""",
        weights | dict(flat=ints(0, 0, -1)),
        ["channel 6"] if directions == 1 else ["group-channels 6"],
        cut,
        attributes={f"{op}.hidden_size": 3},
    )


CASES = [net(op, directions=d, bias=b) for op in GATES for d in (1, 2) for b in (True, False)]
CASES.append(net("GRU", attrs="linear_before_reset = 1, "))
CASES += [
    Case(
        "LSTM with all optional inputs",
        """(float[7, 2, 5] x, int32[2] n) => (float[7, 1, 2, 2] y) {
          s = LSTM <hidden_size = 6> (x, w, r, b, n, h, c, p)
          y = MatMul (s, o)
        }""",
        dict(w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), h=(1, 2, 6), c=(1, 2, 6), p=(1, 18), o=(6, 2)),
        ["channel 6"],
        dict(w=(1, 12, 5), r=(1, 12, 3), b=(1, 24), h=(1, 2, 3), c=(1, 2, 3), p=(1, 9), o=(3, 2)),
        attributes={"LSTM.hidden_size": 3},
    ),
    Case(
        "LSTM with states that are zeros of a computed shape",
        """(float[T, B, 5] x) => (float[T, D, B, 2] y) {
          sh = Shape (x)
          n = Slice (sh, one, two)
          z = Concat <axis = 0> (one, n, hidden)
          c0 = ConstantOfShape (z)
          s, h, c = LSTM <hidden_size = 6> (x, w, r, b, , c0, c0)
          y = MatMul (s, o)
        }""",
        dict(w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), o=(6, 2), one=ints(1), two=ints(2), hidden=ints(6)),
        ["channel 6"],
        dict(w=(1, 12, 5), r=(1, 12, 3), b=(1, 24), o=(3, 2)),
        attributes={"LSTM.hidden_size": 3},
        own_oracle=False,
    ),
    Case(
        "stacked: the units of one layer are the inputs of the next",
        """(float[7, 2, 5] x) => (float[1, 2, 2] y) {
          s0 = LSTM <hidden_size = 6> (x, w, r, b)
          s = Squeeze (s0, one)
          t, h = GRU <hidden_size = 8> (s, u, v)
          y = MatMul (h, o)
        }""",
        dict(w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), u=(1, 24, 6), v=(1, 24, 8), o=(8, 2), one=ints(1)),
        ["channel 6", "channel 8"],
        dict(w=(1, 12, 5), r=(1, 12, 3), b=(1, 24), u=(1, 12, 3), v=(1, 12, 4), o=(4, 2)),
        attributes={"LSTM.hidden_size": 3, "GRU.hidden_size": 4},
    ),
    Case(
        "stacked and bidirectional: both directions lose as many",
        """(float[7, 2, 5] x) => (float[7, 2, 2] y) {
          s0 = LSTM <direction = "bidirectional", hidden_size = 6> (x, w, r, b)
          s1 = Transpose <perm = [0, 2, 1, 3]> (s0)
          s = Reshape (s1, flat)
          t0 = RNN <hidden_size = 4> (s, u, v)
          t = Squeeze (t0, one)
          y = MatMul (t, o)
        }""",
        dict(w=(2, 24, 5), r=(2, 24, 6), b=(2, 48), u=(1, 4, 12), v=(1, 4, 4), o=(4, 2), one=ints(1), flat=ints(7, 2, 12)),
        ["group-channels 6", "channel 4"],
        dict(w=(2, 12, 5), r=(2, 12, 3), b=(2, 24), u=(1, 2, 6), v=(1, 2, 2), o=(2, 2)),
        attributes={"LSTM.hidden_size": 3, "RNN.hidden_size": 2},
    ),
    Case(
        "states from outside keep the units",
        """(float[7, 2, 5] x, float[1, 2, 6] i) => (float[7, 1, 2, 2] y) {
          s = GRU <hidden_size = 6> (x, w, r, b, , i)
          y = MatMul (s, o)
        }""",
        dict(w=(1, 18, 5), r=(1, 18, 6), b=(1, 36), o=(6, 2)),
        [],
        {},
        frozen={"w:1": "graph input 'i'", "r:2": "graph input 'i'"},
    ),
    Case(
        "encoder and decoder: the final state is the initial one",
        """(float[7, 2, 5] x, float[4, 2, 3] z) => (float[4, 1, 2, 2] y) {
          s, h, c = LSTM <hidden_size = 6> (x, w, r, b)
          t = LSTM <hidden_size = 6> (z, u, v, , , h, c)
          y = MatMul (t, o)
        }""",
        dict(w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), u=(1, 24, 3), v=(1, 24, 6), o=(6, 2)),
        ["channel 6"],
        dict(w=(1, 12, 5), r=(1, 12, 3), b=(1, 24), u=(1, 12, 3), v=(1, 12, 3), o=(3, 2)),
    ),
    Case(
        "in front of a projection: inputs of the cell go",
        """(float[7, 2, 5] x) => (float[7, 1, 2, 6] s) {
          p = MatMul (x, q)
          a = Relu (p)
          s = LSTM <hidden_size = 6> (a, w, r, b)
        }""",
        dict(q=(5, 8), w=(1, 24, 8), r=(1, 24, 6), b=(1, 48)),
        ["channel 8"],
        dict(q=(5, 4), w=(1, 24, 4)),
        frozen={"r:2": "graph output 's'"},
    ),
]


@table(CASES)
def test_recurrent(case):
    check(case)


def test_layout_1_is_batch_first():
    """ONNX Runtime has no kernel for it: the result is not verified, and says so."""
    body = """(float[2, 7, 5] x) => (float[2, 7, 1, 2] y, float[2, 1, 2] v) {
      s, h = GRU <layout = 1, hidden_size = 6> (x, w, r, b, , i)
      y = MatMul (s, o)
      v = MatMul (h, o)
    }"""
    weights = dict(w=(1, 18, 5), r=(1, 18, 6), b=(1, 36), i=(2, 1, 6), o=(6, 2))
    model = make(body, weights)
    result = onnxprune.prune(model, ratio=0.5)
    assert shapes_of(result.model) == dict(w=(1, 9, 5), r=(1, 9, 3), b=(1, 18), i=(2, 1, 3), o=(3, 2))
    assert attribute(result.model, "GRU", "hidden_size") == 3
    assert result.report.verification is None and "can't run the source" in result.report.unverified
