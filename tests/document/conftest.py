import json

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import cli
from onnxprune.bench.environment import environment
from onnxprune.bench.profile import Row, SideBySide
from onnxprune.bench.result import Benchmark, BenchModel, Configuration, Measurement, ProcessRun
from onnxprune.bench.statistics import speedup
from onnxprune.bench.timing import Times
from onnxprune.cli.screen import to_json

SCRIPT = "<script>alert(1)</script>"
QUOTES = '"><img src=x onerror=alert(2)> `| @user #1 & _x_'

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
convs (float[N, 1, 8, 8] x) => (float[N, 4] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w2)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = Gemm (f, w3)
}
"""


def model() -> onnx.ModelProto:
    """Two convolutions whose nodes and tensors have names that a page must not take for its own."""
    made = onnx.parser.parse_model(MODEL)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 1, 3, 3)), ("w2", (12, 16, 3, 3)), ("w3", (12, 4))):
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    names = {"w1": SCRIPT, "w2": QUOTES}
    for tensor in made.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for k, node in enumerate(made.graph.node):
        node.name = f"{SCRIPT}{k}" if node.op_type == "Conv" else f"node{k}"
        node.input[:] = [names.get(i, i) for i in node.input]
    return made


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """`prune.json` of a real pruning of a model with hostile names, and its files."""
    place = tmp_path_factory.mktemp("reports")
    onnx.save(model(), place / "dense.onnx")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(place / "data.npz", x=x, labels=rng.integers(0, 4, 40))
    arguments = [
        "prune",
        "dense.onnx",
        "-o",
        "pruned.onnx",
        "--data",
        "data.npz",
        "--eval",
        "data.npz",
        "--report-out",
        "prune.json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_end_on_sigterm", lambda: None)
        patch.chdir(place)
        assert cli.run(arguments) == 0
    return place


@pytest.fixture
def pruning(folder):
    return json.loads((folder / "prune.json").read_text("utf-8"))


def times(rng, median: float) -> Times:
    return Times(tuple(median * np.exp(rng.normal(0, 0.03, 40)) for _ in range(5)))


def benchmark(folder, factor: float = 2.0, profile: bool = True) -> Benchmark:
    """Two models, of which one is so much faster than the other, as if measured in ten processes."""
    rng = np.random.default_rng(2)
    runs = [
        [ProcessRun(times(rng, ms), 30 + ms, 3 * ms, 9_000_000, 5_000_000, None) for _ in range(10)]
        for ms in (1.0, 1.0 / factor)
    ]
    found = speedup([p.times for p in runs[0]], [p.times for p in runs[1]])
    hashes = json.loads((folder / "prune.json").read_text("utf-8"))["sha256"]
    names = ("dense.onnx", "pruned.onnx")
    models = tuple(
        BenchModel(n, f"elsewhere/{n}", hashes[side], 3000 - 1000 * k, 700 - 300 * k, 7)
        for k, (n, side) in enumerate(zip(names, ("input", "output"), strict=True))
    )
    rows = tuple(
        Row(f"{SCRIPT}{k}", "Conv", {"dense.onnx": 0.4, "pruned.onnx": 0.2}, dict.fromkeys(names, 1)) for k in (0, 2)
    )
    node_times = SideBySide(
        (Row("", "Conv", {"dense.onnx": 0.8, "pruned.onnx": 0.4}, dict.fromkeys(names, 2)),),
        rows,
        dict.fromkeys(names, 1.5),
        dict.fromkeys(names, 20),
    )
    measured = (Measurement(names[0], 20_000, tuple(runs[0]), None), Measurement(names[1], 9_000, tuple(runs[1]), found))
    configuration = Configuration(
        "cpu", 1, 1, {"x": (1, 1, 8, 8)}, "random", False, measured, ("made up for a test",), node_times if profile else None
    )
    command = "onnxprune bench dense.onnx pruned.onnx -o bench.json"
    return Benchmark(models, (configuration,), environment(), "2026-01-02T03:04:05+00:00", command, onnxprune.__version__)


def written(found: Benchmark, path):
    path.write_text(to_json(found.to_dict()), "utf-8")
    return path


@pytest.fixture(scope="session")
def bench_file(folder):
    return written(benchmark(folder), folder / "bench.json")


def front(models: int = 4) -> dict:
    """The index of a family."""
    entries = [
        {
            "name": "dense" if k == 0 else f"p{k}",
            "share": 1 - k / 10,
            "figures": {"macs": 1e6 * (1 - k / 10), "params": 1e5, "size": 4e5 * (1 - k / 10), "latency": 1.0 - k / 20},
            "worth": 90.0 - k * k,
            "interval": None if k == 0 else [-k * k - 2.0, -k * k + 2.0],
            "dominated": k == 2,
            "failed": "",
            "files": {"model": f"p{k}.onnx"} if k else {},
        }
        for k in range(models)
    ]
    worth = {"title": "top-1 accuracy", "unit": "percent", "higher_is_better": True}
    source = {"file": "dense.onnx", "sha256": "0" * 64}
    return {
        "format": "onnxprune.front/1",
        "target": "macs",
        "worth": worth,
        "source": source,
        "calibration": "64 samples",
        "evaluation": None,
        "models": entries,
    }
