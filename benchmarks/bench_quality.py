"""How good `onnxprune bench` is at telling noise from speed, on this machine.

    python benchmarks/bench_quality.py [--runs 20] [-o benchmarks/results/bench_quality.json]

Four questions, on a chain of matrix products that takes about a millisecond:

* the same file twice: how often does it say "no measurable difference"?
* the same chain with 5 % more products: how often is it called slower?
* what does the harness add to a run, against a bare loop around `session.run` in a process of its own?
* do models of models/ take as long as in a bare loop?

Best on a machine that does nothing else; the file says how busy it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import onnxprune
from onnxprune.bench.environment import environment
from onnxprune.bench.statistics import NO_DIFFERENCE, interval
from onnxprune.bench.tables import speedup_text

ROOT = Path(__file__).resolve().parents[1]
LAYERS, MORE = 20, 21  # 5 % more work
WIDTH, ROWS = 192, 48
AGREEING = ("resnet", "mobilenet", "vit_legacy", "gru")

# What people write by hand: warm up, then time every run. The median goes to stdout.
BARE = """
import sys, time, pickle
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[4])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = pickle.load(open(sys.argv[2], "rb"))
end = time.perf_counter() + 0.5
while time.perf_counter() < end:
    session.run(None, feeds)
times = []
end = time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < end:
    start = time.perf_counter_ns()
    session.run(None, feeds)
    times.append(time.perf_counter_ns() - start)
print(np.median(times) / 1e6)
"""


def chain(length: int, path: Path) -> Path:
    """A file with so many products of (48, 192) with (192, 192), each with weights of its own."""
    body = "\n".join(f"h{k + 1} = MatMul (h{k}, w{k})" for k in range(length))
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, {ROWS}, {WIDTH}] h0) => (float[N, {ROWS}, {WIDTH}] h{length})'
    )
    model = onnx.parser.parse_model(f"{text} {{ {body} }}")
    rng = np.random.default_rng(0)
    for k in range(length):
        weights = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), f"w{k}"))
    onnx.save(model, path)
    return path


def verdicts(files: Sequence[Path], runs: int, threads: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """What the tool says of two files, each time anew, with the settings it has by default but for the threads."""
    found = []
    for k in range(runs):
        start = time.monotonic()
        configuration = onnxprune.benchmark(
            files, request=onnxprune.BenchRequest(threads=(threads,), seed=k)
        ).configurations[0]
        first, other = configuration.measurements
        assert other.speedup is not None
        found.append(
            {
                **asdict(other.speedup),
                "verdict": other.speedup.verdict,
                "p50_ms": [first.times.p50, other.times.p50],
                "seconds": time.monotonic() - start,
                "noise": list(configuration.noise),
            }
        )
        tell(f"{files[0].stem} and {files[1].stem}, {k + 1} of {runs}: {speedup_text(other.speedup)}")
    return found


def against_a_bare_loop(file: Path, pairs: int, threads: int = 0, seconds: float = 1.0) -> dict[str, Any]:
    """Median latency of the harness by that of a bare loop, each in fresh processes that take turns."""
    import pickle

    from onnxprune.bench.inputs import made_up
    from onnxprune.bench.process import ModelProcess
    from onnxprune.bench.timing import Effort, interleave
    from onnxprune.bench.worker import Order

    model = onnx.load(file)
    harness, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        feeds = Path(folder) / "feeds"
        feeds.write_bytes(pickle.dumps(made_up(model)))
        order = Order(str(file), file.stem, [("CPUExecutionProvider", {})], [], threads, None, str(feeds))

        def by_harness() -> None:
            with ModelProcess(order) as process:
                process.imported()
                process.open()
                harness.append(interleave({"m": process}, Effort(seconds, 5))["m"].p50)

        def by_hand() -> None:
            command = [sys.executable, "-c", BARE, str(file), str(feeds), str(seconds), str(threads)]
            bare.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

        for k in range(pairs):
            for measure in (by_harness, by_hand) if k % 2 else (by_hand, by_harness):
                measure()
    ratio = interval(np.log(harness) - np.log(bare), "process")
    return {"model": file.stem, "harness_ms": harness, "bare_ms": bare, "ratio": asdict(ratio)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="A/A runs; half as many with more work")
    # Threads of one run wait for each other: on cores that others use too, that would measure the scheduler.
    parser.add_argument("--threads", type=int, default=1, help="of the chain; 0 for ONNX Runtime's choice")
    parser.add_argument("--pairs", type=int, default=12, help="processes against a bare loop")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "bench_quality.json")
    parser.add_argument("--agreement", action="store_true", help="only compare with bare loops again; the rest stays")
    given = parser.parse_args()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found: dict[str, Any] = {"environment": asdict(environment()), "threads": given.threads}
    if given.agreement:
        found = json.loads(given.output.read_text())
    with tempfile.TemporaryDirectory() as folder:
        base, more = (chain(n, Path(folder) / f"chain{n}.onnx") for n in (LAYERS, MORE))
        if not given.agreement:
            found["same"] = verdicts([base, base], given.runs, given.threads, tell)
            found["more"] = verdicts([base, more], (given.runs + 1) // 2, given.threads, tell)
        found["overhead"] = against_a_bare_loop(base, given.pairs, given.threads)
    found["agreement"] = [against_a_bare_loop(ROOT / "models" / f"{name}.onnx", given.pairs) for name in AGREEING]
    same = sum(r["verdict"] == NO_DIFFERENCE for r in found["same"])
    slower = sum(r["verdict"] == "slower" for r in found["more"])
    found["summary"] = {
        "same_file_no_difference": [same, len(found["same"])],
        "five_percent_detected": [slower, len(found["more"])],
        "overhead": found["overhead"]["ratio"]["value"] - 1,
        "agreement": {r["model"]: r["ratio"]["value"] - 1 for r in found["agreement"]},
    }
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
