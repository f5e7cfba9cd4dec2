"""Convolutions and what works per channel on images, each pruned as a small model."""

import numpy as np

import onnxprune
from tests.models_text import Case, check, make, table

CONV = [
    Case(
        "conv",
        """(float[2, 3, 8, 8] x) => (float[2, 4, 4, 4] y) {
          a = Conv (x, w1, b1)
          b = Relu (a)
          y = Conv (b, w2, b2)
        }""",
        dict(w1=(8, 3, 3, 3), b1=(8,), w2=(4, 8, 3, 3), b2=(4,)),
        ["channel 8"],
        dict(w1=(4, 3, 3, 3), b1=(4,), w2=(4, 4, 3, 3)),
        frozen={"w1:1": "graph input 'x'", "w2:0": "reaches graph output 'y'", "b2:0": "reaches graph output 'y'"},
    ),
    Case(
        "conv-1d",
        """(float[2, 3, 9] x) => (float[2, 4, 7] y) {
          a = Conv <pads = [1, 1]> (x, w1, b1)
          b = Sigmoid (a)
          y = Conv (b, w2)
        }""",
        dict(w1=(6, 3, 3), b1=(6,), w2=(4, 6, 3)),
        ["channel 6"],
        dict(w1=(3, 3, 3), b1=(3,), w2=(4, 3, 3)),
    ),
    Case(
        "conv-3d",
        """(float[1, 2, 5, 5, 5] x) => (float[1, 3, 3, 3, 3] y) {
          a = Conv (x, w1)
          b = Tanh (a)
          y = Conv (b, w2)
        }""",
        dict(w1=(6, 2, 3, 3, 3), w2=(3, 6, 1, 1, 1)),
        ["channel 6"],
        dict(w1=(3, 2, 3, 3, 3), w2=(3, 3, 1, 1, 1)),
    ),
    Case(
        "residual: what is added goes together",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1, b1)
          b = Conv <pads = [1, 1, 1, 1]> (a, w2)
          c = Relu (b)
          d = Conv <pads = [1, 1, 1, 1]> (c, w3)
          e = Add (a, d)
          y = Conv (e, w4)
        }""",
        dict(w1=(8, 3, 1, 1), b1=(8,), w2=(6, 8, 3, 3), w3=(8, 6, 3, 3), w4=(2, 8, 1, 1)),
        ["channel 8", "channel 6"],
        dict(w1=(4, 3, 1, 1), b1=(4,), w2=(3, 4, 3, 3), w3=(4, 3, 3, 3), w4=(2, 4, 1, 1)),
    ),
    Case(
        "grouped conv: whole groups, or as many channels in each",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1, b1)
          b = Conv <group = 4> (a, w2, b2)
          y = Conv (b, w3)
        }""",
        dict(w1=(16, 3, 1, 1), b1=(16,), w2=(8, 4, 3, 3), b2=(8,), w3=(2, 8, 1, 1)),
        ["group-channels 4", "group-channels 2"],
        dict(w1=(8, 3, 1, 1), b1=(8,), w2=(4, 2, 3, 3), b2=(4,), w3=(2, 4, 1, 1)),
    ),
    Case(
        "grouped conv with one channel per group and side is depthwise",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1, b1)
          b = Conv <group = 8> (a, w2, b2)
          y = Conv (b, w3)
        }""",
        dict(w1=(8, 3, 1, 1), b1=(8,), w2=(8, 1, 3, 3), b2=(8,), w3=(2, 8, 1, 1)),
        ["channel 8"],
        dict(w1=(4, 3, 1, 1), b1=(4,), w2=(4, 1, 3, 3), b2=(4,), w3=(2, 4, 1, 1)),
        attributes={"Conv#1.group": 4},
    ),
    Case(
        "depthwise with multiplier: input c takes outputs c*m .. c*m + m - 1 along",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          b = Conv <group = 4> (a, w2, b2)
          y = Conv (b, w3)
        }""",
        dict(w1=(4, 3, 1, 1), w2=(12, 1, 3, 3), b2=(12,), w3=(2, 12, 1, 1)),
        ["channel 4"],
        dict(w1=(2, 3, 1, 1), w2=(6, 1, 3, 3), b2=(6,), w3=(2, 6, 1, 1)),
        attributes={"Conv#1.group": 2},
    ),
    Case(
        "one channel and group 1 is not depthwise",
        """(float[2, 1, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv <group = 1> (x, w1)
          y = Conv (a, w2)
        }""",
        dict(w1=(8, 1, 3, 3), w2=(2, 8, 1, 1)),
        ["channel 8"],
        dict(w1=(4, 1, 3, 3), w2=(2, 4, 1, 1)),
        attributes={"Conv.group": 1},
    ),
    Case(
        "depthwise chain goes as one",
        """(float[2, 3, 8, 8] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          b = Conv <group = 6> (a, w2)
          c = Relu (b)
          d = Conv <group = 6> (c, w3, b3)
          y = Conv (d, w4)
        }""",
        dict(w1=(6, 3, 1, 1), w2=(6, 1, 3, 3), w3=(6, 1, 3, 3), b3=(6,), w4=(2, 6, 1, 1)),
        ["channel 6"],
        dict(w1=(3, 3, 1, 1), w2=(3, 1, 3, 3), w3=(3, 1, 3, 3), b3=(3,), w4=(2, 3, 1, 1)),
        attributes={"Conv#1.group": 3, "Conv#2.group": 3},
    ),
    Case(
        "depthwise on the graph input can't shrink",
        """(float[2, 4, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv <group = 4> (x, w1)
          y = Conv (a, w2)
        }""",
        dict(w1=(4, 1, 3, 3), w2=(2, 4, 1, 1)),
        [],
        {},
        frozen={"w1:0": "groups that can't be removed", "w2:1": "groups that can't be removed", "w2:0": "graph output"},
    ),
    Case(
        "grouped conv on the graph input: outputs of a group go in equal numbers",
        """(float[2, 4, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv <group = 2> (x, w1, b1)
          y = Conv (a, w2)
        }""",
        dict(w1=(8, 2, 3, 3), b1=(8,), w2=(2, 8, 1, 1)),
        ["group-channels 4"],
        dict(w1=(4, 2, 3, 3), b1=(4,), w2=(2, 4, 1, 1)),
        attributes={"Conv.group": 2},
    ),
    Case(
        "conv transpose: weight (C_in, C_out, ...)",
        """(float[2, 3, 5, 5] x) => (float[2, 2, 9, 9] y) {
          a = ConvTranspose (x, w1, b1)
          b = Relu (a)
          y = ConvTranspose (b, w2)
        }""",
        dict(w1=(3, 8, 3, 3), b1=(8,), w2=(8, 2, 3, 3)),
        ["channel 8"],
        dict(w1=(3, 4, 3, 3), b1=(4,), w2=(4, 2, 3, 3)),
        frozen={"w1:0": "graph input", "w2:1": "graph output"},
    ),
    Case(
        "conv transpose 1-D and 3-D",
        """(float[2, 3, 5] x, float[1, 2, 3, 3, 3] z) => (float[2, 2, 9] y, float[1, 2, 4, 4, 4] v) {
          a = ConvTranspose (x, w1)
          y = ConvTranspose (a, w2)
          b = ConvTranspose (z, w3)
          v = Conv (b, w4)
        }""",
        dict(w1=(3, 8, 3), w2=(8, 2, 3), w3=(2, 4, 2, 2, 2), w4=(2, 4, 1, 1, 1)),
        ["channel 8", "channel 4"],
        dict(w1=(3, 4, 3), w2=(4, 2, 3), w3=(2, 2, 2, 2, 2), w4=(2, 2, 1, 1, 1)),
    ),
    Case(
        "grouped conv transpose",
        """(float[2, 3, 5, 5] x) => (float[2, 2, 7, 7] y) {
          a = Conv (x, w1)
          b = ConvTranspose <group = 2> (a, w2, b2)
          y = Conv (b, w3)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(8, 3, 3, 3), b2=(6,), w3=(2, 6, 1, 1)),
        ["group-channels 4", "group-channels 3"],
        dict(w1=(4, 3, 1, 1), w2=(4, 2, 3, 3), b2=(4,), w3=(2, 4, 1, 1)),
        attributes={"ConvTranspose.group": 2},
    ),
    Case(
        "depthwise conv transpose with multiplier",
        """(float[2, 3, 5, 5] x) => (float[2, 2, 7, 7] y) {
          a = Conv (x, w1)
          b = ConvTranspose <group = 4> (a, w2, b2)
          y = Conv (b, w3)
        }""",
        dict(w1=(4, 3, 1, 1), w2=(4, 2, 3, 3), b2=(8,), w3=(2, 8, 1, 1)),
        ["channel 4"],
        dict(w1=(2, 3, 1, 1), w2=(2, 2, 3, 3), b2=(4,), w3=(2, 4, 1, 1)),
        attributes={"ConvTranspose.group": 2},
    ),
    Case(
        "fused conv with activation and sum",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          s = Conv (x, w0)
          a = com.microsoft.FusedConv <activation = "Relu"> (x, w1, b1, s)
          y = com.microsoft.FusedConv <activation = "Tanh"> (a, w2)
        }""",
        dict(w0=(8, 3, 3, 3), w1=(8, 3, 3, 3), b1=(8,), w2=(2, 8, 1, 1)),
        ["channel 8"],
        dict(w0=(4, 3, 3, 3), w1=(4, 3, 3, 3), b1=(4,), w2=(2, 4, 1, 1)),
        ms=True,
    ),
    Case(
        "pools pass channels",
        """(float[2, 3, 9, 9] x) => (float[2, 2] y) {
          a = Conv (x, w1, b1)
          b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
          c = AveragePool <kernel_shape = [2, 2]> (b)
          d = LpPool <kernel_shape = [2, 2]> (c)
          e = GlobalAveragePool (d)
          f = GlobalMaxPool (d)
          g = Add (e, f)
          h = Flatten (g)
          y = Gemm (h, w2, b2)
        }""",
        dict(w1=(8, 3, 1, 1), b1=(8,), w2=(8, 2), b2=(2,)),
        ["channel 8"],
        dict(w1=(4, 3, 1, 1), b1=(4,), w2=(4, 2)),
        opset=18,
    ),
    Case(
        "flatten of C*H*W into Gemm: a channel is a block of columns",
        """(float[2, 3, 5, 5] x) => (float[2, 2] y) {
          a = Conv (x, w1)
          b = Flatten (a)
          y = Gemm <transB = 1> (b, w2, b2)
        }""",
        dict(w1=(8, 3, 3, 3), w2=(2, 72), b2=(2,)),
        ["channel 8"],
        dict(w1=(4, 3, 3, 3), w2=(2, 36)),
    ),
    Case(
        "squeeze and excite gate",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          p = GlobalAveragePool (a)
          s = Conv (p, s1, t1)
          r = Relu (s)
          e = Conv (r, s2, t2)
          g = Sigmoid (e)
          m = Mul (a, g)
          y = Conv (m, w2)
        }""",
        dict(w1=(8, 3, 1, 1), s1=(4, 8, 1, 1), t1=(4,), s2=(8, 4, 1, 1), t2=(8,), w2=(2, 8, 1, 1)),
        ["channel 8", "channel 4"],
        dict(w1=(4, 3, 1, 1), s1=(2, 4, 1, 1), t1=(2,), s2=(4, 2, 1, 1), t2=(4,), w2=(2, 4, 1, 1)),
    ),
    Case(
        "dense reuse Concat(a, a): one channel twice",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          b = Concat <axis = 1> (a, a)
          c = Conv (b, w2)
          d = Concat <axis = 1> (b, c)
          y = Conv (d, w3)
        }""",
        dict(w1=(4, 3, 1, 1), w2=(6, 8, 1, 1), w3=(2, 14, 1, 1)),
        ["channel 4", "channel 6"],
        dict(w1=(2, 3, 1, 1), w2=(3, 4, 1, 1), w3=(2, 7, 1, 1)),
    ),
    Case(
        "concat with the graph input",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          b = Concat <axis = -3> (x, a)
          y = Conv (b, w2)
        }""",
        dict(w1=(4, 3, 1, 1), w2=(2, 7, 1, 1)),
        ["channel 4"],
        dict(w1=(2, 3, 1, 1), w2=(2, 5, 1, 1)),
        frozen={"w2:1": "Concat"},
    ),
    Case(
        "channel shuffle, square",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          b = Reshape (a, split)
          c = Transpose <perm = [0, 2, 1, 3, 4]> (b)
          d = Reshape (c, merge)
          e = Conv <group = 16> (d, w2)
          y = Conv (e, w3)
        }""",
        dict(
            w1=(16, 3, 1, 1),
            w2=(16, 1, 3, 3),
            w3=(2, 16, 1, 1),
            split=np.array([2, 4, 4, 6, 6]),
            merge=np.array([2, 16, 6, 6]),
        ),
        ["conv-groups 4"],
        dict(w1=(8, 3, 1, 1), w2=(8, 1, 3, 3), w3=(2, 8, 1, 1)),
    ),
    Case(
        "pixel shuffle DCR: b * b channels go together",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1, b1)
          b = DepthToSpace <blocksize = 2, mode = "DCR"> (a)
          y = Conv (b, w2)
        }""",
        dict(w1=(24, 3, 1, 1), b1=(24,), w2=(2, 6, 1, 1)),
        ["channel 6"],
        dict(w1=(12, 3, 1, 1), b1=(12,), w2=(2, 3, 1, 1)),
    ),
    Case(
        "pixel shuffle CRD",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 8, 8] y) {
          a = Conv (x, w1, b1)
          b = DepthToSpace <blocksize = 2, mode = "CRD"> (a)
          y = Conv (b, w2)
        }""",
        dict(w1=(24, 3, 1, 1), b1=(24,), w2=(2, 6, 1, 1)),
        ["channel 6"],
        dict(w1=(12, 3, 1, 1), b1=(12,), w2=(2, 3, 1, 1)),
    ),
    Case(
        "pixel shuffle in pieces",
        """(float[2, 3, 4, 5] x) => (float[2, 2, 8, 10] y) {
          a = Conv (x, w1, b1)
          b = Reshape (a, split)
          c = Transpose <perm = [0, 1, 4, 2, 5, 3]> (b)
          d = Reshape (c, merge)
          y = Conv (d, w2)
        }""",
        dict(w1=(24, 3, 1, 1), b1=(24,), w2=(2, 6, 1, 1), split=np.array([2, 6, 2, 2, 4, 5]), merge=np.array([2, 6, 8, 10])),
        ["conv-groups 6"],
        dict(w1=(12, 3, 1, 1), b1=(12,), w2=(2, 3, 1, 1)),
    ),
    Case(
        "space to depth",
        """(float[2, 3, 4, 4] x) => (float[2, 2, 2, 2] y) {
          a = Conv (x, w1, b1)
          b = SpaceToDepth <blocksize = 2> (a)
          y = Conv (b, w2)
        }""",
        dict(w1=(6, 3, 1, 1), b1=(6,), w2=(2, 24, 1, 1)),
        ["channel 6"],
        dict(w1=(3, 3, 1, 1), b1=(3,), w2=(2, 12, 1, 1)),
    ),
    Case(
        "siamese: a weight used twice is sliced once",
        """(float[2, 3, 6, 6] x, float[2, 3, 6, 6] z) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1, b1)
          b = Conv (z, w1, b1)
          c = Relu (a)
          d = Relu (b)
          e = Sub (c, d)
          y = Conv (e, w2)
        }""",
        dict(w1=(8, 3, 3, 3), b1=(8,), w2=(2, 8, 1, 1)),
        ["channel 8"],
        dict(w1=(4, 3, 3, 3), b1=(4,), w2=(2, 4, 1, 1)),
    ),
    Case(
        "a weight used twice in a row: both its axes are one",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 6, 6] y) {
          a = Conv (x, w1)
          b = Conv (a, w2, b2)
          c = Relu (b)
          d = Conv (c, w2, b2)
          y = Conv (d, w3)
        }""",
        dict(w1=(8, 3, 1, 1), w2=(8, 8, 1, 1), b2=(8,), w3=(2, 8, 1, 1)),
        ["channel 8"],
        dict(w1=(4, 3, 1, 1), w2=(4, 4, 1, 1), b2=(4,), w3=(2, 4, 1, 1)),
    ),
    Case(
        "quantized convolution stays",
        """(float[2, 3, 6, 6] x) => (uint8[2, 4, 4, 4] y) {
          a = Conv (x, w1)
          q = QuantizeLinear (a, s, z)
          y = QLinearConv (q, s, z, wq, s, zw, s, z)
        }""",
        dict(
            w1=(8, 3, 1, 1),
            wq=np.ones((4, 8, 3, 3), np.int8),
            s=np.array(0.1, np.float32),
            z=np.array(3, np.uint8),
            zw=np.array(0, np.int8),
        ),
        [],
        {},
        frozen={"w1:0": "computes in integers"},
    ),
    Case(
        "integer convolution stays",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          q, s, z = DynamicQuantizeLinear (a)
          i = ConvInteger (q, wq, z)
          f = Cast <to = 1> (i)
          g = Mul (f, s)
          h = Relu (g)
          y = Conv (h, w2)
        }""",
        dict(w1=(8, 3, 1, 1), wq=np.ones((4, 8, 3, 3), np.int8), w2=(2, 4, 1, 1)),
        [],
        {},
        frozen={"w1:0": "computes in integers", "w2:1": "reads"},
    ),
]


