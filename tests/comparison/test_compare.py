"""Two models on the same samples: figures, thresholds, scores."""

import json

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import numpy_helper

from onnxprune.cli.screen import to_json
from onnxprune.comparison.compare import compare
from onnxprune.comparison.result import schema
from onnxprune.errors import ModelError, PlanError, UsageError
from onnxprune.io.load import load_model
from tests.cli.conftest import ROOT
from tests.models_text import make

DATA = ROOT / "models" / "fashion_mnist.npz"
LINEAR = "(float[N, 4] x) => (float[N, 3] y) { y = Gemm (x, w, b) }"


def linear(name="w", factor=1.0):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3)).astype(np.float32)
    text = LINEAR.replace("(x, w, b)", f"(x, {name}, b)")
    return make(text, {name: (w * np.float32(factor)), "b": np.zeros(3, np.float32)})


def trained(name="resnet"):
    return load_model(ROOT / "models" / f"{name}.onnx")


def scaled(model, name, row, factor):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = next(t for t in changed.graph.initializer if t.name == name)
    array = np.array(numpy_helper.to_array(tensor))
    array[row] *= factor
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return changed


X = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)


def test_a_model_and_itself_are_the_same():
    found = compare(trained(), trained(), str(DATA), samples=16, rtol=0.0, atol=0.0, min_agreement=1.0)
    assert found.passed
    assert found.trail is None, "there is nothing to search for"
    assert (found.outputs[0].max_abs, found.outputs[0].equal, found.outputs[0].agreement) == (0, 1, 1)
    assert found.constants.different == []


def test_figures_are_those_worked_out_by_hand():
    a, b = linear(), linear(factor=1.1)
    y = X @ numpy_helper.to_array(a.graph.initializer[0])
    found = compare(a, b, {"x": X}, rtol=0.05, atol=0.0, search=False).outputs[0]
    apart = np.abs(y * 0.1)
    assert found.samples == 20
    assert found.max_abs == pytest.approx(apart.max(), rel=1e-4)
    assert found.max_rel == pytest.approx(0.1, rel=1e-4)
    assert found.relative_error == pytest.approx(0.1, rel=1e-4)
    assert found.cosine == pytest.approx(1.0)
    assert (found.agreement, found.outside) == (1.0, 1.0)


def test_tolerances_are_absolute_plus_relative():
    a, b = linear(), linear(factor=1.1)
    y = np.abs(X @ numpy_helper.to_array(a.graph.initializer[0]))
    found = compare(a, b, {"x": X}, rtol=0.01, atol=0.05, search=False).outputs[0]
    assert found.outside == pytest.approx((y * 0.1 > 0.05 + 0.01 * y).mean(), abs=0.02)
    assert 0 < found.outside < 1
    assert compare(a, b, {"x": X}, rtol=0.11, search=False).passed
    assert not compare(a, b, {"x": X}, rtol=0.09, search=False).passed
    assert compare(a, b, {"x": X}, rtol={"y": 0.11}, search=False).passed


def test_the_largest_elements_are_compared_as_sets():
    w = np.eye(4, dtype=np.float32)
    order = [1, 0, 2, 3]
    text = "(float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    a, b = make(text, {"w": w}), make(text, {"w": w[order]})
    rows = np.array([[4, 3, 0, 0], [4, 0, 3, 0], [0, 0, 4, 3], [4, 3, 0, 0]], np.float32)
    one = compare(a, b, {"x": rows}, search=False).outputs[0]
    two = compare(a, b, {"x": rows}, top_k=2, search=False).outputs[0]
    assert one.agreement == 0.25, "only the third row keeps its largest element"
    assert two.agreement == 0.75, "the second one loses 4 and gets 3 at other places"
    assert two.interval[0] < 0.75 < two.interval[1]


def test_positions_have_classes_where_an_axis_is_given():
    text = "(float[N, 5, 4] x) => (float[N, 5, 4] y) { y = MatMul (x, w) }"
    a, b = (make(text, {"w": np.eye(4, dtype=np.float32)[order]}) for order in ([0, 1, 2, 3], [0, 1, 3, 2]))
    rows = np.random.default_rng(0).standard_normal((30, 5, 4)).astype(np.float32)
    plain = compare(a, b, {"x": rows}, search=False).outputs[0]
    given = compare(a, b, {"x": rows}, search=False, class_axis={"y": 2}).outputs[0]
    assert plain.agreement is None
    same = (rows.argmax(2) < 2).mean()
    assert given.agreement == pytest.approx(same)
    assert given.interval[0] < same < given.interval[1] < given.interval[0] + 0.3
    assert not compare(a, b, {"x": rows}, search=False, class_axis={"y": 2}, min_agreement=0.9).passed
    nothing = compare(a, b, {"x": rows}, search=False, min_agreement=0.1)
    assert "no output has scores of classes" in nothing.exceeded[0]


