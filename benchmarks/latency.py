"""Measure latency targets: what is asked for against a fresh measurement by other processes.

    python benchmarks/latency.py                         # all models, 2 threads, batch 1, --target latency=0.6
    python benchmarks/latency.py --models mobilenet --target 0.5 --threads 1
    python benchmarks/latency.py --report                # table of the results

For each model: seconds to build the table of latencies with an empty cache, and with a full one; `onnxprune prune --target
latency=...`; then `onnxprune bench`, in processes of its own, of the source, the result, and a model with as few
multiply-accumulates whose widths are the same share of each layer, rounded to nothing. A speed-up is as good as its share of the
reduction of multiply-accumulates: 1 where a model with half of them takes half the time.

Writes a JSON list, one record for each model; those that are measured again are replaced. Run it on a machine that does nothing
else. Models come from `benchmarks/third_party.py`; ResNet-50 and MobileNet-v2 (of `benchmarks/zoo`, 224x224) have random weights, which
is enough for times.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "benchmarks" / "zoo"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ZOO)]

RESULTS = Path(__file__).resolve().parent / "results" / "latency.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model and how it is pruned.

    Attributes:
        options: of `onnxprune prune`.
        cnn: a convolutional network, for which the speed-up is compared with that of its multiply-accumulates.
    """

    options: tuple[str, ...]
    cnn: bool = True

    @property
    def shapes(self) -> list[str]:
        """Options that `onnxprune bench` takes too."""
        return [x for k, o in enumerate(self.options) if o == "--shape" for x in self.options[k : k + 2]]


CASES = {
    "resnet50": Case(("--data", "synthetic", "--samples", "16")),
    "mobilenet": Case(("--data", str(ROOT / "models" / "fashion_mnist.npz"), "--samples", "256")),
    "mobilenet_v2": Case(("--data", "synthetic", "--samples", "16")),
    "efficientnet_lite0": Case(("--data", "synthetic", "--samples", "16")),
    "minilm": Case(("--data", "synthetic", "--samples", "64", "--shape", "ids=1,128", "--shape", "mask=1,128"), cnn=False),
}


def source_of(name: str, folder: Path) -> Path:
    """The file of a model."""
    if name == "mobilenet":
        return ROOT / "models" / "mobilenet.onnx"
    if name == "mobilenet_v2":
        from hydrate import hydrate

        onnx.save(hydrate(str(ZOO / "topo" / "mobilenet__mobilenet_v2.onnx.gz")), folder / f"{name}.onnx")
        return folder / f"{name}.onnx"
    import third_party

    if name != "resnet50":
        return third_party.fetch(name)
    path = folder / "resnet50.onnx"
    onnx.save(with_random_weights(onnx.load(third_party.fetch("light_resnet50"))), path)
    return path


def with_random_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with what ConstantOfShape makes as initializers: kernels of He's variance, vectors about 1."""
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = [n for n in model.graph.node if n.op_type == "ConstantOfShape"]
    rest = [n for n in model.graph.node if n.op_type != "ConstantOfShape"]
    weights = []
    for node in made:
        shape = shapes[node.input[0]]
        values = rng.uniform(0.9, 1.1, shape)
        if len(shape) > 1:
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    read = {name for node in rest for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in read]
    stored = {t.name for t in [*kept, *weights]} | set(shapes)
    inputs = [i for i in model.graph.input if i.name not in stored]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for field, items in (("node", rest), ("initializer", [*kept, *weights]), ("input", inputs)):
        del getattr(result.graph, field)[:]
        getattr(result.graph, field).extend(items)
    result.ir_version = max(result.ir_version, 4)
    onnx.checker.check_model(result)
    return result


def onnxprune(*arguments: str) -> float:
    """Runs the command line; seconds."""
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "onnxprune", "-q", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"onnxprune {' '.join(arguments)}: exit code {ran.returncode}: {ran.stderr.strip()[-500:]}")
    return time.perf_counter() - start


def table_seconds(source: Path, case: Case, threads: int, cache: Path) -> tuple[float, float, Record]:
    """Seconds in a fresh process each: the table with an empty cache and with a full one; what was said of it."""
    code = (
        "import sys, time, json; sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[1] + '/benchmarks')\n"
        "import latency; print(json.dumps(latency.build(*sys.argv[2:])))"
    )
    shapes = json.dumps([s for s in case.shapes if s != "--shape"])
    found = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(source), shapes, str(threads), str(cache)],
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    return found[0]["seconds"], found[1]["seconds"], found[1]


