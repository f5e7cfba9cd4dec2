"""Figures of our metrics, against those computed by hand."""

import numpy as np
import onnxruntime
import pytest
from scipy.special import log_softmax

import onnxprune
from onnxprune.errors import ModelError, UsageError
from tests.metrics.conftest import MODELS
from tests.models_text import make

RNG = np.random.default_rng(1)
X = RNG.standard_normal((230, 8)).astype(np.float32)
LABELS = RNG.integers(0, 6, 230)


def test_accuracy_of_the_resnet_is_that_of_its_file():
    held = np.load(MODELS / "fashion_mnist.npz")
    images, labels = held["images"][:300], held["labels"][:300]
    pixels = (images[:, None] / np.float32(255) - held["mean"].astype(np.float32)) / held["std"].astype(np.float32)
    logits = onnxruntime.InferenceSession(str(MODELS / "resnet.onnx")).run(None, {"image": pixels.astype(np.float32)})[0]
    found = onnxprune.evaluate(MODELS / "resnet.onnx", {"image": pixels.astype(np.float32), "labels": labels})
    assert (found.metric, found.samples, found.compared) == ("accuracy", 300, ("logits", "labels"))
    assert found.value == pytest.approx((logits.argmax(1) == labels).mean() * 100)
    assert 85 < found.value < 100
    np.testing.assert_array_equal(found.predictions, logits.argmax(1))
    five = onnxprune.evaluate(MODELS / "resnet.onnx", {"image": pixels.astype(np.float32), "labels": labels}, metric="top5")
    expected = (np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]).any(1)
    assert five.value == pytest.approx(expected.mean() * 100) and five.value > found.value


def test_top5_breaks_ties_as_argmax_does(linear, score):
    model, _ = linear
    zeros = {"x": np.zeros((6, 8), np.float32), "labels": np.arange(6)}
    assert score(model, zeros, metric="top5").totals.tolist() == [1, 1, 1, 1, 1, 0]
    assert score(model, zeros, metric="accuracy").totals.tolist() == [1, 0, 0, 0, 0, 0]


def test_top5_needs_six_classes(score):
    model = make("(float[N, 8] x) => (float[N, 5] y) { y = MatMul (x, w) }", {"w": (8, 5)})
    with pytest.raises(ModelError, match="top5 needs scores of more than 5 classes.*'y' holds scores of 5 classes"):
        score(model, {"x": X, "labels": LABELS % 5}, metric="top5")


@pytest.mark.parametrize("last", [True, False])
def test_labels_of_positions_are_counted_one_by_one(score, last):
    signature = "(float[N, 5, 4] x) => (float[N, 5, 4] y) { y = Identity (x) }"
    model = make(signature, {})
    x = RNG.standard_normal((30, 5, 4)).astype(np.float32)
    labels = RNG.integers(-1, 4 if last else 5, (30, 5 if last else 4))
    found = score(model, {"x": x, "labels": labels}, metric="accuracy")
    counted = labels >= 0
    assert found.value == pytest.approx((x.argmax(2 if last else 1) == labels)[counted].mean() * 100)
    assert found.weights.tolist() == counted.sum(1).tolist() and not found.predictions.size


def test_cosine(linear, score):
    model, weights = linear
    targets = RNG.standard_normal((230, 6)).astype(np.float32)
    targets[3] = 0
    found = score(model, {"x": X, "targets": targets}, metric="cosine")
    y = X @ weights
    norms = np.linalg.norm(y, axis=1) * np.linalg.norm(targets, axis=1)
    expected = np.divide((y * targets).sum(1), norms, out=np.zeros(230), where=norms > 0)
    assert found.value == pytest.approx(expected.mean(), rel=1e-4)


# ---- perplexity ----

VOCABULARY = 11
LANGUAGE = """(int64[N, S] input_ids, int64[N, S] attention_mask) => (float[N, S, 11] logits) {
  e = Gather (table, input_ids)
  m = Cast <to = 1> (attention_mask)
  u = Unsqueeze (m, last)
  s = Mul (e, u)
  h = CumSum (s, axis)
  logits = MatMul (h, head)
}"""
IDS = RNG.integers(0, VOCABULARY, (21, 9))
LENGTHS = RNG.integers(2, 10, 21)
MASK = (np.arange(9) < LENGTHS[:, None]).astype(np.int64)


@pytest.fixture
def language():
    return make(LANGUAGE, {"table": (11, 7), "head": (7, 11), "last": np.array([2]), "axis": np.array(1)})


def logits_of(model, ids, mask):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"input_ids": ids, "attention_mask": mask})[0].astype(np.float64)


def by_hand(model, mask):
    likelihood = log_softmax(logits_of(model, IDS, mask), axis=2)
    losses = []
    for row in range(len(IDS)):
        for t in range(8):
            if mask[row, t] and mask[row, t + 1]:
                losses.append(-likelihood[row, t, IDS[row, t + 1]])
    return np.exp(np.mean(losses)), len(losses)


@pytest.mark.parametrize("side", ["right", "left"])
def test_perplexity_of_the_next_token_without_padding(language, score, side):
    mask = MASK if side == "right" else MASK[:, ::-1].copy()
    found = score(language, {"input_ids": IDS, "attention_mask": mask}, metric="perplexity")
    value, tokens = by_hand(language, mask)
    assert found.value == pytest.approx(value, rel=1e-5)
    assert found.weights.sum() == tokens < 21 * 8
    assert not found.higher_is_better


