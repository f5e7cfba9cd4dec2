"""Measure what ranks add to widths: the same target, criterion and repair, with and without `low_rank`.

    python benchmarks/low_rank.py --list
    python benchmarks/low_rank.py --models vit_legacy --targets macs=0.5
    python benchmarks/low_rank.py --models minilm --targets macs=0.67 --seeds 0
    python benchmarks/low_rank.py --report

Writes a JSON list, one record for each model, target, contestant and seed; what is there already is not measured again. A seed
is a draw of 128 calibration images of `models/fashion_mnist.npz`, or of 512 texts of WordNet for `minilm`
(`accuracy/wordnet.py`), whose scores are those of `accuracy.py`. Latency is that of source and result in turn, on this machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import contest  # noqa: E402
from contest import Record  # noqa: E402

import onnxprune  # noqa: E402
from onnxprune.bench.inputs import made_up  # noqa: E402
from onnxprune.bench.quick import latency  # noqa: E402
from onnxprune.errors import OnnxPruneError  # noqa: E402
from onnxprune.io.load import load_model  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "low_rank.json"
MODELS = ("vit_legacy", "resnet", "mobilenet", "minilm")
TARGETS = ("macs=0.5", "macs=0.35", "params=0.5")
CONTESTANTS: dict[str, dict[str, Any]] = {"widths": {}, "widths and ranks": {"low_rank": True}}
DATA = ROOT / "models" / "fashion_mnist.npz"
IMAGES, TEXTS = 128, 512


def images(seed: int) -> list[dict[str, np.ndarray]]:
    """A draw of the calibration images as feeds."""
    with np.load(DATA) as held:
        pool = ((held["calibration"][:, None] / 255.0 - held["mean"]) / held["std"]).astype(np.float32)
    rows = np.random.default_rng(seed).permutation(len(pool))[:IMAGES]
    return [{"image": pool[rows]}]


class Fashion:
    """A network of `models/`."""

    def __init__(self, name: str, seed: int) -> None:
        self.path = ROOT / "models" / f"{name}.onnx"
        self.options: dict[str, Any] = {"data": images(seed)}

    def figures(self, model: Any) -> dict[str, float]:
        """Accuracy, and how often both models say the same."""
        before, after = (onnxprune.evaluate(m, DATA) for m in (self.path, model))
        return {"score": after.value, "dense": before.value, "agreement": before.agreement(after)}


class Text:
    """MiniLM: which of 500 nouns does a gloss define?"""

    def __init__(self, name: str, seed: int) -> None:
        from accuracy.wordnet import MiniLM

        self.task = MiniLM()
        self.path = self.task.model()
        feeds = self.task.calibration(TEXTS, seed)
        self.options = {
            "data": feeds, "samples": TEXTS, "mask": self.task.mask, "shapes": dict(self.task.shapes), "ignore": ["pos"]
        }  # fmt: skip

    def figures(self, model: Any) -> dict[str, float]:
        """Share of first ranks, and the cosine of embeddings."""
        import onnxruntime as ort

        dense, small = (
            self.task.outputs(ort.InferenceSession(m, providers=["CPUExecutionProvider"]))
            for m in (str(self.path), model.SerializeToString())
        )
        found, before = self.task.figures(small, dense), self.task.figures(dense, dense)
        return {"score": found["r1"], "dense": before["r1"], "agreement": found["agreement"], "cosine": found["cosine"]}


def timed(source: Path, model: Any, shapes: Any) -> float:
    """Time of a model by that of its source."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        path.write_bytes(model.SerializeToString())
        times = latency({"before": source, "after": path}, made_up(load_model(source), 1, shapes))
    return times["after"].p50 / times["before"].p50


def measure(model: str, target: str, contestant: str, seed: int) -> Record:
    """One pruning."""
    case = Text(model, seed) if model == "minilm" else Fashion(model, seed)
    quantity, _, value = target.partition("=")
    start = time.perf_counter()
    try:
        result = onnxprune.prune(case.path, target={quantity: float(value)}, **case.options, **CONTESTANTS[contestant])
    except OnnxPruneError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - start
    report = result.report
    rows = [] if report.low_rank is None else report.low_rank.factored
    return {
        **{k: round(float(v), 4) for k, v in case.figures(result.model).items()},
        "output_error": report.fidelity[0].relative_error,
        "macs": report.macs_after / report.macs_before,
        "params": report.params_after / report.params_before,
        "latency": round(timed(case.path, result.model, case.options.get("shapes")), 3),
        "seconds": round(seconds, 1),
        "verified": report.verification is not None and report.verification.passed,
        "tried": 0 if report.low_rank is None else report.low_rank.tried,
        "ranks": {f.node: [f.inputs, f.outputs, f.rank] for f in rows},
    }


def table(records: list[Record]) -> str:
    """One row for each model and target, means over seeds."""
    cells: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for r in records:
        if "error" not in r:
            cells.setdefault((r["model"], r["target"]), {}).setdefault(r["contestant"], []).append(r)
    head = "| model | target | dense | " + " | ".join(f"{c}: score, error, latency" for c in CONTESTANTS) + " | pairs |"
    lines = [head, "| --- | --- | ---: |" + " ---: |" * (len(CONTESTANTS) + 1)]
    for (model, target), row in cells.items():
        texts = []
        for c in CONTESTANTS:
            own = row.get(c)
            figures = own and [float(np.mean([r[k] for r in own])) for k in ("score", "output_error", "latency")]
            texts.append(f"{figures[0]:.2f}, {figures[1]:.1%}, {figures[2]:.2f}" if figures else "-")
        dense = next(iter(row.values()))[0]["dense"]
        pairs = [len(r["ranks"]) for r in row.get("widths and ranks", [])]
        lines.append(f"| {model} | {target} | {dense:.2f} | {' | '.join(texts)} | {np.mean(pairs) if pairs else 0:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = contest.parser(__doc__, MODELS, TARGETS, CONTESTANTS, RESULTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    chosen = parser.parse_args()
    if chosen.list:
        print(contest.listing(MODELS, TARGETS, CONTESTANTS))
        return
    records = contest.Records(chosen.out, ("model", "target", "contestant", "seed"))
    if not chosen.report:
        drawn = product(chosen.seeds, chosen.models, chosen.targets, chosen.contestants)
        records.add(((*case, seed) for seed, *case in drawn), measure, "score")
    print(table(records.all))


if __name__ == "__main__":
    main()