@table(CONV)
def test_convolution(case):
    check(case)


def test_channel_shuffle_that_straddles_blocks():
    """Transposing (2, 6) to (6, 2) mixes cells of both rows: either axis can shrink, single channels can't."""
    case = Case(
        "straddling",
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y) {
          a = Conv (x, w1)
          b = Reshape (a, split)
          c = Transpose <perm = [0, 2, 1, 3, 4]> (b)
          d = Reshape (c, merge)
          e = Conv <group = 12> (d, w2)
          y = Conv (e, w3)
        }""",
        dict(
            w1=(12, 3, 1, 1),
            w2=(12, 1, 3, 3),
            w3=(2, 12, 1, 1),
            split=np.array([2, 2, 6, 6, 6]),
            merge=np.array([2, 12, 6, 6]),
        ),
        ["group-channels 6"],
        dict(w1=(6, 3, 1, 1), w2=(6, 1, 3, 3), w3=(2, 6, 1, 1)),
        attributes={"Conv#1.group": 6},
    )
    check(case)


def test_max_pool_with_positions_keeps_its_channels():
    model = make(
        """(float[2, 3, 6, 6] x) => (float[2, 2, 4, 4] y, int64[2, 8, 2, 2] i) {
          a = Conv (x, w1)
          b, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
          c = Resize (b, , s)
          y = Conv (c, w2)
        }""",
        dict(w1=(8, 3, 3, 3), w2=(2, 8, 1, 1), s=np.array([1, 1, 2, 2], np.float32)),
    )
    groups = onnxprune.analyze(model)
    assert groups.groups == []
    assert {(f.weight, f.axis) for f in groups.frozen} >= {("w1", 0), ("w2", 1)}