def test_the_mask_may_have_another_name(language, score):
    text = LANGUAGE.replace("attention_mask", "valid")
    model = make(text, {"table": (11, 7), "head": (7, 11), "last": np.array([2]), "axis": np.array(1)})
    data = {"input_ids": IDS, "valid": MASK}
    assert score(model, data, metric="perplexity", mask="valid").weights.sum() == (LENGTHS - 1).sum()
    assert score(model, data, metric="perplexity").weights.sum() == 21 * 8


def test_sequences_of_different_length(language, score):
    rows = [{"input_ids": i[:n], "attention_mask": m[:n]} for i, m, n in zip(IDS, MASK, LENGTHS, strict=True)]
    found = score(language, rows, metric="perplexity")
    assert found.value == pytest.approx(by_hand(language, MASK)[0], rel=1e-5)
    np.testing.assert_array_equal(found.weights, LENGTHS - 1)  # in the order of the data, not of the batches


def test_labels_belong_to_their_own_position(language, score):
    labels = np.where(MASK[:, 1:], IDS[:, 1:], -100)
    labels = np.concatenate([labels, np.full((21, 1), -100)], axis=1)
    data = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    assert score(language, data, metric="perplexity").value == pytest.approx(by_hand(language, MASK)[0], rel=1e-5)


def test_probabilities_are_not_normalised_again(linear, score):
    model, weights = linear
    soft = make("(float[N, 8] x) => (float[N, 6] y) { s = MatMul (x, w)  y = Softmax (s) }", {"w": weights})
    data = {"x": X, "labels": LABELS}
    assert score(soft, data, metric="perplexity").value == pytest.approx(score(model, data, metric="perplexity").value, 1e-5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"input_ids": IDS, "attention_mask": MASK * 0}, "no label or token counts"),
        ({"input_ids": IDS, "attention_mask": MASK, "labels": IDS + 1}, r"label 11 of sample \d+ is no class.*0 to 10"),
    ],
)
def test_tokens_that_can_not_be_judged(language, score, data, words):
    with pytest.raises(ModelError, match=words):
        score(language, data, metric="perplexity")


def test_tokens_beyond_the_outputs(score):
    model = make("(int64[N, S] ids) => (float[N, S, 5] y) { y = Gather (t, ids) }", {"t": (11, 5)})
    with pytest.raises(ModelError, match=r"token \d+ of sample \d+ is beyond the 5 of output 'y'"):
        score(model, {"ids": IDS}, metric="perplexity")


def test_two_inputs_that_may_be_the_tokens(score):
    text = "(int64[N, S] a, int64[N, S] b) => (float[N, S, 11] y) { c = Add (a, b) d = Mod (c, n) y = Gather (t, d) }"
    model = make(text, {"t": (11, 11), "n": np.array(11)})
    with pytest.raises(UsageError, match="which of the inputs 'a', 'b'"):
        score(model, {"a": IDS, "b": IDS}, metric="perplexity")
    assert score(model, {"a": IDS, "b": IDS}, metric="perplexity", labels="a").value > 1


@pytest.mark.filterwarnings("error")
def test_a_perplexity_beyond_all_numbers_is_an_error_not_a_warning(linear, score):
    with pytest.raises(ModelError, match="perplexity on dict is inf"):
        score(linear[0], {"x": X * 1e5, "labels": LABELS}, metric="perplexity")


def test_images_have_no_perplexity(score):
    model = make("(float[N, 6] x) => (float[N, 6] y) { y = Relu (x) }", {})
    with pytest.raises(ModelError, match=r"perplexity needs an output \(N, T, V\).*'y' \[10, 6\]"):
        score(model, {"x": X[:10, :6]}, metric="perplexity")


# ---- what does not fit ----


@pytest.mark.parametrize("metric", ["accuracy", "top5", "perplexity"])
@pytest.mark.parametrize("bad", [-1, 6])
def test_a_label_that_is_no_class_is_named(linear, score, metric, bad):
    labels = LABELS.copy()
    labels[203] = bad
    with pytest.raises(ModelError, match=rf"label {bad} of sample 203 is no class: output 'y' has the classes 0 to 5"):
        score(linear[0], {"x": X, "labels": labels}, metric=metric)


def test_nan_names_the_sample(score):
    model = make("(float[N, 6] x) => (float[N, 6] y) { y = Log (x) }", {})
    x = np.abs(RNG.standard_normal((230, 6))).astype(np.float32)
    x[117, 2] = -1
    with pytest.raises(ModelError, match="output 'y' is NaN for sample 117"):
        score(model, {"x": x, "labels": LABELS})


def test_an_infinite_logit_is_no_error(score):
    """Masked classes have a score of minus infinity."""
    model = make("(float[N, 6] x) => (float[N, 6] y) { y = Log (x) }", {})
    assert score(model, {"x": np.eye(6, dtype=np.float32), "labels": np.arange(6)}, metric="accuracy").value == 100
    with pytest.raises(ModelError, match="gives sample 1 a likelihood of 0"):
        score(model, {"x": np.eye(6, dtype=np.float32), "labels": [0, 0, 2, 3, 4, 5]}, metric="perplexity")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("accuracy", "has no 'labels' to compare with; give --labels"),
        ("cosine", "has no 'targets', nor an array with the name of an output"),
    ],
)
def test_data_without_what_the_metric_needs(linear, score, metric, words):
    with pytest.raises(ModelError, match=words):
        score(linear[0], {"x": X}, metric=metric)
