"""Runs one contestant on one setting and judges what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from accuracy.contestants import Contestant
from accuracy.exchange import write_batches
from accuracy.task import Outputs, Setting, Task

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = 9  # of the bisection: the ratio to 0.002
UNTOUCHED = 0.999  # share of the multiply-accumulates

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One measurement; `samples` is 0 where a contestant needs no data."""

    task: Task
    setting: Setting
    contestant: Contestant
    samples: int
    seed: int

    @property
    def key(self) -> str:
        return "/".join(map(str, (self.task.name, self.setting.name, self.contestant.name, self.samples, self.seed)))


def open_session(model: Path | bytes, threads: int) -> ort.InferenceSession:
    """A session on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def dense_record(task: Task, threads: int) -> tuple[Record, Outputs]:
    """The dense model's figures and outputs."""
    path = task.model()
    outputs = task.outputs(open_session(path, threads))
    return {
        "title": task.title,
        "metric": task.metric,
        "figures": rounded(task.figures(outputs, outputs)),
        "macs": macs(path, task),
        "params": params(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": task.data(),
    }, outputs


def search_ratio(task: Task, setting: Setting) -> float:
    """The least uniform ratio at which at most the setting's share of the multiply-accumulates stays; no data, no proof."""
    import onnxprune

    if setting.macs is None:
        return float(setting.options.get("ratio", 0.0))
    model = onnx.load(task.model())
    low, high = 0.0, 1 - 2.0**-STEPS
    for _ in range(STEPS):
        middle = (low + high) / 2
        try:
            report = onnxprune.prune(model, **setting.options, ratio=middle, shapes=task.shapes, check=False).report
            share = report.macs_after / report.macs_before
        except onnxprune.NothingToPruneError:
            share = 1.0
        low, high = (low, middle) if share <= setting.macs else (middle, high)
    return high


def measure(case: Case, ratio: float, dense: Outputs, dense_macs: int, python: str, timeout: float, threads: int) -> Record:
    """Runs the contestant in a process of its own, then the evaluation here."""
    record: Record = {
        "task": case.task.name, "setting": case.setting.name, "contestant": case.contestant.name,
        "samples": case.samples, "seed": case.seed, "tool": case.contestant.tool,
        "options": case.contestant.request(case.setting, ratio),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="accuracy-") as place:
        folder = Path(place)
        record |= _run(case, record["options"], folder, python, timeout)
        if record["status"] != "ok":
            return record
        pruned = folder / "pruned.onnx"
        record |= {"macs": record.pop("macs_after", None), "params": params(pruned)}
        record.pop("macs_before", None)
        try:
            record["macs"] = record["macs"] or macs(pruned, case.task)
            if record["macs"] > UNTOUCHED * dense_macs:
                return record | {"status": "nothing", "error": "nothing was pruned"}
            start = time.perf_counter()
            outputs = case.task.outputs(open_session(pruned, threads))
            record["evaluation_seconds"] = round(time.perf_counter() - start, 2)
        except Exception as error:  # a result that can't be run is a result
            return record | {"status": "broken", "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    record["figures"] = rounded(case.task.figures(outputs, dense))
    record["met"] = {f"{t.figure} {t.relation} {t.bound:g}": t.met(record["figures"]) for t in case.setting.targets}
    return record


def _run(case: Case, options: Record, folder: Path, python: str, timeout: float) -> Record:
    request = {
        "model": str(case.task.model()), "shapes": case.task.shapes, "mask": case.task.mask, "options": options,
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request))
    if case.samples:
        write_batches(folder / "calibration.npz", case.task.calibration(case.samples, case.seed))
    command = [python, str(HERE / case.contestant.script), str(folder)]
    path = str(ROOT) if case.contestant.tool == "onnxprune" else ""
    environment = {"OPENBLAS_THREAD_TIMEOUT": "4"} | os.environ | {"PYTHONPATH": path}  # as the command line sets it
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "error": f"not done after {timeout:g} s"}
    answer = folder / "answer.json"
    if answer.exists():
        found: Record = json.loads(answer.read_text())
        return found
    return {"status": "died", "error": f"exit code {done.returncode}: {' '.join(done.stderr.split())[-400:]}"}


def macs(path: Path, task: Task) -> int:
    """Multiply-accumulates of one run at the task's shapes, counted alike for all contestants."""
    import onnxprune
    from onnxprune.report.report import total_macs

    groups = onnxprune.analyze(path, shapes=task.shapes)
    return total_macs(groups, groups.trace.graph)


def params(path: Path) -> int:
    """Elements of all weight tensors."""
    from peers.measure import parameters

    return parameters(onnx.load(path))["params"]


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures to six digits."""
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def source_hash() -> str:
    """Hash of the package's source."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "onnxprune").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def tool_version(tool: str, python: str) -> str:
    """Version of a contestant's tool in an environment, "" where it is not installed."""
    if tool == "onnxprune":
        import onnxprune

        return onnxprune.__version__
    code = f"import {tool}; from importlib.metadata import version; print(version({tool!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(threads: int) -> Record:
    """Versions and the kind of machine."""
    names = ("numpy", "scipy", "onnx", "onnxruntime", "pillow", "tokenizers")
    packages: Record = {}
    for name in names:
        try:
            packages[name] = version(name)
        except ImportError:
            packages[name] = None
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return machine | {"threads": threads or "default"} | packages


def default_python(tool: str, peer: str) -> str:
    """Interpreter of a tool."""
    return sys.executable if tool == "onnxprune" else peer
