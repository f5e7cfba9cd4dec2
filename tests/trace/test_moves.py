"""Operators that rearrange: executed on labels, with the numbers that count slices following."""

import numpy as np
from onnx import numpy_helper

import onnxprune
from tests.models_text import Case, attribute, check, ints, make, node, shapes_of, table, tensors

W = dict(w1=(5, 8), w2=(8, 2))
CUT = dict(w1=(5, 4), w2=(4, 2))


def between(*nodes: str, width: int = 8, inputs: str = "") -> str:
    """Nodes from a (2, 7, 8) to n (2, 7, .), between two MatMul."""
    text = "\n          ".join(nodes)
    return f"""(float[2, 7, 5] x{inputs}) => (float[2, 7, 2] y) {{
          a = MatMul (x, w1)
          {text}
          y = MatMul (n, w2)
        }}"""


def parts(first: str) -> str:
    """`first` makes p (2, 7, 2), q (2, 7, 6); each goes on into its own weight."""
    return f"""(float[2, 7, 5] x) => (float[2, 7, 2] y) {{
          a = MatMul (x, w1)
          {first}
          u = MatMul (p, wp)
          v = MatMul (q, wq)
          y = Add (u, v)
        }}"""


UNEQUAL = dict(w1=(5, 8), wp=(2, 2), wq=(6, 2))
UNEQUAL_CUT = dict(w1=(5, 4), wp=(1, 2), wq=(3, 2))
EQUAL = dict(w1=(5, 8), wp=(4, 2), wq=(4, 2))
EQUAL_CUT = dict(w1=(5, 4), wp=(2, 2), wq=(2, 2))

