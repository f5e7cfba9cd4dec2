"""Measure what allocations lose at the same budget: one criterion and one repair, only the widths differ.

    python benchmarks/allocation.py --list
    python benchmarks/allocation.py --models resnet --targets macs=0.5 --contestants knapsack uniform
    python benchmarks/allocation.py --seeds 0 1 2 --out allocation.json
    python benchmarks/allocation.py --report

Writes a JSON list, one record for each model, target, contestant and seed; what is there already is not measured again. A seed
is a draw of 128 of the 1,024 calibration images of `models/fashion_mnist.npz`; scores are of its 2,000 labelled images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402
from onnxprune.errors import OnnxPruneError  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "allocation.json"
DATA = ROOT / "models" / "fashion_mnist.npz"
MODELS = ("resnet", "mobilenet", "vit_legacy")
TARGETS = ("macs=0.5", "macs=0.35")
CONTESTANTS: dict[str, dict[str, Any]] = {
    "knapsack": {"ranking": "knapsack"},
    "uniform": {"ranking": "local"},
    "global": {"ranking": "global"},
    "isomorphic": {"ranking": "isomorphic"},
    "global L2": {"ranking": "global", "criterion": "l2"},
}
SAMPLES = 128

Record = dict[str, Any]


def images(seed: int) -> list[dict[str, np.ndarray]]:
    """A draw of the calibration images as feeds."""
    with np.load(DATA) as held:
        pool = ((held["calibration"][:, None] / 255.0 - held["mean"]) / held["std"]).astype(np.float32)
    rows = np.random.default_rng(seed).permutation(len(pool))[:SAMPLES]
    return [{"image": pool[rows]}]


def measure(model: str, target: str, contestant: str, seed: int) -> Record:
    """One pruning."""
    path = ROOT / "models" / f"{model}.onnx"
    quantity, _, value = target.partition("=")
    start = time.perf_counter()
    try:
        result = onnxprune.prune(path, target={quantity: float(value)}, data=images(seed), **CONTESTANTS[contestant])
    except OnnxPruneError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - start
    report = result.report
    before, after = (onnxprune.evaluate(m, DATA) for m in (path, result.model))
    return {
        "accuracy": after.value,
        "dense": before.value,
        "agreement": before.agreement(after),
        "output_error": report.fidelity[0].relative_error,
        "macs": report.macs_after / report.macs_before,
        "params": report.params_after / report.params_before,
        "seconds": round(seconds, 2),
        "kept": {g.id: g.units - g.removed for g in report.groups},
    }


def table(records: list[Record]) -> str:
    """Accuracy by contestant, the mean over seeds; lowest and highest where there are several."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if "accuracy" in record:
            cells[record["model"], record["target"]][record["contestant"]].append(record["accuracy"])
    lines = [f"| model | target | {' | '.join(CONTESTANTS)} |", "| --- | --- |" + " ---: |" * len(CONTESTANTS)]
    for (model, target), row in cells.items():
        texts = [f"{mean(v):.2f} ({min(v):.1f}-{max(v):.1f})" if (v := row.get(c)) else "-" for c in CONTESTANTS]
        lines.append(f"| {model} | {target} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="only tell what there is")
    parser.add_argument("--report", action="store_true", help="only print the table")
    chosen = parser.parse_args()
    if chosen.list:
        print("models:", *MODELS, "\ntargets:", *TARGETS, "\ncontestants:", ", ".join(CONTESTANTS))
        return
    records: list[Record] = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
    known = {(r["model"], r["target"], r["contestant"], r["seed"]) for r in records}
    wanted = [(m, t, c, s) for s in chosen.seeds for m in chosen.models for t in chosen.targets for c in chosen.contestants]
    for case in () if chosen.report else wanted:
        if case in known:
            continue
        record = dict(zip(("model", "target", "contestant", "seed"), case, strict=True)) | measure(*case)
        records.append(record)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text("[\n" + ",\n".join(json.dumps(r) for r in records) + "\n]\n")
        print(*case, record.get("accuracy", record.get("error")), flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
