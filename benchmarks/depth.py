"""Measure what dropping whole blocks is worth: the same target with widths alone, with blocks and with ranks as choices.

    python benchmarks/depth.py --list
    python benchmarks/depth.py --models vit_legacy --targets macs=0.35
    python benchmarks/depth.py --time
    python benchmarks/depth.py --report

Writes a JSON list, one record for each model, target and contestant; what is there already is not measured again. All
1,024 calibration images of `models/fashion_mnist.npz` are offered, of which 512 are used; scores are of its 2,000 labelled
images. Latency is a share of the source's, both in fresh processes that take turns (`onnxprune.benchmark`, one thread, one
image); `--time` measures it again for all records, for a machine that is quiet by then, from models that are made again.
"""

from __future__ import annotations

import math
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import contest  # noqa: E402
from contest import Record  # noqa: E402

import onnxprune  # noqa: E402
from onnxprune.errors import OnnxPruneError  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "depth.json"
DATA = ROOT / "models" / "fashion_mnist.npz"
MODELS = ("resnet", "vit_legacy", "mobilenet")
TARGETS = ("macs=0.5", "macs=0.35", "macs=0.2")
CONTESTANTS: dict[str, dict[str, Any]] = {
    "widths": {},
    "and blocks": {"depth": True},
    "and ranks": {"low_rank": True},
    "and both": {"depth": True, "low_rank": True},
}
PROCESSES = 4


def pruned(model: str, target: str, contestant: str) -> onnxprune.PruneResult:
    """One pruning."""
    return onnxprune.prune(ROOT / "models" / f"{model}.onnx", target=[target], data=DATA, **CONTESTANTS[contestant])


def latency(model: str, result: onnx.ModelProto) -> dict[str, Any]:
    """Time of a pruned model as a share of its source's, with the interval."""
    request = onnxprune.BenchRequest(processes=PROCESSES, seconds=0, threads=(1,))
    found = onnxprune.benchmark([ROOT / "models" / f"{model}.onnx", result], request=request).configurations[0]
    speedup = found.measurements[1].speedup
    ends = [end if math.isfinite(end) else None for end in (speedup.low, speedup.high)]
    return {"speedup": speedup.value, "interval": ends, "verdict": speedup.verdict}


def measure(model: str, target: str, contestant: str) -> Record:
    """One pruning, scored and timed."""
    path = ROOT / "models" / f"{model}.onnx"
    start = time.perf_counter()
    try:
        result = pruned(model, target, contestant)
    except OnnxPruneError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - start
    report = result.report
    before, after = (onnxprune.evaluate(m, DATA) for m in (path, result.model))
    blocks = report.blocks
    return {
        "accuracy": after.value,
        "dense": before.value,
        "agreement": before.agreement(after),
        "output_error": report.fidelity[0].relative_error,
        "macs": report.macs_after / report.macs_before,
        "params": report.params_after / report.params_before,
        "blocks": [b.reader for b in blocks.gone] if blocks else [],
        "foretold": [[f.blocks, f.loss] for f in blocks.foretold] if blocks else [],
        "repaired": sorted(blocks.repaired.items()) if blocks else [],
        "pairs": len(report.low_rank.factored) if report.low_rank else 0,
        "seconds": round(seconds, 2),
        "latency": latency(model, result.model),
    }


def table(records: list[Record]) -> str:
    """All contestants side by side."""
    lines = [
        "| model | target | contestant | blocks | pairs | accuracy | agreement | output error | speed-up |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in records:
        if "error" in r:
            lines.append(f"| {r['model']} | {r['target']} | {r['contestant']} | {r['error']} |")
            continue
        speed = r["latency"]
        lines.append(
            f"| {r['model']} | {r['target']} | {r['contestant']} | {len(r['blocks'])} | {r['pairs']} | {r['accuracy']:.2f} % | "
            f"{r['agreement']:.1f} % | {r['output_error']:.1%} | {speed['speedup']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = contest.parser(__doc__, MODELS, TARGETS, CONTESTANTS, RESULTS)
    parser.add_argument("--time", action="store_true", help="measure the latency of all records again")
    chosen = parser.parse_args()
    if chosen.list:
        print(contest.listing(MODELS, TARGETS, CONTESTANTS))
        return
    records = contest.Records(chosen.out, ("model", "target", "contestant"))
    if not (chosen.report or chosen.time):
        records.add(product(chosen.models, chosen.targets, chosen.contestants), measure, "accuracy")
    for record in records.all if chosen.time else ():
        if "error" not in record:
            model = pruned(record["model"], record["target"], record["contestant"]).model
            record["latency"] = latency(record["model"], model)
            records.save()
    print(table(records.all))


if __name__ == "__main__":
    main()
