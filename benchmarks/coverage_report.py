"""Tables of a coverage run.

    python benchmarks/coverage_report.py benchmarks/results/coverage.json benchmarks/results/coverage_peers.json

prints them; the second file, with the figures of the peers, may be left out. `--readme` puts a summary between the marks
in the README instead.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]

PEERS = {"onnxsim": "onnxsim", "onnxsim+simplify": "simplified, onnxsim"}
REASON_LENGTH = 60
REASONS = 15
SMALL = 0.01
USUAL = ("slides over it", "reaches graph output", "graph input", "looks it up by data")  # true of most sound models
TRANSFORMERS = {
    "attention_hand", "audio", "bert", "clip", "fp16", "gpt", "hybrid_vit", "llama", "maxvit", "metaformer", "misc_hf",
    "mlp", "moe", "seq2seq", "ssm", "swin", "vit",
}  # fmt: skip
TOLERANCES = {"fp16": 5e-3}
TOLERANCE = 1e-4


def markdown(results: Record, peers: Record | None = None) -> str:
    """The whole report; `peers` is the content of `coverage_peers.json`."""
    cases = list(results["cases"].values())
    parts = [_head(results), _summary(cases, peers), _families(cases, peers), _models(cases, peers), _reasons(cases)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(results: Record, peers: Record | None = None) -> str:
    """What the README says."""
    cases = list(results["cases"].values())
    checked = [c["oracle"] for c in cases if c.get("oracle")]
    single = [float(c["oracle"]["error"]) for c in cases if c.get("oracle") and tolerance(c["key"]) == TOLERANCE]
    nothing = [c["key"].replace("__", ": ") for c in cases if c.get("status") == "nothing"]
    rows = []
    for title, part, figure in (
        ("convolutional and recurrent", [c for c in cases if c["family"] not in TRANSFORMERS], "params_removed"),
        ("transformers and their hybrids", [c for c in cases if c["family"] in TRANSFORMERS], "params_dense_removed"),
    ):
        row = [title, str(len(part)), _median(part, lambda c, f=figure: c.get(f), _percent)]
        for name in PEERS if peers else ():
            row.append(
                _median([_peer(peers, c["key"], name) for c in part], lambda r: r.get("params_removed") or 0.0, _percent)
            )
        rows.append(row)
    heads = [
        "median of parameters removed, %",
        "models",
        "onnxprune",
        *[h.removesuffix(" params %") for h in _peer_heads(peers)],
    ]
    broken = [
        f"{_summary_row(title, [r for c in cases if (r := _peer(peers, c['key'], name))])[4]} ({title})"
        for name, title in PEERS.items()
        if peers
    ]
    lines = [
        f"At `--ratio {results['options']['ratio']}`, {len(cases)} exported architectures from both PyTorch exporters "
        f"(`benchmarks/zoo`): {sum(c.get('status') == 'pruned' for c in cases)} are pruned, run and pass the oracle "
        f"({sum(bool(o['passed']) for o in checked)} of {len(checked)}, largest relative error {max(single):.0e} in float32), "
        f"{sum(bool(c.get('put_back')) for c in cases)} with a group put back. No exact group at all: "
        f"{', '.join(nothing) or 'none'}.",
        "",
        table(heads, rows, 1),
        "",
        "Transformers are counted without embedding tables for onnxprune; they keep the width of their residual stream, whose "
        "removal is inexact."
        + (f" Results of onnxsim {peers['version']} that ONNX Runtime refuses: {', '.join(broken)}." if peers else "")
        + " Every model: [benchmarks/results/coverage.md](benchmarks/results/coverage.md).",
    ]
    return "\n".join(lines)


def into_readme(text: str, block: str) -> str:
    """The README with its block replaced."""
    before, rest = text.split("<!-- coverage:begin -->\n")
    after = rest[rest.index("<!-- coverage:end -->") :]
    return f"{before}<!-- coverage:begin -->\n{block}\n{after}"


def tolerance(key: str) -> float:
    """Largest relative error that we accept from a model."""
    return next((bound for name, bound in TOLERANCES.items() if name in key), TOLERANCE)


def table(head: list[str], rows: Iterable[list[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are text."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _head(results: Record) -> str:
    e = results["environment"]
    o = results["options"]
    sources = ", ".join(sorted({c["source"] for c in results["cases"].values()}))
    kind = "exact and inexact groups" if o["width"] else "exact groups only"
    lines = [
        "# Coverage",
        "",
        f"{len(results['cases'])} models, pruning ratio {o['ratio']}, {kind}; source {sources or '-'}; "
        f"Python {e['python']}, onnx {e['onnx']}, onnxruntime {e['onnxruntime']}, {e['cores']} cores ({e['machine']}), "
        "one process per model.",
        "",
        "Removed is counted by one counter for all contestants: weight tensors of the file before and after. The "
        "second column of the peer is counted from the simplified file, so that it shows pruning alone. *s* is the "
        "wall-clock time of `prune`, *MB* the peak resident memory of the process until then, loading included. The "
        "oracle error is the largest relative difference between the pruned model and the source whose removed units "
        "are zeroed. A dash means: no result.",
    ]
    return "\n".join(lines)


def _summary(cases: list[Record], peers: Record | None) -> str:
    rows = [_summary_row("onnxprune", cases)]
    for name, title in PEERS.items():
        if peers is None:
            continue
        if peers.get("version") is None:
            rows.append([title, "not installed", *["-"] * 6])
            continue
        found = [peers["cases"].get(c["key"], {}).get(name) for c in cases]
        rows.append(_summary_row(f"{title} {peers['version']}", [r for r in found if r]))
    head = ["", "models", "result", "runs", "broken", "removes > 1 %", "median removed", "median s"]
    return "## All models\n\n" + table(head, rows, 1)


def _summary_row(name: str, records: list[Record]) -> list[str]:
    removed = [r.get("params_removed") for r in records]
    return [
        name,
        str(len(records)),
        str(sum("runs_after" in r for r in records)),
        str(sum(r.get("runs_after") is True for r in records)),
        str(sum(r.get("runs_after") is False and bool(r.get("ran_before")) for r in records)),
        str(sum(x is not None and x > SMALL for x in removed)),
        _median(records, lambda r: r.get("params_removed") or 0.0, _percent),
        _median(records, lambda r: r.get("seconds"), _seconds),
    ]


def _families(cases: list[Record], peers: Record | None) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for case in sorted(cases, key=lambda c: c["key"]):
        groups[case["family"]].append(case)
    head = ["family", "models", "valid", "oracle passed", "params %", "MACs %", "s", "MB", *_peer_heads(peers)]
    rows = []
    for family, members in groups.items():
        row = [
            family,
            str(len(members)),
            str(sum(bool(c.get("valid_after")) for c in members)),
            str(sum(bool((c.get("oracle") or {}).get("passed")) for c in members)),
            _median(members, lambda c: c.get("params_removed"), _percent),
            _median(members, lambda c: c.get("macs_removed"), _percent),
            _median(members, lambda c: c.get("seconds"), _seconds),
            _median(members, lambda c: c.get("rss_mb"), str),
        ]
        for name in PEERS if peers else ():
            found = [_peer(peers, c["key"], name) for c in members]
            row.append(_median(found, lambda r: r.get("params_removed"), _percent))
        rows.append(row)
    return "## Families (medians)\n\n" + table(head, rows, 1)


def _models(cases: list[Record], peers: Record | None) -> str:
    head = ["family", "model", "main frozen reason or error", "valid", "oracle error", "params %", "without tables %"]
    head += ["MACs %", "s", "MB", *_peer_heads(peers)]
    rows = []
    for case in sorted(cases, key=lambda c: c["key"]):
        row = [
            case["family"],
            case["key"].removeprefix(case["family"] + "__"),
            _remark(case),
            _verdict(case),
            _error(case),
            _percent(case.get("params_removed")),
            _percent(case.get("params_dense_removed")),
            _percent(case.get("macs_removed")),
            _seconds(case.get("seconds")),
            str(case.get("rss_mb", "-")),
        ]
        row += [_peer_cell(_peer(peers, case["key"], name)) for name in PEERS if peers]
        rows.append(row)
    return "## Models\n\n" + table(head, rows, 3)


def _reasons(cases: list[Record]) -> str:
    axes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for case in cases:
        for item in case.get("frozen", []):
            axes[item["reason"]] += item["axes"]
            models[item["reason"]] += 1
    rows = [[_cell(reason, 140), str(models[reason]), str(count)] for reason, count in axes.most_common(REASONS)]
    note = "Counted by kind of reason; the names of nodes and values are left out."
    return f"## Why axes are frozen\n\n{note}\n\n" + table(["reason", "models", "axes"], rows, 1) if rows else ""


def _peer_heads(peers: Record | None) -> list[str]:
    return [f"{title} params %" for title in PEERS.values()] if peers else []


def _peer(peers: Record | None, key: str, name: str) -> Record:
    found: Record = (peers or {}).get("cases", {}).get(key, {}).get(name, {})
    return found


def _peer_cell(record: Record) -> str:
    if record.get("params_removed") is None:
        return "-" if not record else record.get("status") or "error"
    broken = record.get("runs_after") is False and record.get("ran_before")
    return _percent(record["params_removed"]) + (" (broken)" if broken else "")


def _remark(case: Record) -> str:
    if case.get("error"):
        return _cell(case["error"])
    frozen = [item for item in case.get("frozen") or [] if not any(word in item["reason"] for word in USUAL)]
    return _cell(frozen[0]["example"]) if frozen else ""


def _verdict(case: Record) -> str:
    if "runs_after" not in case:
        return "-"
    if not case["runs_after"]:
        return "does not run" if case.get("ran_before") else "never ran"
    return "yes" if case.get("valid_after") or not case.get("valid_before") else "no"


def _error(case: Record) -> str:
    oracle = case.get("oracle")
    if not oracle:
        return "-"
    error = float(oracle["error"])
    return f"{error:.1e}" + ("" if error <= tolerance(case["key"]) else " (!)")


def _cell(text: str, length: int = REASON_LENGTH) -> str:
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= length else text[: length - 1].rstrip("\\") + "…"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _median(records: list[Record], figure: Callable[[Record], Any], show: Callable[[Any], str]) -> str:
    values = [v for v in map(figure, records) if v is not None]
    if not values:
        return "-"
    middle = median(values)
    return show(round(middle) if all(isinstance(v, int) for v in values) else middle)


if __name__ == "__main__":
    given = [json.loads(Path(name).read_text()) for name in sys.argv[1:] if name != "--readme"]
    if "--readme" in sys.argv:
        readme = Path(__file__).resolve().parent.parent / "README.md"
        readme.write_text(into_readme(readme.read_text(), summary(*given)))
    else:
        print(markdown(*given), end="")
