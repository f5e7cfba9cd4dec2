"""Simplify every model with every contestant, one process each, and count what is left.

    python benchmarks/simplify.py benchmarks/zoo/topo ~/models --peer-python venv-peers/bin/python
    python benchmarks/simplify.py benchmarks/zoo/topo --only 'resnet__*' --no-peers --out /tmp/results
    python benchmarks/simplify.py benchmarks/zoo/topo --resume --checked
    python benchmarks/simplify.py benchmarks/zoo/topo ~/models --latency --peer-python venv-peers/bin/python

Writes `simplify.json` (raw figures) and `simplify.md` (tables) into the folder `--out`, after each model. With `--resume`
records of peers are kept, and ours where the package's source is the same. Counted are nodes of all graphs and functions,
without what only makes a constant (Constant, and ConstantOfShape of a constant shape), for all contestants alike. Where a
peer has fewer nodes, we run twice more: with leave to let the file grow, and to use operators of opset 23.

`--latency` writes `simplify_latency.json` instead, and its table into `simplify.md` (see `simplify_latency.py`).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from coverage import HERE, ZOO, Job, Record, dump, environment, find_models, run_all, source_hash, write
from simplify_latency import Effort, measure_latencies
from simplify_report import ALLOWED, CHECKED, OURS, PEERS, beaten, behind, markdown, slower_than, sound

# What models outside of the zoo are run with, where an open dimension of 1 won't do.
INPUTS: dict[str, list[Record]] = {
    "silero_vad": [
        {"name": "input", "dtype": "float32", "shape": [1, 512], "range": None},
        {"name": "state", "dtype": "float32", "shape": [2, 1, 128], "range": None},
        {"name": "sr", "dtype": "int64", "shape": [], "range": [16000, 16000]},
    ]
}


def contests(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace, cases: Record) -> list[Job]:
    """Every contestant on every model, as far as that is still to be run."""
    own = () if args.peers_only else (OURS, CHECKED) if args.checked else (OURS,)
    names = (*own, *(PEERS if args.peers else ()))
    source = source_hash()
    return [job(k, p, n, index, args) for k, p in models.items() for n in names if stale(cases, k, n, source)]


def allowed(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace, cases: Record) -> list[Job]:
    """Models on which a peer has fewer nodes, once more with what we may do if asked."""
    if args.peers_only:
        return []
    source = source_hash()
    lost = {k: p for k, p in models.items() if behind(cases.get(k, {}))}
    return [job(k, p, n, index, args) for k, p in lost.items() for n in ALLOWED if stale(cases, k, n, source)]


def stale(cases: Record, key: str, name: str, source: str) -> bool:
    """There is no record, or it is of ours and of another source."""
    old = cases.get(key, {}).get(name)
    return old is None or (name not in PEERS and old.get("source") != source)


def job(key: str, path: Path, name: str, index: dict[str, Record], args: argparse.Namespace, save: str = "") -> Job:
    """One contestant on one model; its result goes into the file `save`, if there is one."""
    request = {
        "topology": str(path),
        "hydrate": str(ZOO / "hydrate.py"),
        "inputs": index.get(key, {}).get("inputs") or INPUTS.get(key),
        "options": {"contestant": name, "repeat": 0 if save else args.repeat, "save": save},
    }
    return Job(key, name, "simplifying.py", args.peer_python if name in PEERS else sys.executable, request)


def main() -> int:
    """Command line; exit code 1 where a result of ours is not sound, larger or slower than a peer's, 130 where interrupted."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    models: dict[str, Path] = {}
    for folder in args.folders:
        models |= find_models(folder, args.only)
    models = {k: p for n, (k, p) in enumerate(sorted(models.items())) if n % args.every == 0}
    if not models:
        raise SystemExit(f"no model in {', '.join(map(str, args.folders))} matches {args.only!r}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    index = {entry["key"]: entry for entry in json.loads((ZOO / "index.json").read_text())}
    try:
        return measure_latency(models, index, args) if args.latency else count_nodes(models, index, args)
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is in {args.out}", file=sys.stderr)
        return 130


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of *.onnx.gz (zoo) or *.onnx")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--only", default="*", metavar="GLOB", help="models whose key matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th model only")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run the peers too")
    parser.add_argument("--peers-only", action="store_true", help="run nothing but the peers")
    parser.add_argument("--checked", action="store_true", help="also with our check of the result")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--repeat", type=int, default=1, help="timed runs of each after the first")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model and contestant")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--resume", action="store_true", help="keep finished records")
    parser.add_argument(
        "--latency", action="store_true", help="latency of the results on ten models, instead of their nodes"
    )
    parser.add_argument("--processes", type=int, default=10, help="with --latency: the fewest of each file")
    parser.add_argument("--seconds", type=float, default=60, help="with --latency: after which no more are started")
    return parser.parse_args()


