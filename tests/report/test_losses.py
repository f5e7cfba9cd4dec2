"""Reconstruction by group."""

import numpy as np
import pytest

import onnxprune
from onnxprune.recover.fit import Fit
from onnxprune.report.losses import group_losses, input_axes
from tests.metrics.conftest import MODELS
from tests.models_text import make


def test_axes_of_inputs_whatever_the_layout():
    model = make(
        """(float[N, 6, 8, 8] x) => (float[N, 3] y) {
          a = Conv (x, conv)
          b = Conv <group = 4> (a, depthwise)
          c = ConvTranspose (b, deconv)
          d = GlobalAveragePool (c)
          e = Flatten (d)
          f = Gemm <transB = 1> (e, gemm)
          t = Transpose <perm = [1, 0]> (linear)
          y = MatMul (f, t)
        }""",
        {
            "conv": (4, 6, 1, 1),
            "depthwise": (4, 1, 3, 3),
            "deconv": (4, 5, 2, 2),
            "gemm": (7, 5),
            "linear": (3, 7),
        },
    )
    assert input_axes(model) == {"conv": (1,), "depthwise": (1, 0), "deconv": (0,), "gemm": (1,), "linear": (1,)}


def test_means_over_the_nodes_of_a_group():
    fits = [
        Fit("a", "wa", "lsq", 0.5, 0.1),
        Fit("b", "wb", "none", 0.7, 0.7),
        Fit("c", "wc", "lsq", 0.2, 0.05),
        Fit("d", "wd", "none", reason="shared"),
        Fit("e", "we", "lsq", 0.3, 0.02),
    ]
    members = {"g0": [("wa", 1), ("wb", 1), ("wd", 1), ("w0", 0)], "g1": [("wc", 0), ("wa", 0)]}
    found = group_losses(fits, members, {"wa": (1,), "wb": (1,), "wc": (1, 0), "wd": (1,), "we": (1,)})
    assert [loss.group for loss in found] == ["g0", "g1", ""]
    assert (found[0].nodes, found[0].fitted, found[0].worst, found[0].worst_after) == (2, 1, "b", 0.7)
    assert (found[0].lost_before, found[0].lost_after) == pytest.approx((0.6, 0.4))
    assert (found[2].nodes, found[2].lost_after) == (1, 0.02)


def test_every_fit_of_the_mobilenet_belongs_to_a_group_that_lost_units():
    report = onnxprune.prune(
        MODELS / "mobilenet.onnx", ratio=0.5, data=MODELS / "fashion_mnist.npz", samples=24, criterion="l2", check=False
    ).report
    assert sum(loss.nodes for loss in report.losses) == sum(not f.reason for f in report.fits) > 10
    cut = {row.id for row in report.groups if row.removed}
    assert {loss.group for loss in report.losses} <= cut | {""}
    assert len([loss for loss in report.losses if loss.group]) > 5
    after = [loss.lost_after for loss in report.losses]
    assert after == sorted(after, reverse=True)
    total = sum(loss.lost_after * loss.nodes for loss in report.losses)
    assert total == pytest.approx(np.sum([f.lost_after for f in report.fits]))


def test_axes_of_inputs_that_are_moved_about():
    model = make(
        """(float[N, 7, 8] x) => (float[7, 1, N, 4] y) {
          a = Reshape (heads, s)
          b = MatMul (x, a)
          c = Einsum <equation = "bsc,chd->bshd"> (b, split)
          d = Einsum <equation = "bshd,mhd->bsm"> (c, joined)
          t = Transpose <perm = [1, 0, 2]> (d)
          y = GRU <hidden_size = 4> (t, w, r)
        }""",
        {
            "heads": (2, 4, 6), "s": np.array([8, 6]), "split": (6, 2, 3), "joined": (5, 2, 3), "w": (1, 12, 5),
            "r": (1, 12, 4),
        },
    )  # fmt: skip
    assert input_axes(model) == {"heads": (0, 1), "split": (0,), "joined": (1, 2), "w": (1, 2)}
