"""Models measured for real, in processes of their own."""

import dataclasses
import io
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

import onnxprune
from onnxprune.bench import run as module
from onnxprune.bench.assignment import NodeTime, NodeTimes
from onnxprune.bench.export import to_csv
from onnxprune.bench.inputs import natural_batch
from onnxprune.bench.noise import Usage, noise
from onnxprune.bench.request import names_of
from onnxprune.bench.result import schema
from onnxprune.bench.tables import benchmark_tables, speedup_text
from onnxprune.bench.timing import Times
from onnxprune.cli.screen import to_json
from onnxprune.errors import ModelError, UsageError

from .conftest import chain


def test_the_shorter_chain_is_faster_and_everything_is_counted(measured):
    (configuration,) = measured.configurations
    long, short = configuration.measurements
    assert long.speedup is None and short.speedup.verdict == "faster" and 3 < short.speedup.value < 16
    assert short.speedup.observations == len(short.processes) == 4 and short.speedup.unit == "process"
    assert (long.macs, short.macs) == (40 * 16 * 256 * 256, 5 * 16 * 256 * 256)
    assert [(m.parameters, m.nodes) for m in measured.models] == [(65536, 40), (65536, 5)]
    assert configuration.inputs == {"h0": (16, 256)} and configuration.threads == 1 and not configuration.bound
    assert configuration.throughput(long) == pytest.approx(16e3 / long.times.p50)
    for each in (long, short):
        assert each.session_ms > 0 and each.first_ms > 0
        assert 0 < each.added_bytes < each.peak_bytes < 2**30
        assert each.device_bytes is None and each.upload_ms is None
        assert all(len(p.times.rounds) >= 5 for p in each.processes)
    profile = configuration.profile
    assert profile.operators[0].count == {"long.onnx": 40, "short.onnx": 5}
    assert sum("short.onnx" in row.ms for row in profile.nodes) == 5


def test_json_by_the_schema_and_back(measured, tmp_path):
    Draft202012Validator.check_schema(schema())
    text = to_json(measured.to_dict())
    Draft202012Validator(schema()).validate(json.loads(text))
    (tmp_path / "run.json").write_text(text)
    assert to_json(onnxprune.load_benchmark(tmp_path / "run.json").to_dict()) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 99}, "version 99"), ({"format": "x"}, "no result"), ({"models": []}, r"\$\.models"), ({"x": 1}, "x")],
)
def test_other_documents_are_refused(measured, tmp_path, change, message):
    (tmp_path / "run.json").write_text(to_json({**measured.to_dict(), **change}))
    with pytest.raises(ModelError, match=message):
        onnxprune.load_benchmark(tmp_path / "run.json")


def test_csv_has_a_line_for_each(measured):
    header, *lines = (line.split(",") for line in to_csv(measured).splitlines())
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [f["model"] for f in found] == ["long.onnx", "short.onnx"]
    assert found[0]["speedup_verdict"] == "" and found[1]["speedup_verdict"] == "faster"
    assert float(found[1]["p50_ms"]) == measured.configurations[0].measurements[1].times.p50


def rendered(found, width, **options):
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    for part in benchmark_tables(found, verbose=options.get("verbose", False)):
        console.print(part)
    return out.getvalue()


def test_tables_fit_into_80_columns(measured):
    text = rendered(measured, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "x faster (" in text and "99 % confidence" in text and "not measured" not in text
    assert "of 40 that differ most" in text and "of 40" not in rendered(measured, 80, verbose=True)


def test_what_a_device_was_not_asked_for_is_not_measured(measured):
    (configuration,) = measured.configurations
    bound = dataclasses.replace(configuration, bound=True)
    assert "not measured" in rendered(dataclasses.replace(measured, configurations=(bound,)), 80)


def test_a_difference_is_put_into_words(measured):
    faster = measured.configurations[0].measurements[1].speedup
    same = dataclasses.replace(faster, value=1.01, low=0.99, high=1.03)
    assert speedup_text(same) == "no measurable difference (0.99..1.03)"
    slower = dataclasses.replace(faster, value=0.5, low=0.4, high=0.8)
    assert speedup_text(slower) == "2.00x slower (1.25..2.50)"


def small_request(**options):
    return onnxprune.BenchRequest(**{"processes": 4, "seconds": 0, **options})


def test_a_model_in_memory_and_half_precision(monkeypatch):
    """Inputs of a variant are those of the first model, in its own precision."""
    half = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float16[N, 256] h0) => (float16[N, 256] y) { y = Relu (h0) }'
    )
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    found = onnxprune.benchmark([chain(1), half], request=small_request(bound=True, batch=(2,)))
    (configuration,) = found.configurations
    assert [m.name for m in found.models] == ["model 1", "model 2"] and configuration.bound
    assert all(m.upload_ms > 0 and m.download_ms > 0 for m in configuration.measurements)


