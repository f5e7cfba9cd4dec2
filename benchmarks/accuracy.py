"""Measure what pruning without training costs, ours and peers side by side.

    python benchmarks/accuracy.py --list
    python benchmarks/accuracy.py --dense
    python benchmarks/accuracy.py --only resnet --contestants 'obs*' --seeds 1
    python benchmarks/accuracy.py --peer-python .venv-peers/bin/python
    python benchmarks/accuracy.py --report

Writes `accuracy.json` (every raw figure) after each measurement; what is there already is not measured again. `--report`
writes the tables of `docs/accuracy.md` from it. Needs pillow and tokenizers beside the package.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from accuracy import fashion, ocr, stamps, text, wordnet  # noqa: E402
from accuracy.contestants import CONTESTANTS, Contestant  # noqa: E402
from accuracy.measure import (  # noqa: E402
    Case,
    default_python,
    dense_record,
    environment,
    measure,
    search_ratio,
    source_hash,
    tool_version,
)
from accuracy.report import into  # noqa: E402
from accuracy.task import Outputs, Task  # noqa: E402
from third_party import FetchError  # noqa: E402

TASKS: tuple[Task, ...] = tuple(task() for module in (fashion, stamps, wordnet, ocr, text) for task in module.TASKS)
RESULTS = HERE / "results" / "accuracy.json"
DOCUMENT = ROOT / "docs" / "accuracy.md"

Record = dict[str, Any]


def load(path: Path) -> Record:
    """The results so far."""
    empty: Record = {"environment": {}, "tasks": {}, "ratios": {}, "cases": {}}
    return empty | json.loads(path.read_text()) if path.exists() else empty


def save(path: Path, results: Record, mine: set[str]) -> None:
    """Replaces the file at once, one line per case; tasks that are not `mine` stay as another run left them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for part, held in load(path).items():
        if part != "environment":
            results[part] |= {k: v for k, v in held.items() if k.split("/")[0] not in mine}
    rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(results["cases"].items()))
    body = json.dumps(results | {"cases": None}, indent=1)
    draft = path.with_suffix(".json.part")
    draft.write_text(body.replace('"cases": null', '"cases": {\n' + rows + "\n }") + "\n")
    draft.replace(path)


def cases(task: Task, contestants: Sequence[Contestant], settings: str, seeds: int | None, few: bool) -> Iterator[Case]:
    """The measurements of a task: settings, contestants, seeds, and few samples where a contestant shows them."""
    for setting in task.settings:
        if not fnmatch.fnmatchcase(setting.name, settings):
            continue
        for contestant in contestants:
            if not contestant.takes(setting):
                continue
            if not contestant.calibrated:
                yield Case(task, setting, contestant, 0, 0)
                continue
            for seed in range(seeds or task.seeds):
                yield Case(task, setting, contestant, task.samples, seed)
            if few and task.few and contestant.few:
                yield Case(task, setting, contestant, task.few, 0)


def run(task: Task, results: Record, args: argparse.Namespace) -> None:
    """Measures what is missing of a task."""
    record, dense = dense_record(task, args.threads)
    old = results["tasks"].get(task.name, {})
    if old.get("sha256", record["sha256"]) != record["sha256"]:
        print(f"{task.name}: another dense model than before; its cases are measured again", flush=True)
        results["cases"] = {k: c for k, c in results["cases"].items() if c["task"] != task.name}
    results["tasks"][task.name] = record
    if args.again:
        results["ratios"] = {k: v for k, v in results["ratios"].items() if k.split("/")[0] != task.name}
    shown = ", ".join(f"{k} {v:g}" for k, v in record["figures"].items())
    print(f"{task.name} dense: {shown}; {record['macs'] / 1e6:.1f} M MACs", flush=True)
    save(args.out, results, args.mine)
    if not args.dense:
        chosen = [c for c in CONTESTANTS if any(fnmatch.fnmatchcase(c.name, p) for p in args.contestants)]
        for case in cases(task, chosen, args.settings, args.seeds, args.few):
            step(case, dense, results, args)