def count_nodes(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace) -> int:
    """Runs all contestants; 1 where a result of ours is not sound, or larger than a peer's that does nothing more."""
    path = args.out / "simplify.json"
    old = stored(path) if args.resume else {}
    peers = peer_versions(args.peer_python) or old.get("environment", {}).get("peers", {})
    results: Record = {"environment": environment() | {"peers": peers}, "cases": old.get("cases", {})}
    cases = results["cases"]
    for part in (contests, allowed):
        todo = part(models, index, args, cases)
        for number, (job, record) in enumerate(run_all(todo, args.jobs, args.timeout), 1):
            record = record if job.contestant in PEERS else record | {"source": source_hash()}
            cases.setdefault(job.key, {})[job.contestant] = record
            said = f"{job.key} {job.contestant}: {record.get('nodes')} {_problem(record)}"
            print(f"{number:4}/{len(todo)} {said}".rstrip(), flush=True)
            write(path, dump(results))
            write(args.out / "simplify.md", markdown(results, stored(args.out / "simplify_latency.json")))
    return int(any(OURS in c and (not sound(c[OURS]) or beaten(c)) for c in cases.values()))


def measure_latency(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace) -> int:
    """Measures the results of all contestants; 1 where one of ours is slower than a peer's by more than noise."""
    from onnxprune.bench.environment import environment as machine

    path = args.out / "simplify_latency.json"
    old = stored(path).get("cases", {}) if args.resume else {}
    known = {k: r for k, r in old.items() if r["source"] == source_hash()}
    results: Record = {"environment": asdict(machine()) | {"peers": peer_versions(args.peer_python)}, "cases": known}

    def done(records: Record) -> None:
        results["cases"] = records
        write(path, dump(results))
        nodes = stored(args.out / "simplify.json")
        write(args.out / "simplify.md", markdown(nodes or {"cases": {}}, results))

    measure_latencies(
        models,
        lambda key, path, name, save: job(key, path, name, index, args, save),
        Effort(args.processes, args.seconds),
        args.timeout,
        known,
        done,
    )
    return int(any(slower_than(c, p) for c in results["cases"].values() for p in PEERS))


def stored(path: Path) -> Record:
    """What an earlier run wrote; nothing where there is no file."""
    found: Record = json.loads(path.read_text()) if path.exists() else {}
    return found


def peer_versions(python: str) -> dict[str, str]:
    """Versions of the peers that this interpreter has."""
    code = f"from importlib.metadata import version; import json; print(json.dumps({{p: version(p) for p in {PEERS!r}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _problem(record: Record) -> str:
    if sound(record):
        return f"{record['seconds']:.2f} s"
    texts = (record.get(k) for k in ("error", "check", "run", "difference_error"))
    first = next((t for t in texts if t), f"difference {record.get('difference')}, interface {record.get('same_interface')}")
    return str(first)[:160]


if __name__ == "__main__":
    sys.exit(main())
