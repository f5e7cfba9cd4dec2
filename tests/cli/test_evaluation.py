"""`--eval`, `--metric` and `--labels`: figures, messages and exit codes."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.cli.conftest import make
from tests.cli.test_errors import complains

RNG = np.random.default_rng(3)
X = (RNG.standard_normal((250, 1, 8, 8)) + 3 * RNG.standard_normal((250, 1, 1, 1))).astype(np.float32)


def outputs(path):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": X})[0]


@pytest.fixture
def data(model, tmp_path):
    """Samples, and as labels what the model says."""
    np.savez(tmp_path / "data.npz", x=X, labels=outputs(model).argmax(1), other=np.arange(250) % 4)
    return tmp_path / "data.npz"


@pytest.fixture
def prune(invoke, model, tmp_path):
    def call(*arguments):
        return invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", *arguments)

    return call


def test_intervals_and_agreement(prune, model, data, tmp_path):
    found = json.loads(prune("--eval", data, "--ratio", "0.75", "--json").out)["evaluation"]
    same = (outputs(tmp_path / "out.onnx").argmax(1) == outputs(model).argmax(1)).mean() * 100
    assert (found["before"], found["after"]) == (100, pytest.approx(same))
    assert found["change"]["interval"]["low"] < found["change"]["value"] < found["change"]["interval"]["high"]
    assert found["change"]["within_noise"] is False
    assert len(found["fidelity"][0]["worst"]) == 5
    text = prune("--eval", data, "--ratio", "0.75").out
    assert "95 % interval" in text and "worse beyond noise" in text and "same top-1" in text


def test_metrics_by_name(prune, model, data, tmp_path):
    truth = np.arange(250) % 4
    np.save(tmp_path / "truth.npy", truth)
    for labels in (tmp_path / "truth.npy", "other"):
        found = json.loads(prune("--eval", data, "--metric", "perplexity", "--labels", labels, "--json").out)["evaluation"]
        y = outputs(model).astype(np.float64)
        own = np.log(np.exp(y).sum(1)) - y[np.arange(250), truth]
        assert found["before"] == pytest.approx(np.exp(own.mean()), rel=1e-5) and found["metric"] == "perplexity"
    text = " ".join(prune("--eval", data, "--metric", "perplexity").out.split())
    assert "perplexity of output 'y' against 'labels', lower is better" in text


def test_a_metric_of_the_user(prune, model, data, tmp_path):
    (tmp_path / "mine.py").write_text("def top(outputs, feeds):\n    return outputs['y'].max(axis=1)\n")
    found = json.loads(prune("--eval", data, "--metric", f"{tmp_path}/mine.py:top", "--json").out)["evaluation"]
    assert found["metric"] == "mine.py:top"
    assert found["before"] == pytest.approx(outputs(model).max(1).mean(), rel=1e-5)
    assert found["after"] == pytest.approx(outputs(tmp_path / "out.onnx").max(1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def top(outputs, feeds):\n    return outputs['z']\n", ["KeyError", "mine.py:2"]),
        ("def top(outputs, feeds):\n    return [1]\n", ["one value for each of 250 samples"]),
        ("import nothere_at_all\n", ["ModuleNotFoundError", "mine.py:1"]),
    ],
)
def test_errors_in_the_users_code(prune, data, tmp_path, code, words):
    (tmp_path / "mine.py").write_text(code)
    arguments = ("--eval", data, "--metric", f"{tmp_path}/mine.py:top")
    complains(prune(*arguments), 1, *words)
    assert not (tmp_path / "out.onnx").exists()


def test_debug_shows_where_the_users_code_fails(prune, data, tmp_path):
    (tmp_path / "mine.py").write_text("def top(outputs, feeds):\n    return outputs['z']\n")
    with pytest.raises(Exception, match="KeyError") as error:
        prune("--eval", data, "--metric", f"{tmp_path}/mine.py:top", "--debug")
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--metric", "acuracy"], 2, ["acuracy", "accuracy, cosine, mse, perplexity, top5"]),
        (["--metric", "nothere.py:f"], 1, ["nothere.py", "no such file"]),
        (["--metric", "top5"], 1, ["more than 5 classes"]),
        (["--metric", "cosine"], 1, ["'targets'"]),
        (["--labels", "few.txt"], 1, ["few.txt", "holds 3 labels", "250 samples"]),
        (["--labels", "bad.txt"], 1, ["label 4 of sample 249", "0 to 3"]),
        (["--labels", "nothere"], 2, ["nothere", "'labels', 'other'"]),
        (["--labels", "nothere.csv"], 1, ["nothere.csv", "no such file"]),
    ],
)
def test_evaluations_that_can_not_be_are_found_before_pruning(prune, data, tmp_path, monkeypatch, options, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("1\n2\n3\n")
    (tmp_path / "bad.txt").write_text("1\n" * 249 + "4\n")
    monkeypatch.setattr("onnxprune.api.prune", None)
    complains(prune("--eval", data, *options), code, *words)


@pytest.mark.parametrize("options", [["--metric", "accuracy"], ["--labels", "x.npy"]])
def test_options_without_data(prune, options):
    complains(prune(*options), 2, "--eval PATH")


def test_nan_is_found_before_pruning(invoke, tmp_path, monkeypatch):
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3] x) => (float[N, 4] y) { h = MatMul (x, w) y = Log (h) }'
    onnx.save(make(text, w=(3, 4)), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((5, 3), np.float32), labels=np.zeros(5, int))
    outcome = invoke("prune", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--eval", tmp_path / "d.npz")
    complains(outcome, 1, "output 'y' is NaN for sample 0", "d.npz")


def test_images_of_classes(invoke, tmp_path):
    """`--preprocess` serves an evaluation without calibration too."""
    image = pytest.importorskip("PIL.Image")
    text = """<ir_version: 8, opset_import: ["" : 17]> m (float[N, 1, 8, 8] x) => (float[N, 3] y) {
      a = Conv (x, w1) b = Relu (a) c = Conv (b, w2) d = GlobalAveragePool (c) y = Flatten (d) }"""
    onnx.save(make(text, w1=(16, 1, 3, 3), w2=(3, 16, 3, 3)), tmp_path / "m.onnx")
    for k in range(12):
        folder = tmp_path / "images" / ("ant", "bee", "cat")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(RNG.integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / f"{k}.png")
    arguments = ["prune", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--no-latency", "--eval", tmp_path / "images"]
    complains(invoke(*arguments), 2, "images need the preprocessing")
    out = invoke(*arguments, "--preprocess", "mean=0.5,std=0.25", "-v").out
    assert "labels are the 3 folders in the order of their names: 'ant' is class 0, 'cat' is 2" in " ".join(out.split())
    assert "cat/" in out or "ant/" in out or "bee/" in out  # the farthest samples with their files


def test_calibration_samples_are_not_held_out(prune, data):
    out = " ".join(prune("--data", data, "--eval", data, "--samples", "40").out.split())
    assert "not held out 40 of 250 samples were used for calibration" in out
    assert "likeness on" in out and "calibration y" in out and "evaluation y" in out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_everything_fits_the_width(prune, data, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    body = prune("--data", data, "--eval", data, "--samples", "20", "-v").out.splitlines()[2:]
    assert any("variance lost" in line for line in body) and any("farthest in" in line for line in body)
    assert max(len(line.rstrip()) for line in body if str(tmp_path)[:8] not in line) <= int(columns)


def test_labels_beyond_all_classes(prune, model, tmp_path):
    np.savez(tmp_path / "far.npz", x=X, labels=np.arange(250) + 1000)
    complains(prune("--eval", tmp_path / "far.npz"), 1, "label 1000 of sample 0 is no class")
