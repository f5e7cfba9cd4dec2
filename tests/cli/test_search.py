"""`onnxprune sensitivity` and `onnxprune search` as users call them."""

import json
import os
import signal
import subprocess
import sys
import time

import jsonschema
import numpy as np
import pytest

from onnxprune.search import front, sensitivity
from tests.cli.conftest import make

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 1, 8, 8] x) => (float[N, 4] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w2)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = MatMul (f, w3)
}
"""


@pytest.fixture
def net(tmp_path):
    import onnx

    path = tmp_path / "net.onnx"
    onnx.save(make(NET, w1=(12, 1, 3, 3), w2=(12, 12, 3, 3), w3=(12, 4)), path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, 1, 8, 8)).astype(np.float32))
    x = rng.standard_normal((30, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "eval.npz", x=x, labels=rng.integers(0, 4, 30))
    return path


def options(net, folder, *more):
    data = net.parent
    common = ["--data", data / "data.npz", "--no-latency", "--workers", 1, "--points", 3]
    return ["search", net, "-o", folder, *common, *more]


def test_a_family_and_its_index(invoke, net, tmp_path):
    folder = tmp_path / "family"
    plot = tmp_path / "front.png"
    found = invoke(*options(net, folder, "--eval", tmp_path / "eval.npz", "--candidates", 3, "--plot", plot, "--json"))
    assert found.code == 0 and not found.err
    index = json.loads(found.out)
    jsonschema.validate(index, front.schema("front"))
    assert index == json.loads((folder / "index.json").read_text())
    assert plot.read_bytes().startswith(b"\x89PNG") and (folder / "front.svg").exists()
    for entry in index["models"][1:]:
        card = json.loads((folder / f"{entry['name']}.json").read_text())
        jsonschema.validate(card, front.schema("card"))
        assert card["verification"]["passed"] and (folder / entry["files"]["model"]).exists()
    assert invoke("verify", net, folder / "p1.onnx", "--plan", folder / "p1.plan.json").code == 0
    again = invoke(*options(net, folder))
    assert again.code == 2 and "holds a search already" in again.err
    again = invoke(*options(net, folder, "--eval", tmp_path / "eval.npz", "--candidates", 3, "--resume"))
    assert again.code == 0 and "3 models of an earlier run" in again.out


def test_without_labels_the_error_of_the_outputs_is_what_counts(invoke, net, tmp_path):
    found = invoke(*options(net, tmp_path / "family", "--target", "params", "--least", 0.5))
    assert found.code == 0 and "output error" in found.out
    index = json.loads((tmp_path / "family" / "index.json").read_text())
    worths = [m["worth"] for m in index["models"]]
    assert worths[0] == 0 and min(worths[1:]) > 0 and not index["worth"]["higher_is_better"]


def test_a_family_of_falling_latency(invoke, net, tmp_path):
    told = ["--target", "latency", "--least", 0.8, "--points", 1, "--threads", 1, "--latency-cache", tmp_path, "--latency"]
    found = invoke(*options(net, tmp_path / "family", *told))
    assert found.code == 0 and "1 thread" in found.out
    index = json.loads((tmp_path / "family" / "index.json").read_text())
    jsonschema.validate(index, front.schema("front"))
    assert (index["target"], index["threads"]) == ("latency", 1)
    dense, smaller = index["models"]
    assert smaller["share"] == pytest.approx(0.8) and 0 < smaller["figures"]["macs"] < dense["figures"]["macs"]
    assert any(tmp_path.glob("*.jsonl")), "times are kept"
    again = invoke(*options(net, tmp_path / "searched", *told, "--candidates", 4))
    assert again.code == 0, again.err
    card = json.loads((tmp_path / "searched" / "p1.json").read_text())
    assert card["search"]["candidates"] >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_search_goes_on_to_the_same_models(invoke, start, net, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert invoke(*options(net, whole)).code == 0
    process = start(*options(net, cut))
    end = time.monotonic() + 60
    while not ((cut / "search.jsonl").exists() and (cut / "search.jsonl").read_bytes().count(b"\n")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert invoke(*options(net, cut, "--resume")).code == 0
    for name in ("p1", "p2", "p3"):
        assert (whole / f"{name}.onnx").read_bytes() == (cut / f"{name}.onnx").read_bytes()
    assert (cut / "search.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_the_workers_too(start, tmp_path):
    folder = tmp_path / "family"
    given = ["models/resnet.onnx", "-o", folder, "--data", "models/fashion_mnist.npz", "--samples", 64, "--no-latency"]
    wanted = ["--workers", 2, "--points", 8, "--candidates", 500]  # minutes
    process = start("search", *given, *wanted, start_new_session=True)
    end = time.monotonic() + 60
    while not ((folder / "search.jsonl").exists() and (folder / "search.jsonl").read_bytes().count(b"\n")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    assert err.decode().splitlines() == ["error: interrupted; no output was left half-written"]
    end = time.monotonic() + 10
    while left := subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout:
        assert time.monotonic() < end, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--least", "1.5"], "least 1.5 is not between 0 and 1"),
        (["--target", "drop"], "--target drop: is none of"),
        (["--backend", "spark"], "none of processes, dask, ray"),
        (["--address", "tcp://127.0.0.1:1"], "choose the backend"),
        (["--metric", "top5"], "--eval"),
        (["--attention", "all"], "--attention all"),
        (["--plot", "front.pdf"], "a plot is one of"),
        (["--threads", "1"], "leave out --no-latency"),
        (["--latency-cache", "cache"], "give --target latency"),
    ],
)
def test_wrong_calls_are_told_before_anything_is_done(invoke, net, tmp_path, more, message):
    found = invoke(*options(net, tmp_path / "family", *more))
    assert found.code == 2 and message in found.err and found.err.count("\n") == 1
    assert not (tmp_path / "family").exists()


def test_a_model_that_can_not_be_that_small(invoke, net, tmp_path):
    found = invoke(*options(net, tmp_path / "family", "--least", "0.0001"))
    assert found.code == 4 and "can't be met" in found.err


def test_sensitivity(invoke, net, tmp_path):
    plot, report = tmp_path / "curves.svg", tmp_path / "curves.json"
    call = ["sensitivity", net, "--calibration", tmp_path / "data.npz", "--ratio", 0.5, "--ratio", 0.25]
    plain = invoke(*call)
    assert plain.code == 0 and "predicted" in plain.out and "measured" not in plain.out
    found = invoke(*call, "--eval", tmp_path / "eval.npz", "--workers", 1, "--plot", plot, "-o", report, "--json")
    assert found.code == 0
    document = json.loads(found.out)
    jsonschema.validate(document, sensitivity.schema())
    assert document == json.loads(report.read_text()) and plot.read_text().startswith("<?xml")
    assert document["ratios"] == [0.25, 0.5] and document["metric"]["name"] == "accuracy"
    assert all(p["metric"] is not None for g in document["groups"] for p in g["points"])
    resumed = [invoke(*call, "--measure", "--workers", 1, "--resume", tmp_path / "work") for _ in range(2)]
    assert resumed[0].out == resumed[1].out and "where readers make up for it" in resumed[0].out
    assert (tmp_path / "work" / "sensitivity.jsonl").read_bytes().count(b"\n") == len(document["groups"])


def test_sensitivity_with_times(invoke, net, tmp_path):
    call = ["sensitivity", net, "--data", tmp_path / "data.npz", "--latency", "--threads", 1, "--latency-cache", tmp_path]
    plain = invoke(*call, "--plot", tmp_path / "curves.svg", "-o", tmp_path / "curves.json")
    told = " ".join(plain.out.split())
    assert plain.code == 0 and "time of the model, by the share that goes" in told and "cpu, 1 thread, x 1x" in told
    assert "foretells the whole model within" in " ".join(plain.out.split())
    document = json.loads((tmp_path / "curves.json").read_text())
    jsonschema.validate(document, sensitivity.schema())
    assert document["latency"] > 0 and document["latency_table"]["cache"].startswith(str(tmp_path))
    assert all(p["latency"] > 0 for g in document["groups"] for p in g["points"])
    again = json.loads(invoke(*call, "--json").out)
    assert again["latency_table"]["measured_now"] == 0 and again["groups"] == document["groups"]
    batch = json.loads(invoke(*call, "--batch", 4, "--provider", "cpu", "--only", "w1", "--json").out)
    assert batch["latency_table"]["batch"] == 4 and batch["latency_table"]["measured_now"] and len(batch["groups"]) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ratio", "1.0"], "not between 0 and 1"),
        (["--workers", "2"], "--measure"),
        (["--labels", "l.npy"], "--eval"),
        (["--threads", "2"], "give --latency"),
        (["--batch", "4"], "give --latency"),
        (["--latency-cache", "cache"], "give --latency"),
        (["--latency", "--provider", "none"], "none"),
    ],
)
def test_wrong_calls_of_sensitivity(invoke, net, more, message):
    found = invoke("sensitivity", net, *more)
    assert found.code == 2 and message in found.err