def test_numbers_that_are_not_finite_are_compared_by_their_places():
    text = "(float[N, 3] x) => (float[N, 3] y) { y = Div (x, d) }"
    a, b = (make(text, {"d": np.array(d, np.float32)}) for d in ([0, 1, 1], [1, 1, 1]))
    rows = {"x": np.array([[0.0, 1, 2]], np.float32)}  # 0 / 0 is NaN in the first only
    found = compare(a, b, rows, search=False).outputs[0]
    assert np.isinf(found.max_abs)
    same = compare(a, a, rows, rtol=0.0, atol=0.0)
    assert same.passed and same.outputs[0].max_abs == 0
    json.loads(to_json(compare(a, b, rows).to_dict()))


def test_other_names_are_matched_by_position():
    a = linear()
    b = linear(name="weight", factor=1.5)
    for graph in (b.graph,):
        graph.input[0].name, graph.node[0].input[0] = "picture", "picture"
        graph.output[0].name, graph.node[0].output[0] = "scores", "scores"
    found = compare(a, b, {"x": X})
    assert found.notes == ["inputs by position: 'x' is 'picture'", "outputs by position: 'y' is 'scores'"]
    assert found.outputs[0].other == "scores"
    assert found.trail.divergences[0].tensor == "y"
    assert any("weight" in c for c in found.trail.divergences[0].causes)


def test_models_that_have_nothing_in_common_are_refused():
    other = make("(float[N, 4] x, float[N, 4] z) => (float[N, 4] y) { y = Add (x, z) }", {})
    with pytest.raises(ModelError, match="for which the first model has no input"):
        compare(linear(), other, {"x": X})


def test_an_output_of_another_shape_fails():
    other = make("(float[N, 4] x) => (float[N, 2] y) { y = Gemm (x, w) }", {"w": (4, 2)})
    found = compare(linear(), other, {"x": X}, search=False)
    assert not found.passed
    assert "float32 [16, 2] instead of float32 [16, 3]" in found.exceeded[0]


@pytest.fixture(scope="module")
def labelled():
    """The first 400 samples of the evaluation data."""
    from onnxprune.metrics.data import load_data

    batches = load_data(str(DATA), trained()).samples.batches[:4]
    return {"image": np.concatenate([b.feeds["image"] for b in batches])}, np.concatenate(
        [b.extras["labels"] for b in batches]
    )


def test_a_metric_is_scored_and_gated(labelled):
    dense = trained()
    damaged = scaled(dense, "fc.weight", 3, -1.0)
    options = dict(evaluation=labelled[0], labels=labelled[1], search=False)
    found = compare(dense, damaged, **options, max_drop=1.0)
    assert found.evaluation.before.value == pytest.approx(93.3, abs=3)
    assert found.evaluation.change.value < -5
    assert [e for e in found.exceeded if "top-1 accuracy: worse by" in e]
    assert found.outputs[0].samples == found.evaluation.before.samples == 400, "outputs are compared on the same samples"
    assert compare(dense, damaged, **options, max_drop=50).passed


def test_documents_follow_the_schema(labelled):
    dense = trained()
    found = compare(
        dense,
        scaled(dense, "fc.weight", 3, 2.0),
        str(DATA),
        samples=8,
        evaluation=labelled[0],
        labels=labelled[1],
        rtol=1e-3,
    )
    document = json.loads(to_json(found.to_dict()))
    assert list(Draft202012Validator(schema()).iter_errors(document)) == []
    assert document["trail"]["divergences"][0]["tensor"] == "logits"


@pytest.mark.parametrize("batched", [True, False])
def test_worst_samples_are_saved_and_can_be_compared_again(tmp_path, batched):
    alone = "(float[4] x, float[2] z) => (float[3] y, float[2] v) { y = MatMul (x, w) v = Neg (z) }"
    text = LINEAR if batched else alone
    w = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    other = w.copy()
    other[2] += 1
    a, b = (make(text, {"w": v, "b": np.zeros(3, np.float32)}) for v in (w, other))
    rows = X.copy()
    rows[7, 2] = 50  # the sample that shows it most, in absolute terms
    data = {"x": rows} if batched else [{"x": r, "z": np.ones(2, np.float32)} for r in rows]
    path = tmp_path / "worst.npz"
    found = compare(a, b, data, save_worst=path, worst=3, search=False)
    saved = np.load(path)
    assert saved["sample"].tolist() == [s.sample for s in found.outputs[0].worst[:3]]
    assert np.all(np.diff(saved["error"]) <= 0)
    assert np.array_equal(saved["x"], rows[saved["sample"]])
    assert np.allclose(saved["y"], saved["x"] @ w, atol=1e-5)
    assert np.allclose(saved["second:y"], saved["x"] @ other, atol=1e-4)
    if batched:
        again = compare(a, b, str(path), search=False).outputs[0]
        assert again.max_rel == pytest.approx(found.outputs[0].max_rel)


