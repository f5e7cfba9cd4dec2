"""Prune every model of a folder, one process each, and record what happened.

    python benchmarks/coverage.py benchmarks/zoo/topo
    python benchmarks/coverage.py benchmarks/zoo/topo --only 'resnet__*' --width --no-peers
    python benchmarks/coverage.py benchmarks/zoo/topo --peers-only --peer-python venv-peers/bin/python
    python benchmarks/coverage.py benchmarks/zoo/topo --peers-from benchmarks/results/coverage_peers.json --resume

Writes `coverage.json` (every raw figure) and `coverage.md` (tables) into the folder `--out`; `--peers-only` writes
`coverage_peers.json` alone. A crash or a timeout of one model is a record like any other. The files are written after
each model, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coverage_report import markdown

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ZOO = HERE / "zoo"
SUFFIXES = (".onnx.gz", ".onnx")
PEER_PACKAGE = "onnxsim"
PEERS = {"onnxsim": {"simplify": False}, "onnxsim+simplify": {"simplify": True}}
POLL = 0.05
ERROR_TAIL = 400

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One contestant on one model."""

    key: str
    contestant: str
    script: str
    python: str
    request: dict[str, Any] = field(hash=False)


@dataclass
class Running:
    """A job that has a process."""

    job: Job
    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]
    started: float

    @property
    def answer(self) -> Path:
        return Path(self.folder.name) / "answer.json"

    def record(self, timed_out: bool) -> Record:
        """What the process left, and how it ended where it did not end well."""
        record: Record = json.loads(self.answer.read_text()) if self.answer.exists() else {"stage": "load"}
        code = self.process.returncode
        if timed_out:
            record |= {"status": "timeout", "error": f"not done after {time.monotonic() - self.started:.0f} s"}
        elif code:
            text = (Path(self.folder.name) / "stderr").read_text(errors="replace").strip()
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            record |= {"status": "died", "error": f"{how}: {' '.join(text.split())[-ERROR_TAIL:]}".rstrip(": ")}
        record["wall_seconds"] = round(time.monotonic() - self.started, 2)
        return record

    def end(self) -> None:
        """Ends the process and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()


def start(job: Job) -> Running:
    """Starts the process of a job."""
    folder = tempfile.TemporaryDirectory(prefix="coverage-")
    place = Path(folder.name)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    request = place / "request.json"
    request.write_text(json.dumps(job.request))
    with request.open("rb") as source, (place / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [job.python, str(HERE / "peers" / job.script), str(place / "answer.json")],
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,
        )
    return Running(job, process, folder, time.monotonic())


def run_all(jobs: Iterable[Job], width: int, timeout: float) -> Iterator[tuple[Job, Record]]:
    """Runs the jobs, `width` at a time; yields each record as it comes. Closing the iterator ends what still runs."""
    waiting = iter(jobs)
    running: list[Running] = []
    more = True
    try:
        while more or running:
            while more and len(running) < width:
                job = next(waiting, None)
                more = job is not None
                if job:
                    running.append(start(job))
            time.sleep(POLL)
            for item in list(running):
                timed_out = time.monotonic() - item.started > timeout
                if item.process.poll() is None and not timed_out:
                    continue
                timed_out &= item.process.poll() is None
                record = item.record(timed_out)
                item.end()
                running.remove(item)
                yield item.job, record
    finally:
        for item in running:
            item.end()


def find_models(folder: Path, only: str) -> dict[str, Path]:
    """The models of a folder by key, which is the file name without its suffix."""
    found = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
        key = path.name.removesuffix(suffix) if suffix else ""
        if suffix and (fnmatch.fnmatch(key, only) or fnmatch.fnmatch(path.name, only)):
            found[key] = path.resolve()
    return found


def source_hash() -> str:
    """Hash of the package's source, which tells whether a record is still true."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "onnxprune").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def peer_version(python: str) -> str | None:
    """Version of the peer that this interpreter can import, None where it can't."""
    code = f"import {PEER_PACKAGE}.pruning; from importlib.metadata import version; print(version({PEER_PACKAGE!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def environment() -> dict[str, Any]:
    """Versions and the kind of machine that the figures come from."""
    packages = {name: version(name) for name in ("numpy", "onnx", "onnxruntime")}
    return {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()} | packages


def own_jobs(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace) -> list[Job]:
    """Our own run of each model."""
    options = {"ratio": args.ratio, "width": args.width}
    return [Job(k, "onnxprune", "ours.py", sys.executable, request(k, p, index, options)) for k, p in models.items()]


def peer_jobs(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace) -> list[Job]:
    """The peers' runs of each model."""
    ratio = {"ratio": args.ratio}
    return [
        Job(key, name, "onnxsim_pruning.py", args.peer_python, request(key, path, index, options | ratio))
        for key, path in models.items()
        for name, options in PEERS.items()
    ]


