"""Whole processes: pruning a ResNet-50 from the command line, and importing the package.

    python benchmarks/speed.py
    python benchmarks/speed.py --repeat 3 --key resnet__resnet18

Every figure is of a process of its own, measured from outside: wall time and peak resident memory. What is compared takes
turns within each round (A B C, A B C, ...). Medians and every single figure go to `benchmarks/results/speed.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
Command = list[str]


def measure(command: Command) -> dict[str, float]:
    """Wall seconds and peak resident memory in MB of one process.

    Raises:
        SystemExit: the command fails; its last words are shown.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(
                f"{' '.join(command)}: exit code {process.returncode}\n{errors.read()[-800:].decode(errors='replace')}"
            )
    return {"seconds": round(seconds, 4), "rss_mb": round(usage.ru_maxrss / 1024, 1)}


def rounds(commands: dict[str, Command], repeat: int) -> dict[str, dict[str, Any]]:
    """Medians of each command; one round first that does not count (it fills the caches of the disk)."""
    for command in commands.values():
        measure(command)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for k in range(repeat):
        for name, command in commands.items():
            runs[name].append(measure(command))
            print(f"round {k + 1}  {name}: {runs[name][-1]}", flush=True)
    return {
        name: {
            "seconds": statistics.median(r["seconds"] for r in rows),
            "rss_mb": statistics.median(r["rss_mb"] for r in rows),
            "runs": rows,
        }
        for name, rows in runs.items()
    }


def calibrating(model: Path, out: Path, images: Path, samples: int) -> dict[str, dict[str, Any]]:
    """One run with calibration images, and one with what the command does without data; neither is timed afterwards."""
    pixels = f"np.random.default_rng(0).integers(0, 256, ({samples}, 224, 224, 3), np.uint8)"
    make = f"import numpy as np; np.savez({str(images)!r}, images={pixels})"
    subprocess.run([sys.executable, "-c", make], check=True)  # what this process holds counts for its children
    prune = [sys.executable, "-m", "onnxprune", "prune", str(model), "-o", str(out), "--ratio", "0.5", "--no-latency"]
    runs = {"no data": measure(prune)}
    runs[f"{samples} images"] = measure([*prune, "--data", str(images), "--samples", str(samples)])
    for name, figures in runs.items():
        print(f"{name}: {figures}", flush=True)
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", default="resnet__resnet50", help="model of the zoo")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--samples", type=int, default=512, help="calibration images of one more run; 0 for none")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    arguments = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        model, out = Path(folder) / "model.onnx", Path(folder) / "out.onnx"
        source = HERE / "zoo" / "topo" / f"{arguments.key}.onnx.gz"
        subprocess.run([python, str(HERE / "zoo" / "hydrate.py"), "hydrate", str(source), str(model)], check=True)
        size = model.stat().st_size / 2**20
        prune = [python, "-m", "onnxprune", "prune", str(model), "-o", str(out), "--ratio", "0.5", "--reconstruct", "none"]
        commands = {
            "prune": prune,
            "prune --no-verify": [*prune, "--no-verify"],
            "load with onnx": [python, "-c", f"import onnx; onnx.load({str(model)!r})"],
        }
        pruning = rounds(commands, arguments.repeat)
        after = out.stat().st_size / 2**20
        calibrated = calibrating(model, out, Path(folder) / "images.npz", arguments.samples) if arguments.samples else {}
    imports = {
        "python": [python, "-c", "pass"],
        "import onnxprune": [python, "-c", "import onnxprune"],
        "import numpy": [python, "-c", "import numpy"],
        "onnxprune --version": [python, "-m", "onnxprune", "--version"],
    }
    importing = rounds(imports, arguments.repeat)
    for figures in pruning.values():
        figures["rss_over_file"] = round(figures["rss_mb"] / size, 2)
    data = {
        "model": arguments.key,
        "file_mb": round(size, 1),
        "pruned_mb": round(after, 1),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "pruning": pruning,
        "importing": importing,
        "calibrated": calibrated,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"{arguments.key}: file {size:.1f} MB, pruned {after:.1f} MB")
    for name, figures in {**pruning, **importing}.items():
        print(f"{name:>20}: {figures['seconds']:7.3f} s  {figures['rss_mb']:7.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