CASES = [
    # ---- Split ----
    Case(
        "split by attribute",
        parts("p, q = Split <axis = 2, split = [2, 6]> (a)"),
        UNEQUAL,
        ["channel 2", "channel 6"],
        UNEQUAL_CUT,
        attributes={"Split.split": [1, 3]},
        opset=11,
    ),
    Case(
        "split by input",
        parts("p, q = Split <axis = -1> (a, s)"),
        UNEQUAL | dict(s=ints(2, 6)),
        ["channel 2", "channel 6"],
        UNEQUAL_CUT,
        opset=13,
    ),
    Case(
        "split by num_outputs",
        parts("p, q = Split <axis = -1, num_outputs = 2> (a)"),
        EQUAL,
        ["channel 4", "channel 4"],
        EQUAL_CUT,
        opset=18,
    ),
    Case(
        "split into equal parts",
        parts("p, q = Split <axis = -1> (a)"),
        EQUAL,
        ["channel 4", "channel 4"],
        EQUAL_CUT,
        opset=13,
    ),
    Case(
        "split into equal parts in opset 11",
        parts("p, q = Split <axis = 2> (a)"),
        EQUAL,
        ["channel 4", "channel 4"],
        EQUAL_CUT,
        opset=11,
    ),
    Case(
        "split with an unequal last part",
        parts("p, q, r = Split <axis = -1, num_outputs = 3> (a)\n t = Relu (r)\n"),
        dict(w1=(5, 8), wp=(3, 2), wq=(3, 2)),
        ["channel 2", "channel 3", "channel 3"],
        dict(w1=(5, 5), wp=(2, 2), wq=(2, 2)),
        opset=18,
    ),
    # ---- Slice ----
    Case(
        "slice with negative bounds",
        parts("p = Slice (a, zero, minus6, axis)\n q = Slice (a, minus6, end, axis)"),
        UNEQUAL | dict(zero=ints(0), minus6=ints(-6), end=ints(2**63 - 1), axis=ints(-1)),
        ["channel 2", "channel 6"],
        UNEQUAL_CUT,
    ),
    Case(
        "slice by attributes",
        parts(
            "p = Slice <axes = [2], starts = [0], ends = [2]> (a)\n q = Slice <axes = [2], starts = [2], ends = [100]> (a)"
        ),
        UNEQUAL,
        ["channel 2", "channel 6"],
        UNEQUAL_CUT,
        opset=9,
    ),
    Case(
        "slice of several axes at once",
        """(float[2, 7, 5] x) => (float[2, 3, 2] y) {
          a = MatMul (x, w1)
          b = Slice (a, starts, ends, axes)
          y = MatMul (b, w2)
        }""",
        dict(w1=(5, 8), w2=(6, 2), starts=ints(1, 2), ends=ints(4, 8), axes=ints(1, 2)),
        ["channel 2", "channel 6"],
        dict(w1=(5, 4), w2=(3, 2)),
    ),
    Case(
        "slice that reverses",
        between("n = Slice (a, minus, low, axis, minus)"),
        W | dict(minus=ints(-1), low=ints(-(2**62)), axis=ints(2)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "slice with a step ties whole strides",
        between("b = Slice (a, zero, end, axis, two)", "c = Slice (a, one, end, axis, two)", "n = Mul (b, c)"),
        dict(w1=(5, 8), w2=(4, 2), zero=ints(0), one=ints(1), two=ints(2), end=ints(2**63 - 1), axis=ints(2)),
        ["channel 4"],
        dict(w1=(5, 4), w2=(2, 2)),
    ),
    # ---- Gather ----
    Case(
        "gather with constant indices",
        between("n = Gather <axis = 2> (a, i)"),
        dict(w1=(5, 8), w2=(4, 2), i=ints(6, 1, -1, 3)),
        ["channel 4", "channel 4"],
        dict(w1=(5, 4), w2=(2, 2)),
    ),
    Case(
        "gather that repeats",
        between("n = Gather <axis = -1> (a, i)"),
        dict(w1=(5, 4), w2=(8, 2), i=ints(0, 1, 2, 3, 3, 2, 1, 0)),
        ["channel 4"],
        dict(w1=(5, 2), w2=(4, 2)),
    ),
    Case(
        "gather along another axis",
        between("n = Gather <axis = 1> (a, i)"),
        W | dict(i=ints(6, 5, 4, 3, 2, 1, 0)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "gather of one token",
        """(float[2, 7, 5] x) => (float[2, 2] y) {
          a = MatMul (x, w1)
          b = Gather <axis = 1> (a, i)
          y = MatMul (b, w2)
        }""",
        W | dict(i=np.array(0)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "GatherElements along another axis",
        between("n = GatherElements <axis = 1> (a, i)"),
        W | dict(i=np.zeros((2, 7, 8), np.int64)),
        [],
        {},
        frozen={"w1:1": ""},
    ),
    Case(
        "GatherND of positions",
        """(float[2, 7, 5] x, int64[3, 2] i) => (float[3, 2] y) {
          a = MatMul (x, w1)
          b = GatherND (a, i)
          y = MatMul (b, w2)
        }""",
        W,
        ["channel 8"],
        CUT,
    ),
    Case(
        "GatherND with batch axes",
        """(float[2, 7, 5] x) => (float[2, 2] y) {
          a = MatMul (x, w1)
          b = GatherND <batch_dims = 1> (a, i)
          y = MatMul (b, w2)
        }""",
        W | dict(i=np.array([[1], [3]])),
        ["channel 8"],
        CUT,
    ),
    Case(
        "ScatterND of whole rows",
        between("u = MatMul (z, w3)", "n = ScatterND (a, i, u)", inputs=", float[3, 5] z"),
        W | dict(w3=(5, 8), i=np.array([[0, 1], [1, 2], [0, 3]])),
        ["channel 8"],
        CUT | dict(w3=(5, 4)),
    ),
    Case(
        "ScatterElements along the channels keeps them",
        between("n = ScatterElements <axis = 2> (a, i, u)"),
        W | dict(i=np.zeros((2, 7, 1), np.int64), u=np.ones((2, 7, 1), np.float32)),
        [],
        {},
        frozen={"w1:1": "Scatter"},
    ),
    # ---- Concat, Pad, Tile, Expand ----
    Case(
        "concat of parts in another order",
        between("b, c = Split <axis = 2, split = [2, 6]> (a)", "n = Concat <axis = 2> (c, b)"),
        W,
        ["channel 8"],
        CUT,
        opset=11,
    ),
    Case(
        "pad of channels adds channels of its own",
        between("n = Pad (a, pads)"),
        dict(w1=(5, 8), w2=(12, 2), pads=ints(0, 0, 1, 0, 0, 3)),
        ["channel 4", "channel 8"],
        dict(w1=(5, 4), w2=(6, 2)),
    ),
    Case(
        "pad of channels with a number",
        between("n = Pad (a, pads, c)"),
        dict(w1=(5, 8), w2=(9, 2), pads=ints(0, 0, 1, 0, 0, 0), c=np.array(2.5, np.float32)),
        ["channel 1", "channel 8"],
        dict(w1=(5, 4), w2=(5, 2)),
    ),
    Case(
        "pad by attributes",
        between("n = Pad <pads = [0, 0, 2, 0, 0, 0]> (a)"),
        dict(w1=(5, 8), w2=(10, 2)),
        ["channel 2", "channel 8"],
        dict(w1=(5, 4), w2=(5, 2)),
        opset=9,
    ),
    Case(
        "pad of positions only",
        between("b = Pad (a, pads)", "n = Slice (b, one, end, one)"),
        W | dict(pads=ints(0, 1, 0, 0, 0, 0), one=ints(1), end=ints(100)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "tile of channels",
        between("n = Tile (a, r)"),
        dict(w1=(5, 4), w2=(12, 2), r=ints(1, 1, 3)),
        ["channel 4"],
        dict(w1=(5, 2), w2=(6, 2)),
    ),
    Case(
        "expand of another axis",
        """(float[2, 1, 5] x) => (float[2, 7, 2] y) {
          a = MatMul (x, w1)
          n = Expand (a, s)
          y = MatMul (n, w2)
        }""",
        W | dict(s=ints(2, 7, 8)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "expand of a channel vector",
        between("b = Expand (c, s)", "n = Add (a, b)"),
        W | dict(c=(8,), s=ints(2, 7, 8)),
        ["channel 8"],
        CUT | dict(c=(4,)),
    ),
    # ---- Reshape and relatives ----
    Case(
        "transpose, reshape and back",
        between(
            "t = Transpose <perm = [2, 0, 1]> (a)",
            "r = Reshape (t, flat)",
            "u = Relu (r)",
            "v = Reshape (u, back)",
            "n = Transpose <perm = [1, 2, 0]> (v)",
        ),
        W | dict(flat=ints(8, 14), back=ints(8, 2, 7)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "window partition touches no channel",
        """(float[2, 4, 6, 5] x) => (float[2, 4, 6, 2] y) {
          a = MatMul (x, w1)
          b = Reshape (a, s1)
          c = Transpose <perm = [0, 1, 3, 2, 4, 5]> (b)
          d = Reshape (c, s2)
          e = Gelu (d)
          f = Reshape (e, s3)
          g = Transpose <perm = [0, 1, 3, 2, 4, 5]> (f)
          h = Reshape (g, s4)
          y = MatMul (h, w2)
        }""",
        W | dict(s1=ints(2, 2, 2, 3, 2, 8), s2=ints(12, 4, 8), s3=ints(2, 2, 3, 2, 2, 8), s4=ints(2, 4, 6, 8)),
        ["channel 8"],
        CUT,
        opset=20,
    ),
    Case(
        "patch merging: a channel appears four times",
        """(float[2, 4, 6, 5] x) => (float[2, 2, 3, 2] y) {
          a = MatMul (x, w1)
          b = Slice (a, z, e, ax, st)
          c = Slice (a, o1, e, ax, st)
          d = Slice (a, o2, e, ax, st)
          f = Slice (a, o3, e, ax, st)
          g = Concat <axis = -1> (b, c, d, f)
          y = MatMul (g, w2)
        }""",
        dict(
            w1=(5, 6),
            w2=(24, 2),
            z=ints(0, 0),
            o1=ints(1, 0),
            o2=ints(0, 1),
            o3=ints(1, 1),
            e=ints(9, 9),
            ax=ints(1, 2),
            st=ints(2, 2),
        ),
        ["channel 6"],
        dict(w1=(5, 3), w2=(12, 2)),
    ),
    Case(
        "squeeze and unsqueeze",
        between("u = Unsqueeze (a, one)", "t = Tanh (u)", "n = Squeeze (t, one)"),
        W | dict(one=ints(1)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "unsqueeze by attribute",
        between("u = Unsqueeze <axes = [0, 3]> (a)", "n = Squeeze <axes = [0, 3]> (u)"),
        W,
        ["channel 8"],
        CUT,
        opset=11,
    ),
    Case(
        "flatten in the middle",
        """(float[2, 3, 5] x) => (float[2, 2] y) {
          a = MatMul (x, w1)
          b = Flatten <axis = 1> (a)
          y = Gemm (b, w2)
        }""",
        dict(w1=(5, 8), w2=(24, 2)),
        ["channel 8"],
        dict(w1=(5, 4), w2=(12, 2)),
    ),
    # ---- Resize ----
    Case(
        "resize by scales",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1)
          b = Resize <mode = "nearest"> (a, , s)
          y = Conv (b, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1), s=np.array([1, 1, 2, 2], np.float32)),
        ["channel 8"],
        {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)},
    ),
    Case(
        "resize by sizes, which name the channels too",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1)
          b = Resize <mode = "linear"> (a, , , s)
          y = Conv (b, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1), s=ints(2, 8, 8, 8)),
        ["channel 8"],
        {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)},
    ),
    Case(
        "resize of some axes",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1)
          b = Resize <axes = [2, 3]> (a, , , s)
          y = Conv (b, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1), s=ints(8, 8)),
        ["channel 8"],
        {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)},
        opset=18,
    ),
    Case(
        "upsample",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1)
          b = Upsample <mode = "nearest"> (a, s)
          y = Conv (b, w2)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(2, 8, 1, 1), s=np.array([1, 1, 2, 2], np.float32)),
        ["channel 8"],
        {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)},
        opset=9,
    ),
    # ---- target lengths from shapes ----
    Case(
        "Concat(Shape(x)[0], 4, 2) as a target",
        """(float[N, T, 5] x) => (float[N, T, 2] y) {
          a = MatMul (x, w1)
          s = Shape (x)
          n = Gather (s, zero)
          t = Gather (s, one)
          nu = Unsqueeze (n, ax)
          tu = Unsqueeze (t, ax)
          s1 = Concat <axis = 0> (nu, tu, heads, dim)
          b = Reshape (a, s1)
          c = Transpose <perm = [0, 2, 1, 3]> (b)
          d = Relu (c)
          e = Transpose <perm = [0, 2, 1, 3]> (d)
          s2 = Concat <axis = 0> (nu, tu, all)
          f = Reshape (e, s2)
          y = MatMul (f, w2)
        }""",
        W | dict(zero=np.array(0), one=np.array(1), ax=ints(0), heads=ints(4), dim=ints(2), all=ints(8)),
        ["conv-groups 4"],
        CUT,
    ),
    Case(
        "head count by dividing the width",
        """(float[N, T, 5] x) => (float[N, T, 2] y) {
          a = MatMul (x, w1)
          s = Shape (a)
          n = Gather (s, zero)
          t = Gather (s, one)
          c = Gather (s, two)
          h = Div (c, dim)
          nu = Unsqueeze (n, ax)
          tu = Unsqueeze (t, ax)
          hu = Unsqueeze (h, ax)
          du = Unsqueeze (dim, ax)
          s1 = Concat <axis = 0> (nu, tu, hu, du)
          b = Reshape (a, s1)
          d = Softmax <axis = -1> (b)
          g = Mul (b, d)
          cu = Unsqueeze (c, ax)
          s2 = Concat <axis = 0> (nu, tu, cu)
          f = Reshape (g, s2)
          y = MatMul (f, w2)
        }""",
        W | dict(zero=np.array(0), one=np.array(1), two=np.array(2), dim=np.array(2), ax=ints(0)),
        ["conv-groups 4"],
        CUT,
    ),
    Case(
        "ConstantOfShape of a pruned length",
        between("s = Shape (a)", "c = ConstantOfShape <value = float[1] {2.0}> (s)", "n = Add (a, c)"),
        W,
        ["channel 8"],
        CUT,
        own_oracle=False,
    ),
    Case(
        "ConstantOfShape of constants",
        between("c = ConstantOfShape <value = float[1] {2.0}> (s)", "n = Add (a, c)"),
        W | dict(s=ints(2, 7, 8)),
        ["channel 8"],
        CUT,
        own_oracle=False,
    ),
    Case(
        "Expand to the shape of a pruned tensor",
        between("s = Shape (a)", "c = Expand (v, s)", "n = Mul (a, c)"),
        W | dict(v=(8,)),
        ["channel 8"],
        CUT | dict(v=(4,)),
    ),
    Case(
        "one constant for a pruned and an unpruned length",
        """(float[8, 7, 5] x) => (float[8, 7, 2] y) {
          a = MatMul (x, w1)
          b = Reshape (a, s)
          c = Relu (b)
          n = Reshape (c, t)
          y = MatMul (n, w2)
        }""",
        W | dict(s=ints(8, 7, 8), t=ints(8, 7, 8)),
        ["channel 8"],
        CUT,
    ),
    Case(
        "Range over a pruned length is what it is",
        """(float[2, 7, 5] x) => (float[2, 7, 2] y) {
          a = MatMul (x, w1)
          s = Shape (a)
          t = Gather (s, one)
          r = Range (zero, t, one)
          c = Gather <axis = 1> (a, r)
          y = MatMul (c, w2)
        }""",
        W | dict(zero=np.array(0), one=np.array(1)),
        ["channel 8"],
        CUT,
    ),
]