def request(key: str, path: Path, index: dict[str, Record], options: dict[str, Any]) -> dict[str, Any]:
    """What a contestant is asked."""
    return {
        "topology": str(path),
        "hydrate": str(ZOO / "hydrate.py"),
        "inputs": index.get(key, {}).get("inputs"),
        "options": options,
    }


def finish(key: str, record: Record) -> Record:
    """The record with what follows from it: family, share removed."""
    record = {"key": key, "family": key.split("__")[0]} | record
    if record.get("status") == "nothing":
        record |= {f"{name}_after": record[f"{name}_before"] for name in ("params", "params_dense")}
    for name in ("params", "params_dense", "macs"):
        before: Any = record.get(f"{name}_simplified", record.get(f"{name}_before"))
        after: Any = record.get(f"{name}_after")
        if before and after is not None:
            record[f"{name}_removed"] = round(1 - after / before, 5)
    return record


def write(path: Path, text: str) -> None:
    """Replaces a file at once, so that a reader never sees half of it."""
    draft = path.with_suffix(path.suffix + ".part")
    draft.write_text(text)
    draft.replace(path)


def dump(value: dict[str, Any]) -> str:
    """JSON with one line per case."""
    cases = value.get("cases", {})
    rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cases.items()))
    head = json.dumps(value | {"cases": None}, indent=1)
    return head.replace('"cases": null', '"cases": {\n' + rows + "\n }") + "\n"


def run_peers(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace) -> dict[str, Any]:
    """The peers' results; written to `coverage_peers.json` as they come."""
    path = args.out / "coverage_peers.json"
    found = peer_version(args.peer_python)
    results = {"peer": PEER_PACKAGE, "version": found, "ratio": args.ratio, "environment": environment(), "cases": {}}
    same = ("version", "ratio")
    if args.resume and path.exists():
        old = json.loads(path.read_text())
        results["cases"] = old["cases"] if all(old[k] == results[k] for k in same) else {}
    if found is None:
        print(f"{PEER_PACKAGE}: not installed")
        return results
    cases = results["cases"]
    jobs = [job for job in peer_jobs(models, index, args) if job.contestant not in cases.get(job.key, {})]
    for number, (job, record) in enumerate(run_all(jobs, args.jobs, args.timeout), 1):
        cases.setdefault(job.key, {})[job.contestant] = finish(job.key, record)
        tell(number, len(jobs), job, cases[job.key][job.contestant])
        write(path, dump(results))
    return results


def run_ours(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace, peers: Record | None) -> Record:
    """Our results; written to `coverage.json` and `coverage.md` as they come."""
    path = args.out / "coverage.json"
    source = source_hash()
    options = {"ratio": args.ratio, "width": args.width}
    results: Record = {"tool": "onnxprune", "options": options, "environment": environment(), "cases": {}}
    if args.resume and path.exists():
        old = json.loads(path.read_text())
        if old["options"] == options:
            results["cases"] = {k: v for k, v in old["cases"].items() if v["source"] == source}
    cases = results["cases"]
    jobs = [job for job in own_jobs(models, index, args) if job.key not in cases]

    def save() -> None:
        write(path, dump(results))
        write(args.out / "coverage.md", markdown(results, peers))

    save()
    for number, (job, record) in enumerate(run_all(jobs, args.jobs, args.timeout), 1):
        cases[job.key] = finish(job.key, record | {"source": source_hash()})
        tell(number, len(jobs), job, cases[job.key])
        save()
    return results


def tell(number: int, of: int, job: Job, record: Record) -> None:
    """One line of progress."""
    removed = record.get("params_removed")
    share = "" if removed is None else f"{removed:7.1%} of the parameters"
    print(f"{number:4}/{of} {job.key} {job.contestant}: {share} {record.get('error', '')[:120]}".rstrip(), flush=True)


def main() -> int:
    """Command line; exit code 130 where it was interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of *.onnx.gz (zoo) or *.onnx")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--ratio", type=float, default=0.5, help="pruning ratio of all contestants")
    parser.add_argument("--width", action="store_true", help="prune inexact groups as well")
    parser.add_argument("--only", default="*", metavar="GLOB", help="models whose key matches")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run the peers too")
    parser.add_argument("--peers-only", action="store_true", help="run nothing but the peers")
    parser.add_argument("--peers-from", type=Path, metavar="FILE", help="take the peers' results from a file")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model and contestant")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--resume", action="store_true", help="keep finished records of the same source and options")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models = find_models(args.folder, args.only)
    if not models:
        parser.error(f"no {' or '.join('*' + s for s in SUFFIXES)} in {args.folder} matches {args.only!r}")
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background SIGINT is ignored from the start
        signal.signal(number, signal.default_int_handler)
    index = {entry["key"]: entry for entry in json.loads((ZOO / "index.json").read_text())}
    try:
        peers = None
        if args.peers_from:
            peers = json.loads(args.peers_from.read_text())
        elif args.peers or args.peers_only:
            peers = run_peers(models, index, args)
        if not args.peers_only:
            run_ours(models, index, args, peers)
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is in {args.out}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
