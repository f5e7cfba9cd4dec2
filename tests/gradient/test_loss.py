"""Which loss an output has, what is drawn from it, and that seeds are its gradient."""

import numpy as np
import onnx.parser
import pytest
from scipy.special import log_softmax, softmax

from onnxprune.errors import UsageError
from onnxprune.gradient.loss import Loss, losses

RNG = np.random.default_rng(0)
PLAIN = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }'
)
SCORES, TOKENS = RNG.standard_normal((6, 5)), RNG.standard_normal((6, 4, 5))


def kind(output, name="y", labels=None, **given):
    (found,) = losses(PLAIN, {name: output}, len(output), labels, batched=True)
    return found.kind, found.probabilities


@pytest.mark.parametrize(
    ("output", "name", "expected"),
    [
        (SCORES, "y", ("classes", False)),
        (softmax(SCORES, -1), "y", ("classes", True)),
        (log_softmax(SCORES, -1), "y", ("classes", False)),
        (SCORES / np.linalg.norm(SCORES, axis=1, keepdims=True), "y", ("values", False)),
        (TOKENS, "y", ("values", False)),
        (TOKENS, "logits", ("tokens", False)),
        (softmax(TOKENS, -1), "y", ("tokens", True)),
        (TOKENS[..., 0:1], "y", ("values", False)),
        (RNG.standard_normal((6, 3, 4, 4)), "y", ("values", False)),
    ],
)
def test_kinds(output, name, expected):
    assert kind(output, name) == expected


def test_a_vocabulary_makes_tokens():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[N, 4] x) => (float[N, 4, 5] y) <float[5, 5] t> { y = Gather (t, x) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((5, 5), np.float32), "t"))
    assert losses(model, {"y": TOKENS}, 6, None, batched=True)[0].kind == "tokens"


@pytest.mark.parametrize(
    "loss", [Loss("y", "classes"), Loss("y", "classes", True), Loss("y", "tokens"), Loss("y", "values", scale=2)]
)
def test_seeds_are_gradients(loss):
    """Of what `value` says; of probabilities as they are, not made to sum to 1 again."""
    y = TOKENS[0] if loss.kind == "tokens" else SCORES[0]
    y = softmax(y, -1) if loss.probabilities else y
    counted = np.array([1, 1, 0, 1]) if loss.kind == "tokens" else None
    label = loss.draw(y, np.random.default_rng(3))
    seed = loss.seed(y, label, counted)
    for place in np.ndindex(y.shape):
        moved = [y.copy(), y.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        up, down = (-np.log(m[label]) if loss.probabilities else loss.value(m, label, counted) for m in moved)
        assert seed[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_labels_follow_the_distribution():
    loss, y = Loss("y", "classes"), np.array([0.0, 1.0, 2.0])
    drawn = [int(loss.draw(y, np.random.default_rng([0, k]))) for k in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, softmax(y), atol=0.03)
    scores = np.mean([loss.seed(y, np.array(k), None) for k in drawn], axis=0)
    np.testing.assert_allclose(scores, 0, atol=0.03)  # the mean score is 0 under the model's own distribution


def test_ignored_labels_count_nothing():
    assert not Loss("y", "tokens").seed(TOKENS[0], np.array([-100, -100, -100, -100]), None).any()


@pytest.mark.parametrize(
    ("outputs", "labels", "text"),
    [
        ({"y": np.zeros((6, 3), np.int64)}, None, "give no loss.*'y' int64"),
        ({"y": np.zeros((5, 3))}, None, "give no loss"),
        ({"y": RNG.standard_normal((6, 3, 4, 4))}, np.zeros(6, int), "labels .6. fit no output"),
        ({"y": SCORES}, np.array([0, 5]), "do not fit the 5 classes"),
        ({"y": SCORES}, np.array([0, -1]), "do not fit the 5 classes"),
    ],
)
def test_errors(outputs, labels, text):
    with pytest.raises(UsageError, match=text):
        losses(PLAIN, outputs, 6, labels, batched=True)
