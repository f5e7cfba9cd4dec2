"""Two nodes compute what one did, and the last inner channels are those whose loss costs least."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.io.load import load_model
from onnxprune.lowrank.candidates import find_wide
from onnxprune.lowrank.factor import directions, factorize
from onnxprune.pipeline.stages import analysed
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import compare
from onnxprune.proof.session import run
from onnxprune.statistics.flow import Flow, lift
from tests.models_text import ints, make


def two(model, moments=None):
    """The model with all of its wide nodes written as two, the pairs, and what could not be."""
    prepared, groups = analysed(model, width=False, shapes=None)
    flow = Flow(lift(prepared.model))
    wides, left = find_wide(flow, groups.trace.shape_of)
    bases = {w.linear.y: directions(w.linear.matrix(flow.constant(w.linear.weight))[0], moments) for w in wides}
    return prepared, groups, *factorize(prepared.model, wides, bases), left


@pytest.mark.parametrize(("name", "count"), [("vit_legacy", 16), ("vit_dynamo", 16), ("resnet", 9), ("mobilenet", 7)])
def test_models_compute_the_same(name, count):
    prepared, groups, model, pairs, _ = two(load_model(f"models/{name}.onnx"))
    assert len(pairs) == count
    onnx.checker.check_model(model, full_check=True)
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 0)
    found = compare(prepared.model, model, prepared.graph, feeds, 1e-5)
    assert found.passed and found.error > 0


def test_inner_channels_are_a_group_of_their_own():
    _, _, model, pairs, _ = two(load_model("models/vit_legacy.onnx"))
    _, groups = analysed(model, width=False, shapes=None)
    for pair in pairs:
        (own,) = (g for g in groups.groups if (pair.first, pair.axes[0][1]) in g.members)
        assert sorted(own.members) == sorted([(pair.first, pair.axes[0][1]), (pair.second, pair.axes[1][0])])


CASES = {
    "MatMul": ("y = MatMul(x, w)", {"w": (80, 64)}, "N,5,80"),
    "fewer inputs than outputs": ("y = MatMul(x, w)", {"w": (64, 96)}, "N,5,64"),
    "turned": ("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", {"w": (64, 80)}, "N,80"),
    "Gemm": ("y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)", {"w": (72, 80), "b": (72,)}, "N,80"),
    "Conv": (
        "y = Conv<kernel_shape=[3,3], strides=[2,1], pads=[1,0,1,2], dilations=[1,2]>(x, w, b)",
        {"w": (64, 16, 3, 3), "b": (64,)},
        "N,16,9,9",
    ),
    "padding by rule": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', {"w": (64, 64, 1, 1)}, "N,64,5,5"),
    "one dimension": ("y = Conv(x, w)", {"w": (64, 32, 3)}, "N,32,9"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_form(case):
    body, weights, shape = CASES[case]
    rank = "a,b,c,d"[: 2 * shape.count(",") + 1]
    model = make(f"(float[{shape}] x) => (float[{rank}] y) {{ {body} }}", weights)
    prepared, groups, found, pairs, _ = two(model)
    assert len(pairs) == 1 and pairs[0].weight not in {t.name for t in found.graph.initializer}
    onnx.checker.check_model(found, full_check=True)
    feeds = random_inputs(prepared.graph, prepared.shapes, groups.trace.values, 1)
    before, after = (run(m, feeds, ["y"])[0] for m in (model, found))
    assert np.allclose(before, after, atol=1e-5 * np.abs(before).max()) and not np.array_equal(before, 0 * before)


REASONS = {
    "something else reads its weight too": (
        "(float[N,64] x, int64[M] i) => (float y, float z) { y = MatMul(x, w) z = Gather(w, i) }",
        {"w": (64, 64)},
    ),
    "its weight is on the left": ("(float[64,N] x) => (float y) { y = MatMul(w, x) }", {"w": (64, 64)}),
    "its weight holds several matrices": ("(float[2,5,64] x) => (float y) { y = MatMul(x, w) }", {"w": (2, 64, 64)}),
    "a convolution of 2 groups": (
        "(float[N,128,5,5] x) => (float y) { y = Conv<group=2>(x, w) }",
        {"w": (128, 64, 1, 1)},
    ),
    "a transposed convolution": ("(float[N,64,5,5] x) => (float y) { y = ConvTranspose(x, w) }", {"w": (64, 64, 2, 2)}),
    "its weight goes through a Reshape": (
        "(float[N,64] x) => (float y) { t = Reshape(w, s) y = MatMul(x, t) }",
        {"w": (8, 8, 64), "s": ints(64, 64)},
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_nodes_that_stay_one_say_why(reason):
    _, _, model, pairs, left = two(make(*REASONS[reason]))
    assert not pairs and [row.reason for row in left] == [reason]


def test_small_weights_are_left_alone():
    _, _, _, pairs, left = two(make("(float[N,63] x) => (float y) { y = MatMul(x, w) }", {"w": (63, 640)}))
    assert not pairs and not left


def test_globs_keep_nodes():
    model = load_model("models/vit_legacy.onnx")
    prepared, groups = analysed(model, width=False, shapes=None)
    flow = Flow(lift(prepared.model))
    wides, left = find_wide(flow, groups.trace.shape_of, ignore=["*qkv*"], only=["*blocks.0*"])
    assert {w.linear.name.split("/")[3] for w in wides} == {"proj", "up", "down"}
    assert [row.reason for row in left] == ["it is to stay"]


@pytest.mark.parametrize("shape", [(96, 64), (64, 96)])
def test_leading_channels_are_the_truncated_svd_in_the_metric_of_the_inputs(shape):
    """No matrix of rank r is nearer: the error is the sum of the squares of the singular values of C^(1/2) W that are left."""
    rng = np.random.default_rng(0)
    w, root = rng.standard_normal(shape), rng.standard_normal((shape[0], shape[0])) * np.geomspace(1, 1e-2, shape[0])
    c = root @ root.T
    v = directions(w, w.T @ c @ w)
    assert np.allclose(v.T @ v, np.eye(v.shape[1])) and np.allclose(w @ v @ v.T, w)
    half = np.linalg.cholesky(c).T
    values = np.linalg.svd(half @ w, compute_uv=False)
    for r in (1, 20, 50):
        lost = np.square(half @ (w - w @ v[:, :r] @ v[:, :r].T)).sum()
        assert lost == pytest.approx(np.square(values[r:]).sum(), rel=1e-9)
        plain = directions(w)[:, :r]
        assert np.square(half @ (w - w @ plain @ plain.T)).sum() > lost


def test_channels_that_never_vary_leave_the_product_whole():
    """Outputs that are always 0 on the samples are still computed for other inputs."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((64, 80))
    x = rng.standard_normal((500, 64)) * (np.arange(64) < 20)
    v = directions(w, np.cov((x @ w).T))
    assert np.allclose(w @ v @ v.T, w)


def test_the_source_is_not_changed():
    model = load_model("models/resnet.onnx")
    before = model.SerializeToString()
    two(model)
    assert model.SerializeToString() == before
    assert numpy_helper.to_array(model.graph.initializer[0]).size