def step(case: Case, dense: Outputs, results: Record, args: argparse.Namespace) -> None:
    """One measurement, unless it is there."""
    tool = case.contestant.tool
    python = default_python(tool, args.peer_python)
    version = tool_version(tool, python)
    if not version:
        return
    place = f"{case.task.name}/{case.setting.name}"
    source = source_hash()
    found = results["ratios"].get(place)
    if found is None or (args.changed and found["source"] != source):
        results["ratios"][place] = found = {"ratio": search_ratio(case.task, case.setting), "source": source}
    ratio = found["ratio"]
    source = source if tool == "onnxprune" else ""
    known = results["cases"].get(case.key)
    same = (
        known
        and known["status"] in ("ok", "nothing")
        and known["options"] == _plain(case.contestant.request(case.setting, ratio))
    )
    if same and not args.again and not (args.changed and known["source"] != source):
        return
    macs = results["tasks"][case.task.name]["macs"]
    record = measure(case, ratio, dense, macs, python, args.timeout, args.threads)
    results["cases"][case.key] = record | {"version": version, "source": source}
    save(args.out, results, args.mine)
    tell(case, record, results["tasks"][case.task.name])


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value))


def tell(case: Case, record: Record, dense: Record) -> None:
    """One line of progress."""
    if record["status"] != "ok":
        print(f"{case.key}: {record['status']}: {record['error'][:150]}", flush=True)
        return
    names = (case.task.metric, *case.task.shown)
    figures = ", ".join(f"{name} {record['figures'][name]:.4g}" for name in names)
    share = record["macs"] / dense["macs"]
    print(f"{case.key}: {figures}; {share:.3f} of the MACs, {record['seconds']} s, {record['peak_mb']} MB", flush=True)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list tasks, settings and contestants")
    parser.add_argument("--dense", action="store_true", help="measure the dense models only")
    parser.add_argument("--report", action="store_true", help="write the tables from the results, measure nothing")
    parser.add_argument("--only", action="append", metavar="TASK", help="tasks whose name matches this glob; repeatable")
    parser.add_argument("--settings", default="*", metavar="GLOB", help="settings whose name matches")
    parser.add_argument("--contestants", nargs="+", default=["*"], metavar="GLOB", help="contestants whose name matches")
    parser.add_argument("--seeds", type=int, help="calibration subsets (by task: 3 or 1)")
    parser.add_argument("--few", action=argparse.BooleanOptionalAction, default=True, help="measure with few samples too")
    parser.add_argument("--changed", action="store_true", help="measure again what another state of the source gave")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one contestant")
    parser.add_argument("--threads", type=int, default=0, help="threads of the evaluation; 0 leaves it to ONNX Runtime")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="the Markdown file that --report fills")
    return parser.parse_args()


def main() -> int:
    """Runs the command line; 1 where data or a model is missing, 2 where nothing matches, 130 where interrupted."""
    args = parse()
    chosen = [t for t in TASKS if any(fnmatch.fnmatchcase(t.name, p) for p in args.only or ["*"])]
    if not chosen:
        print(f"no task matches; there are {', '.join(t.name for t in TASKS)}", file=sys.stderr)
        return 2
    if args.list:
        for task in chosen:
            print(f"{task.name}: {'; '.join(s.name for s in task.settings)}")
        print(*(f"{c.name:18} {c.text}" for c in CONTESTANTS), sep="\n")
        return 0
    results = load(args.out)
    if args.report and not results["environment"]:
        print(f"no results in {args.out}; measure first", file=sys.stderr)
        return 1
    if args.report:
        old = args.document.read_text(encoding="utf-8") if args.document.exists() else ""
        args.document.write_text(into(old, results, TASKS, args.document.parent / "figures"), encoding="utf-8")
        return 0
    results["environment"] = environment(args.threads)
    args.mine = {task.name for task in chosen}
    failed = 0
    for task in chosen:
        try:
            run(task, results, args)
        except KeyboardInterrupt:
            print(f"interrupted; what was finished is in {args.out}", file=sys.stderr)
            return 130
        except (FetchError, ImportError) as error:
            failed = 1
            print(f"{task.name}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