def build(source: str, shapes: str, threads: str, cache: str) -> Record:
    """Builds the table for a model, reading and analysing it included; called in a process of its own."""
    start = time.perf_counter()
    from onnxprune.budget.axes import Axes
    from onnxprune.cli import values
    from onnxprune.io.load import load_model
    from onnxprune.latency.build import latency_cost
    from onnxprune.latency.timing import Timing
    from onnxprune.pipeline.stages import analysed
    from onnxprune.select.allocate import Options, ranked
    from onnxprune.select.context import ScoreContext
    from onnxprune.select.criteria import score

    given = values.shapes(json.loads(shapes)) or None
    prepared, groups = analysed(load_model(source), width=False, shapes=given)
    choices = ranked(groups, Options(), score(ScoreContext(groups), "l2"))
    timing = Timing(int(threads), 1, cache)
    cost = latency_cost(prepared, groups, choices, Axes(groups, choices), timing, shapes=given)
    table = cost.of_table
    return {
        "seconds": time.perf_counter() - start,
        "pieces": len(table.works),
        "distinct_pieces": len(set(table.kinds)),
        "samples": table.check.samples,
        "median_error": table.check.error,
        "worst_error": table.check.worst,
        "pieces_by_whole": table.check.pieces,
        "steps": sorted(set(table.steps.values())),
    }


def measure(name: str, target: float, threads: int) -> Record:
    """All figures of one model."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, cache = source_of(name, folder), folder / "cache"
        ours, plain, report = folder / "ours.onnx", folder / "plain.onnx", folder / "report.json"
        fresh, cached, table = table_seconds(source, case, threads, cache)
        told = ("--threads", str(threads), "--latency-cache", str(cache))
        seconds = onnxprune(
            "prune", str(source), "-o", str(ours), "--target", f"latency={target}", *told, *case.options,
            "--no-latency", "--report-out", str(report),
        )  # fmt: skip
        said = json.loads(report.read_text())["report"]
        left = said["macs_after"] / said["macs_before"]
        shape = case.shapes
        onnxprune(
            "prune", str(source), "-o", str(plain), "--target", f"macs={left:.4f}", "--ranking", "local", "--criterion", "l2",
            "--reconstruct", "none", "--no-latency", *shape,
        )  # fmt: skip
        out = folder / "bench.json"
        onnxprune("bench", str(source), str(ours), str(plain), "--threads", str(threads), "-o", str(out), *shape)
        benched = json.loads(out.read_text())
    found = benched["configurations"][0]
    dense, pruned, unaware = found["measurements"]
    share = 1 / pruned["speedup"]["value"]
    record = {
        "model": name,
        "threads": threads,
        "target": target,
        "machine": f"{platform.machine()}, {benched['environment']['cpu']}, {benched['environment']['cores']} cores",
        "load": benched["environment"]["load"],
        "noise": found["noise"],
        "table": {"seconds": fresh, "seconds_cached": cached, **{k: v for k, v in table.items() if k != "seconds"}},
        "prune_seconds": seconds,
        "dense_ms": dense["p50_ms"],
        "ours_ms": pruned["p50_ms"],
        "share": share,
        "share_interval": [1 / pruned["speedup"]["high"], 1 / pruned["speedup"]["low"]],
        "off_target": share / target - 1,
        "said": {k: said["latency"][k] for k in ("modelled_ms", "measured_ms", "dense_ms", "error")},
        "rounds": said["targets"][0]["rounds"],
        "macs_reduction": dense["macs"] / pruned["macs"],
        "speedup": pruned["speedup"]["value"],
        "speedup_by_macs": pruned["speedup"]["value"] * pruned["macs"] / dense["macs"],
        "unaware": {
            "macs_reduction": dense["macs"] / unaware["macs"],
            "speedup": unaware["speedup"]["value"],
            "speedup_by_macs": unaware["speedup"]["value"] * unaware["macs"] / dense["macs"],
        },
        "cnn": case.cnn,
    }
    return record


def report(records: list[Record]) -> str:
    """Markdown."""
    head = (
        "| model | table | cached | target | measured | off | model error | MACs | speed-up | of MACs | unaware: of MACs |"
    )
    rows = [head, "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in records:
        rows.append(
            f"| {r['model']}, {r['threads']} threads | {r['table']['seconds']:.0f} s | {r['table']['seconds_cached']:.1f} s "
            f"| {r['target']:.1%} | {r['share']:.1%} | {r['off_target']:+.1%} | {r['table']['median_error']:.1%} "
            f"| 1/{r['macs_reduction']:.2f} | {r['speedup']:.2f}x | {r['speedup_by_macs']:.2f} "
            f"| {r['unaware']['speedup_by_macs']:.2f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--target", type=float, default=0.6, help="share of the source's latency")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print a table of what is in the file")
    chosen = parser.parse_args()
    records: list[Record] = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
    for name in [] if chosen.report else chosen.models:
        new = measure(name, chosen.target, chosen.threads)
        key = (name, chosen.threads, chosen.target)
        records = [r for r in records if (r["model"], r["threads"], r["target"]) != key] + [new]
        chosen.out.write_text(json.dumps(records, indent=1) + "\n")
    print(report(records))


if __name__ == "__main__":
    main()