def test_a_second_model_that_does_not_run_is_a_result():
    text = "(float[N, 4] x) => (float[N, 2, 2] y) { a = Relu (x) y = Reshape (a, s) }"
    a, b = (make(text, {"s": np.array(s)}) for s in ([-1, 2, 2], [-1, 3, 2]))
    found = compare(a, b, {"x": X})
    assert not found.passed
    assert "Reshape" in found.failed
    place = found.trail.divergences[0]
    assert (place.tensor, place.failure != "") == ("y", True)
    assert place.causes == ["constant 's' is [-1, 2, 2] in the first model, [-1, 3, 2] in the second"]


def test_sequences_and_maps_are_compared():
    text = "(float[N, 4] x) => (seq(float[N, 2]) y) { z = Mul (x, w) y = SplitToSequence <axis = 1> (z, s) }"
    a, b = (make(text, {"w": np.array(w, np.float32), "s": np.array(2)}) for w in ([1, 1, 1, 1], [1, 1, 1, 1.5]))
    assert compare(a, a, {"x": X}, rtol=0.0, atol=0.0).passed
    found = compare(a, b, {"x": X}).outputs[0]
    assert found.max_abs == pytest.approx(np.abs(X[:, 3]).max() / 2)
    maps = "(float[N, 4] x) => (seq(map(int64, float)) y) { z = Mul (x, w) y = ai.onnx.ml.ZipMap <classlabels_int64s = [7, 8, 9, 10]> (z) }"
    a, b = (make(maps, {"w": np.array(w, np.float32)}, domains=["ai.onnx.ml"]) for w in ([1, 1, 1, 1], [1, 1, 1, 1.5]))
    found = compare(a, b, {"x": X}).outputs[0]
    assert found.max_abs == pytest.approx(np.abs(X[:, 3]).max() / 2)
    assert found.agreement == pytest.approx((X.argmax(1) == (X * [1, 1, 1, 1.5]).argmax(1)).mean())


def test_integers_and_texts_are_compared():
    text = "(float[N, 4] x) => (int64[N] i, float[N, 4] y) { i = ArgMax <axis = 1, keepdims = 0> (z) z = Mul (x, w) y = Neg (z) }"
    text = text.replace(
        "{ i = ArgMax <axis = 1, keepdims = 0> (z) z = Mul (x, w)",
        "{ z = Mul (x, w) i = ArgMax <axis = 1, keepdims = 0> (z)",
    )
    a, b = (make(text, {"w": np.array(w, np.float32)}) for w in ([1, 1, 1, 1], [1, 1, 1, 3]))
    found = compare(a, b, {"x": X}, search=False)
    same = (X.argmax(1) == (X * [1, 1, 1, 3]).argmax(1)).mean()
    assert found.outputs[0].equal == pytest.approx(same)
    assert found.outputs[0].cosine is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": {"z": 0.1}}, "no such output"),
        ({"rtol": -1.0}, "0 or more"),
        ({"min_agreement": 2.0}, "from 0 to 1"),
        ({"class_axis": {"y": 0}}, "counts samples"),
        ({"class_axis": {"z": 1}}, "no such output"),
        ({"max_drop": 1.0}, "needs data to evaluate on"),
        ({"providers": ["quantum"]}, "not part of this ONNX Runtime"),
    ],
)
def test_wrong_calls(options, message):
    with pytest.raises(UsageError, match=message):
        compare(linear(), linear(), {"x": X}, **options)


def test_a_plan_lets_kept_channels_be_compared():
    from onnxprune.api import prune

    model = trained()
    result = prune(model, ratio=0.25, check=False)
    plain = compare(model, result.model, str(DATA), samples=8)
    planned = compare(model, result.model, str(DATA), samples=8, plan=result.plan)
    assert planned.trail.unmatched < plain.trail.unmatched
    # stem channels that stay compute what they did: the first difference lies behind a removal
    errors = dict(planned.trail.path)
    first = planned.trail.divergences[0]
    assert first.tensor not in ("/stem/Conv_output_0", "/bn/BatchNormalization_output_0")
    assert any(e == 0 for e in errors.values())
    with pytest.raises(PlanError, match="another model"):
        compare(result.model, model, str(DATA), samples=8, plan=result.plan)
