"""Simplify every model with every contestant, one process each, and count what is left.

    python benchmarks/simplify.py benchmarks/zoo/topo ~/models --peer-python venv-peers/bin/python
    python benchmarks/simplify.py benchmarks/zoo/topo --only 'resnet__*' --no-peers --out /tmp/results
    python benchmarks/simplify.py benchmarks/zoo/topo --resume

Writes `simplify.json` (raw figures) and `simplify.md` (tables) into the folder `--out`, after each model. With `--resume`
records of peers are kept, and ours where the package's source is the same. Counted are nodes of all graphs and functions,
without what only makes a constant (Constant, and ConstantOfShape of a constant shape), for all contestants alike.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from coverage import HERE, ZOO, Job, Record, dump, environment, find_models, run_all, source_hash, write

PEERS = ("onnxslim", "onnxsim", "onnxscript")
OURS = "onnxprune"
CHECKED = "onnxprune_checked"
TOLERANCE = 1e-5


def jobs(models: dict[str, Path], index: dict[str, Record], args: argparse.Namespace, cases: Record) -> list[Job]:
    """What is still to be run."""
    source = source_hash()
    own = () if args.peers_only else (OURS, CHECKED) if args.checked else (OURS,)
    names = (*own, *(PEERS if args.peers else ()))
    found = []
    for key, path in models.items():
        for name in names:
            old = cases.get(key, {}).get(name)
            if old is not None and (name in PEERS or old.get("source") == source):
                continue
            request = {
                "topology": str(path),
                "hydrate": str(ZOO / "hydrate.py"),
                "inputs": index.get(key, {}).get("inputs"),
                "options": {"contestant": name, "repeat": args.repeat},
            }
            python = args.peer_python if name in PEERS else sys.executable
            found.append(Job(key, name, "simplifying.py", python, request))
    return found


def sound(record: Record) -> bool:
    """Valid, runs, computes the same, and is called the same way."""
    return (
        record.get("nodes") is not None
        and record.get("check") is None
        and record.get("run") is None
        and record.get("same_interface", False)
        and isinstance(record.get("difference"), float)
        and record["difference"] <= TOLERANCE
    )


def best(case: Record) -> int | None:
    """Fewest nodes of any peer whose result runs and computes the same."""
    counts = [
        case[p]["nodes"]
        for p in PEERS
        if p in case and case[p].get("nodes") is not None and not case[p].get("run") and _same(case[p])
    ]
    return min(counts, default=None)


def _same(record: Record) -> bool:
    difference = record.get("difference")
    return isinstance(difference, float) and difference <= 1e-3


def left(case: Record) -> dict[str, int]:
    """Operators of which our result has more than the best peer's."""
    at = min((p for p in PEERS if case.get(p, {}).get("nodes") is not None), key=lambda p: case[p]["nodes"], default=None)
    if at is None or "ops" not in case.get(OURS, {}):
        return {}
    more = Counter(case[OURS]["ops"])
    more.subtract(case[at]["ops"])
    return {op: n for op, n in sorted(more.items()) if n > 0}


def markdown(results: Record) -> str:
    """Tables of what was measured."""
    cases = {k: c for k, c in results["cases"].items() if OURS in c}
    lines = ["# Clean-up: nodes left", "", *_summary(cases), "", *_table(cases)]
    return "\n".join(lines) + "\n"


def _summary(cases: Record) -> list[str]:
    pairs = [(c[OURS]["nodes"], best(c)) for c in cases.values() if c[OURS].get("nodes") is not None and best(c) is not None]
    lines = [
        f"{len(cases)} models. Fewer nodes than the best peer: {sum(a < b for a, b in pairs)}, as many: "
        f"{sum(a == b for a, b in pairs)}, more: {sum(a > b for a, b in pairs)}.",
        "",
        "| | nodes | seconds, total | median | errors | checker | does not run | interface changed | differs | file grows |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in (OURS, CHECKED, *PEERS):
        records = [c[name] for c in cases.values() if name in c]
        if not records:
            continue
        done = [r for r in records if r.get("nodes") is not None]
        times = [r["seconds"] for r in done]
        figures: list[Any] = [
            sum(r["nodes"] for r in done),
            f"{sum(times):.1f}",
            f"{statistics.median(times):.3f}" if times else "",
            len(records) - len(done),
            sum(bool(r.get("check")) for r in done),
            sum(bool(r.get("run")) for r in done),
            sum(not r.get("same_interface", True) for r in done),
            sum(not r.get("run") and not (isinstance(d := r.get("difference"), float) and d <= TOLERANCE) for r in done),
            sum(r["bytes"] > r["bytes_before"] for r in done),
        ]
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    return lines


def _table(cases: Record) -> list[str]:
    lines = [
        "| model | before | onnxprune | " + " | ".join(PEERS) + " | more than the best peer |",
        "|---|--:|--:|" + "--:|" * len(PEERS) + "---|",
    ]
    for key, case in sorted(cases.items()):
        ours, lowest = case[OURS].get("nodes"), best(case)
        count = "fails" if ours is None else f"**{ours}**" if lowest is not None and ours < lowest else str(ours)
        peers = [_count(case.get(p, {})) for p in PEERS]
        more = ", ".join(f"{op} {n}" for op, n in left(case).items()) if ours is None or (lowest or ours) < ours else ""
        mark = "" if sound(case[OURS]) else " (!)"
        lines.append(f"| {key} | {case[OURS].get('nodes_before', '')} | {count}{mark} | {' | '.join(peers)} | {more} |")
    return lines


def _count(record: Record) -> str:
    if record.get("nodes") is None:
        return "fails" if record else ""
    return f"{record['nodes']}{'' if sound(record) else ' (!)'}"


def main() -> int:
    """Command line; exit code 1 where a result of ours is not sound or larger than a peer's, 130 where interrupted."""
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
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models: dict[str, Path] = {}
    for folder in args.folders:
        models |= find_models(folder, args.only)
    models = {k: p for n, (k, p) in enumerate(sorted(models.items())) if n % args.every == 0}
    if not models:
        parser.error(f"no model in {', '.join(map(str, args.folders))} matches {args.only!r}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    index = {entry["key"]: entry for entry in json.loads((ZOO / "index.json").read_text())}
    path = args.out / "simplify.json"
    results: Record = {"environment": environment() | {"peers": peer_versions(args.peer_python)}, "cases": {}}
    if args.resume and path.exists():
        results["cases"] = json.loads(path.read_text())["cases"]
    cases = results["cases"]
    todo = jobs(models, index, args, cases)
    try:
        for number, (job, record) in enumerate(run_all(todo, args.jobs, args.timeout), 1):
            record = record if job.contestant in PEERS else record | {"source": source_hash()}
            cases.setdefault(job.key, {})[job.contestant] = record
            print(
                f"{number:4}/{len(todo)} {job.key} {job.contestant}: {record.get('nodes')} {_problem(record)}".rstrip(),
                flush=True,
            )
            write(path, dump(results))
            write(args.out / "simplify.md", markdown(results))
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is in {args.out}", file=sys.stderr)
        return 130
    bad = [k for k, c in cases.items() if OURS in c and (not sound(c[OURS]) or c[OURS]["nodes"] > (best(c) or 10**9))]
    return 1 if bad else 0


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