@table(CASES)
def test_move(case):
    check(case)


def test_split_sizes_are_rewritten():
    case = next(c for c in CASES if c.id == "split by input")
    result = check(case)
    sizes = numpy_helper.to_array(tensors(result.model)[node(result.model, "Split").input[1]])
    assert sizes.tolist() == [1, 3]


def test_unequal_parts_get_sizes():
    """Parts that are not equal any more can't be left to `num_outputs`."""
    case = next(c for c in CASES if c.id == "split by num_outputs")
    result = onnxprune.prune(case.model, ratio=0.5, ignore=["wp"])
    assert attribute(result.model, "Split", "num_outputs") is None
    sizes = numpy_helper.to_array(tensors(result.model)[node(result.model, "Split").input[1]])
    assert sizes.tolist() == [4, 2]
    assert result.report.put_back == []


def test_only_the_pruned_length_of_a_shared_constant_changes():
    """The constant 8 is a batch size and a width: the batch stays 8."""
    model = make(
        """(float[8, 7, 5] x) => (float[8, 7, 2] y) {
          a = MatMul (x, w1)
          s = Concat <axis = 0> (eight, seven, eight)
          b = Reshape (a, s)
          y = MatMul (b, w2)
        }""",
        W | dict(eight=ints(8), seven=ints(7)),
    )
    result = onnxprune.prune(model, ratio=0.5)
    assert result.report.put_back == []
    assert shapes_of(result.model) == CUT


def test_reshape_target_from_data_freezes():
    model = make(
        """(float[2, 7, 5] x, int64[3] s) => (float[2, 7, 2] y) {
          a = MatMul (x, w1)
          b = Reshape (a, s)
          y = MatMul (b, w2)
        }""",
        W,
    )
    groups = onnxprune.analyze(model)
    assert groups.groups == []
    assert next(f.reason for f in groups.frozen if (f.weight, f.axis) == ("w1", 1)) != ""
