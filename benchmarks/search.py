"""A search on Dask workers, each a process of its own: time with one and with two, and what a kill costs.

    python benchmarks/search.py [--model efficientnet_lite0] [--candidates 60] [--rounds 3] [--out benchmarks/results/search.json]

Measured is the search for the best of some candidates (`onnxprune.search.candidates`), from the first job to the last result,
with workers that have done nothing before: what they open is part of it. One and two workers take turns, as often as
`--rounds` says; the medians are compared. Then a worker is killed in mid-search, then the client (kill -9), which is resumed
from its log. Results have to be the same in all cases. Run it while nothing else does.

The model is one of `latency.py`, or a file. A candidate of EfficientNet-Lite0 takes 0.6 s of one core. Two workers lose time
where they open the model (1 to 2 s each), and where both solve the same compensation of a group: each has a bank of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTS = "starts"
KEPT = Path(tempfile.gettempdir()) / "onnxprune-benchmark-search"  # made once, for all runs
PINNED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> None:
    options = _options()
    if options.client:
        client(options)
        return
    report: dict[str, Any] = {
        "model": options.model,
        "candidates": options.candidates,
        "samples": options.samples,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "seconds": {"1": [], "2": []},
    }
    answers = []
    for _ in range(options.rounds):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder, dask(workers, Path(folder)) as (address, _):
                found = run_client(options, address, Path(folder))
            report["seconds"][str(workers)].append(found["seconds"])
            answers.append(found["errors"])
            print(f"{workers} workers: {found['seconds']:.2f} s", flush=True)
    medians = {n: statistics.median(s) for n, s in report["seconds"].items()}
    report["speed_up"] = medians["1"] / medians["2"]
    report["killed_worker"] = killed_worker(options, answers)
    report["killed_client"] = killed_client(options, answers)
    report["same_results"] = all(a == answers[0] for a in answers)
    report["passed"] = (
        report["speed_up"] >= 1.6
        and report["same_results"]
        and report["killed_worker"]["repeated"] <= 1
        and report["killed_client"]["repeated"] <= 2
    )
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps({**found, options.model: report}, indent=1) + "\n")
    print(json.dumps({n: v for n, v in report.items() if n != "seconds"}, indent=1))
    sys.exit(0 if report["passed"] else 1)


def killed_worker(options: argparse.Namespace, answers: list[Any]) -> dict[str, Any]:
    """One of two workers is killed after a third of the candidates."""
    with tempfile.TemporaryDirectory() as folder, dask(2, Path(folder)) as (address, workers):
        found = run_client(options, address, Path(folder), at=options.candidates // 3, kill=workers[0])
        answers.append(found["errors"])
        return {"seconds": found["seconds"], "repeated": started(Path(folder)) - options.candidates}


def killed_client(options: argparse.Namespace, answers: list[Any]) -> dict[str, Any]:
    """The client is killed after half of the candidates, and started again."""
    with tempfile.TemporaryDirectory() as folder, dask(2, Path(folder)) as (address, _):
        process = start_client(options, address, Path(folder))
        wait_for_lines(Path(folder) / "log.jsonl", options.candidates // 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len((Path(folder) / "log.jsonl").read_text().splitlines())
        found = run_client(options, address, Path(folder))
        lines = len((Path(folder) / "log.jsonl").read_text().splitlines())
        answers.append(found["errors"])
        repeated = started(Path(folder)) - options.candidates
        return {"finished_before": before, "in_the_log": lines, "repeated": repeated}


def note_starts(client: Any, path: Path) -> None:
    """Has the workers write a line for each evaluation that they begin."""
    from distributed import WorkerPlugin

    class Starts(WorkerPlugin):  # type: ignore[misc]
        def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
            if "perform" in str(key) and finish == "executing":
                with path.open("a") as file:
                    file.write(f"{key}\n")

    client.register_plugin(Starts())


def started(folder: Path) -> int:
    """How many evaluations workers began."""
    return len((folder / STARTS).read_text().splitlines())


# ---- the client, a process of its own ----


def client(options: argparse.Namespace) -> None:
    import numpy as np

    from onnxprune.budget.targets import Target
    from onnxprune.calibrate.read import read_samples
    from onnxprune.io.load import load_model
    from onnxprune.jobs.cluster import open_cluster
    from onnxprune.jobs.log import Log
    from onnxprune.search.candidates import Population, evolve
    from onnxprune.search.study import Study, study_request

    cluster = open_cluster("dask", address=options.address)  # at first, as on the command line
    model = load_model(source(options.model))
    data = None if options.data == "synthetic" else str(ROOT / options.data)
    samples = read_samples(data, model, samples=options.samples)
    study = Study(model, study_request(samples, resume=options.statistics))
    widths, budget = study.spend(Target("macs", 0.4, True))
    population = Population(widths, budget.limits(), np.random.default_rng(0))
    with Log(options.folder / "log.jsonl") as log:
        start = time.perf_counter()
        evolve(study, study.judging(study.shared()), [population], options.candidates, cluster, log)
        seconds = time.perf_counter() - start
    cluster.close()
    errors = [[list(map(list, k)), e] for k, e in sorted(population.errors.items())]
    (options.folder / "result.json").write_text(json.dumps({"seconds": seconds, "errors": errors}))


def source(name: str) -> Path:
    """The file of a model."""
    if name.endswith(".onnx"):
        return ROOT / name
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from latency import source_of

    path = KEPT / "resnet50.onnx"  # the one that is made here, with random weights
    KEPT.mkdir(exist_ok=True)
    return path if name == "resnet50" and path.exists() else source_of(name, KEPT)


def start_client(options: argparse.Namespace, address: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).resolve()), "--client", "--address", address, "--folder", str(folder)]
    for name in ("model", "data", "candidates", "samples"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--statistics", str(KEPT / "statistics")]
    return subprocess.Popen(command, env=environment())


def run_client(
    options: argparse.Namespace, address: str, folder: Path, *, at: int = 0, kill: subprocess.Popen[bytes] | None = None
) -> dict[str, Any]:
    process = start_client(options, address, folder)
    if kill is not None:
        wait_for_lines(folder / "log.jsonl", at)
        kill.send_signal(signal.SIGKILL)
    if process.wait() != 0:
        sys.exit("the client failed")
    return dict(json.loads((folder / "result.json").read_text()))


def wait_for_lines(path: Path, count: int) -> None:
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        time.sleep(0.01)


# ---- the cluster ----


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **PINNED, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def dask(count: int, folder: Path) -> Iterator[tuple[str, Sequence[subprocess.Popen[bytes]]]]:
    """A scheduler and workers; the folder gets a line for each evaluation that begins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = [sys.executable, "-m"]
    scheduler = [*program, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [*program, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes = [subprocess.Popen(scheduler, env=environment(), **quiet)]  # type: ignore[call-overload]
    processes += [subprocess.Popen(worker, env=environment(), **quiet) for _ in range(count)]  # type: ignore[call-overload]
    try:
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as held:
            held.wait_for_workers(count, timeout=60)
            note_starts(held, folder / STARTS)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "search.json")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    for name in ("folder", "statistics"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
