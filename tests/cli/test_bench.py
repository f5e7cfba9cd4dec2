"""`onnxprune bench` as people type it."""

import json

import onnx
import pytest

from onnxprune.bench import run as module


@pytest.fixture
def requests(monkeypatch):
    """What the command asks for; nothing is measured."""
    found = []

    def keep(models, *, request, **others):
        found.append((models, request))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "benchmark", keep)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("MODEL", "MODEL", "--providers", "cpu", "cuda:device_id=0,a=b", "--batch", "1,8"),
        ("--providers", "cpu", "cuda:device_id=0,a=b", "MODEL", "MODEL", "--batch", "1,8"),
        ("--batch", "1,8", "--provider", "cpu", "MODEL", "--provider", "cuda:device_id=0,a=b", "MODEL"),
    ],
)
def test_lists_of_providers(invoke, model, requests, arguments):
    assert invoke("bench", *(model if a == "MODEL" else a for a in arguments)).code == 130
    ((models, request),) = requests
    assert models == [model, model] and request.batch == (1, 8)
    assert request.providers == ("cpu", "cuda:device_id=0,a=b")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--providers", "tpu"], 2, "'tpu' is not part of this ONNX Runtime; it has"),
        (["--batch", "1,x"], 2, "--batch 1,x: needs whole numbers from 1 on"),
        (["--threads", "-1"], 2, "--threads -1: needs whole numbers from 0 on"),
        (["--min-speedup", "2"], 2, "needs a second model"),
        (["--processes", "2"], 2, "--processes"),
        (["--data", "nowhere.npz"], 1, "nowhere.npz: no such file"),
        (["-o", "nowhere/run.json"], 2, "does not exist"),
    ],
)
def test_wrong_calls(invoke, model, options, code, message):
    found = invoke("bench", model, *options)
    assert found.code == code and message in found.err and found.err.count("\n") == 1 and not found.out


def test_a_gate_for_pipelines(invoke, model, nothing, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.02)
    files = [tmp_path / "run.json", tmp_path / "run.csv"]
    common = ("--shape", "x=64,1,8,8", "--processes", "4", "--seconds", "0")
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 1, 8, 8] x) => (float[N, 1, 8, 8] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "fast.onnx")
    found = invoke(
        "bench", model, tmp_path / "fast.onnx", *common, "--json", "-o", files[0], "--csv", files[1], "--min-speedup", "1000"
    )
    assert found.code == 4 and "--min-speedup 1000 is not cleared by fast.onnx on cpu" in found.err
    assert json.loads(found.out) == json.loads(files[0].read_text()) and files[1].read_text().count("\n") == 3
    assert invoke("bench", model, tmp_path / "fast.onnx", *common, "--min-speedup", "0.001").code == 0