def test_wrong_inputs_are_named(files, tmp_path):
    other = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3] z) => (float[N, 3] y) { y = Relu (z) }'
    )
    with pytest.raises(ModelError, match="model 2: input 'z' is none of the first model's"):
        onnxprune.benchmark([chain(1), other])
    fixed = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[4, 3] z) => (float[4, 3] y) { y = Relu (z) }'
    )
    with pytest.raises(UsageError, match=r"--batch 2: the model fixes .* \(4\)"):
        onnxprune.benchmark([fixed], request=small_request(batch=(2,)))
    np.save(tmp_path / "few.npy", np.ones((3, 256), np.float32))
    with pytest.raises(UsageError, match="--batch 8: there are only 3 samples"):
        onnxprune.benchmark([chain(1)], request=small_request(batch=(8,), data=tmp_path / "few.npy"))


def test_a_process_that_dies_is_reported(monkeypatch, files):
    monkeypatch.setattr("onnxprune.bench.process._START", "import sys; sys.exit('out of luck')")
    with pytest.raises(ModelError, match="long.onnx: its process ended with code 1: out of luck"):
        onnxprune.benchmark(files[:1])


@pytest.fixture
def cuda(monkeypatch):
    """ONNX Runtime says it has CUDA; its processes know better."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if there[0] in ort.get_available_providers():
        pytest.skip("it is there")
    monkeypatch.setattr(ort, "get_available_providers", lambda: there)


def test_a_provider_that_does_not_start_is_an_error(cuda, files):
    with pytest.raises(UsageError, match="'cuda' .* did not start"):
        onnxprune.benchmark(files[:1], request=small_request(providers=("cuda:device_id=0",)))


def test_nodes_that_fall_back_are_an_error_unless_allowed(cuda, files, monkeypatch):
    """With a profile as a machine with CUDA would give it."""
    nodes = (
        NodeTime("a", "MatMul", "CUDAExecutionProvider", 1.0, False),
        NodeTime("b", "TopK", "CPUExecutionProvider", 1.0, False),
    )
    monkeypatch.setattr(module._Run, "_profile", lambda self, name: NodeTimes(nodes, 3, 2.0))
    with pytest.raises(UsageError, match="1 of 2 nodes fell back from cuda to cpu: 'b'"):
        onnxprune.benchmark(files[:1], request=small_request(providers=("cuda",)))
    kept = {}
    monkeypatch.setattr(module._Run, "_repeat", lambda self: kept.update(order=self.orders["long.onnx"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        onnxprune.benchmark(
            files[:1], request=small_request(providers=("cuda:device_id=1",), allow_fallback=True, cuda_graph=True)
        )
    assert kept["order"].device == ("cuda", 1)
    assert kept["order"].providers == [("CUDAExecutionProvider", {"device_id": "1", "enable_cuda_graph": "1"})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": ("tpu",)}, "'tpu' is not part"),
        ({"cuda_graph": True}, "cpu knows no CUDA graphs"),
        ({"libraries": ("/nowhere.so",)}, "no such provider library"),
        ({"libraries": (__file__,)}, "can't load it as a provider library"),
    ],
)
def test_what_can_not_be_done_is_said_first(options, message, files):
    with pytest.raises(UsageError, match=message):
        onnxprune.benchmark(files[:1], request=small_request(**options))


@pytest.mark.parametrize(
    "options", [{"processes": 3}, {"batch": (0,)}, {"confidence": 1.0}, {"providers": ()}, {"threads": (-1,)}]
)
def test_requests_that_make_no_sense(options):
    with pytest.raises(UsageError):
        onnxprune.BenchRequest(**options)


@pytest.mark.parametrize(
    ("dims", "shapes", "batch"), [("N, 3", {}, 1), ("4, 3", {}, 4), ("N, 3", {"z": (6, 3)}, 6), ("", {}, 1)]
)
def test_the_batch_that_nobody_names(dims, shapes, batch):
    text = f'<ir_version: 8, opset_import: ["" : 17]> m (float[{dims}] z) => (float[{dims}] y) {{ y = Relu (z) }}'
    assert natural_batch(onnx.parser.parse_model(text), shapes) == batch


def test_names_are_short_and_different():
    assert names_of(["a/x.onnx", "a/y.onnx"]) == ["x.onnx", "y.onnx"]
    assert names_of(["a/x.onnx", "b/x.onnx"]) == ["a/x.onnx", "b/x.onnx"]
    assert names_of(["x.onnx", "x.onnx"]) == ["x.onnx #1", "x.onnx #2"]


def test_reasons_to_doubt():
    calm = [Times((np.full(20, 1.0), np.full(20, 1.01))) for _ in range(4)]
    assert noise(Usage(10, 2, 0.5, 0.0, 0), {"m": calm}) == []
    moved = [Times((np.full(20, m),)) for m in (1.0, 1.0, 1.3)]
    tail = [Times((np.r_[np.ones(16), np.full(4, 9.0)],)) for _ in range(4)]
    found = "\n".join(noise(Usage(10, 2, 9.0, 3.0, 2), {"m": moved, "t": tail}))
    for text in (
        "other programs took 45%",
        "hypervisor took 15%",
        "2 times",
        "m: medians .* differ by 30%",
        "t: a tenth .* 9.0",
    ):
        assert __import__("re").search(text, found), text
