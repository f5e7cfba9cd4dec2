"""What the clean-up benchmark found, as tables."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

Record = dict[str, Any]

PEERS = ("onnxslim", "onnxsim", "onnxscript")
OURS = "onnxprune"
CHECKED = "onnxprune_checked"
GROWN = "onnxprune_grown"
RAISED = "onnxprune_raised"
ALLOWED = (GROWN, RAISED)
TOLERANCE = 1e-5
PEER_TOLERANCE = 1e-3
SLOWER = 1.02  # latency by that of a peer, above which a model counts as slower


def sound(record: Record) -> bool:
    """Valid, runs, computes the same, and is called the same way."""
    return (
        record.get("nodes") is not None
        and record.get("check") is None
        and record.get("run") is None
        and record.get("same_interface", False)
        and _differs_by(record) <= TOLERANCE
    )


def best_peer(case: Record) -> str | None:
    """The peer with the fewest nodes whose result runs and computes the same."""
    names = [
        p
        for p in PEERS
        if case.get(p, {}).get("nodes") is not None and not case[p].get("run") and _differs_by(case[p]) <= PEER_TOLERANCE
    ]
    return min(names, key=lambda p: case[p]["nodes"], default=None)


def best(case: Record) -> int | None:
    """Fewest nodes of any peer whose result runs and computes the same."""
    name = best_peer(case)
    return None if name is None else int(case[name]["nodes"])


def behind(case: Record) -> bool:
    """A peer has fewer nodes than we have with our defaults."""
    lowest, ours = best(case), case.get(OURS, {}).get("nodes")
    return lowest is not None and ours is not None and ours > lowest


def beaten(case: Record) -> bool:
    """A peer has fewer nodes, also where we are allowed what it does: to let the file grow, to use newer operators."""
    allowed = [case[name]["nodes"] for name in ALLOWED if name in case and sound(case[name])]
    return behind(case) and min(allowed, default=10**9) > (best(case) or 0)


def left(case: Record) -> dict[str, int]:
    """Operators of which our result has more than the best peer's."""
    at = best_peer(case)
    if at is None or "ops" not in case.get(OURS, {}):
        return {}
    more = Counter(case[OURS]["ops"])
    more.subtract(case[at]["ops"])
    return {op: n for op, n in sorted(more.items()) if n > 0}


def markdown(results: Record, latencies: Record | None = None) -> str:
    """Tables of what was measured."""
    cases = {k: c for k, c in results["cases"].items() if OURS in c}
    parts = [_summary(cases), _checks(cases), _allowed(cases), latency_lines(latencies or {}), _table(cases)]
    lines = ["# Clean-up: nodes left", ""]
    for part in parts:
        lines += [*part, ""] if part else []
    return "\n".join(lines)


def _summary(cases: Record) -> list[str]:
    pairs = [(c[OURS]["nodes"], best(c)) for c in cases.values() if c[OURS].get("nodes") is not None and best(c) is not None]
    lines = [
        f"{len(cases)} models. Fewer nodes than the best peer: {sum(a < b for a, b in pairs)}, as many: "
        f"{sum(a == b for a, b in pairs)}, more: {sum(a > b for a, b in pairs)}"
        f" (allowed what the peer does: {sum(map(beaten, cases.values()))}).",
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
            sum(not r.get("run") and _differs_by(r) > TOLERANCE for r in done),
            sum(r["bytes"] > r["bytes_before"] for r in done),
        ]
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    return lines


def _checks(cases: Record) -> list[str]:
    """What our own check said, where it ran."""
    records = {k: c[CHECKED] for k, c in cases.items() if CHECKED in c}
    if not records:
        return []
    errors = [float(r["verified"]["error"]) for r in records.values() if "verified" in r]
    rest = [f"{k} ({r.get('unverified') or r.get('error')})" for k, r in sorted(records.items()) if "verified" not in r]
    text = f"Our own check ran on {len(records)} models and passed on {len(errors)}"
    text += (
        f", with a relative error of {max(errors):.1e} at most, {statistics.median(errors):.1e} in the middle."
        if errors
        else "."
    )
    return [text + (f" Not compared: {'; '.join(rest)}." if rest else "")]


def _allowed(cases: Record) -> list[str]:
    """Models on which a peer has fewer nodes, like with like."""
    rows = []
    for key, case in sorted(cases.items()):
        peer = best_peer(case)
        if peer is None or not behind(case):
            continue
        record = case[peer]
        how = (
            [f"{_size(record['bytes_before'])} became {_size(record['bytes'])}"]
            if record["bytes"] > record["bytes_before"]
            else []
        )
        how += [f"operators of {d}" for d in record.get("new_domains", ())]
        cells = [f"{_count(case.get(name, {}))}{_with_size(case.get(name, {}))}" for name in ALLOWED]
        rows.append(
            f"| {key} | {case[OURS]['nodes']} | {record['nodes']} ({peer}: {'; '.join(how)}) | {' | '.join(cells)} |"
        )
    if not rows:
        return []
    return [
        "Where a peer has fewer nodes, it lets the file grow, or uses operators that one runtime alone has. We do neither unless "
        "asked to; with `--size-threshold` and `--opset 23` the comparison is like with like:",
        "",
        "| model | onnxprune | best peer | file may grow | opset 23 |",
        "|---|--:|---|--:|--:|",
        *rows,
    ]


def latency_lines(latencies: Record) -> list[str]:
    """Latencies of the results, next to each other."""
    cases = latencies.get("cases", {})
    if not cases:
        return []
    machine = latencies["environment"]
    names = [p for p in PEERS if any(p in c["models"] for c in cases.values())]
    slower = [f"{k} ({p})" for k, c in cases.items() for p in names if slower_than(c, p)]
    lines = [
        "## Latency of the results",
        "",
        f"ONNX Runtime {machine['onnxruntime']} on {machine['cpu']}, one thread, batch 1; fresh processes whose runs take turns. "
        "Behind a peer's median stands our time by its time, with the 99 % confidence interval. "
        f"Slower than a peer by more than 2 %, beyond noise: {', '.join(slower) or 'nowhere'}.",
        "",
        "| model | kind | source, ms | onnxprune | " + " | ".join(names) + " |",
        "|---|---|--:|--:|" + "--:|" * len(names),
    ]
    for key, case in cases.items():
        peers = [_against(case, p) for p in names]
        ours, source = case["models"][OURS]["p50_ms"], case["models"]["source"]["p50_ms"]
        noisy = " (noisy)" if case["noise"] else ""
        lines.append(f"| {key}{noisy} | {case['kind']} | {source:.3g} | {ours:.3g} | {' | '.join(peers)} |")
    return lines


def slower_than(case: Record, peer: str) -> bool:
    """All of the interval of our latency by the peer's is above 1.02."""
    ratio = case["models"].get(peer, {}).get("ours_by_it")
    return ratio is not None and float(ratio["low"]) > SLOWER


def _against(case: Record, peer: str) -> str:
    found = case["models"].get(peer)
    if found is None:
        return "fails" if peer in case["failed"] else ""
    ratio = found["ours_by_it"]
    mark = " (!)" if slower_than(case, peer) else ""
    return f"{found['p50_ms']:.3g}, {ratio['value']:.3f} ({ratio['low']:.3f}..{ratio['high']:.3f}){mark}"


def _table(cases: Record) -> list[str]:
    lines = [
        "## All models",
        "",
        "| model | before | onnxprune | " + " | ".join(PEERS) + " | more than the best peer |",
        "|---|--:|--:|" + "--:|" * len(PEERS) + "---|",
    ]
    for key, case in sorted(cases.items()):
        ours, lowest = case[OURS].get("nodes"), best(case)
        count = "fails" if ours is None else f"**{ours}**" if lowest is not None and ours < lowest else str(ours)
        peers = [_count(case.get(p, {})) for p in PEERS]
        more = ", ".join(f"{op} {n}" for op, n in left(case).items()) if ours is None or behind(case) else ""
        mark = "" if sound(case[OURS]) else " (!)"
        lines.append(f"| {key} | {case[OURS].get('nodes_before', '')} | {count}{mark} | {' | '.join(peers)} | {more} |")
    return lines


def _differs_by(record: Record) -> float:
    difference = record.get("difference")
    return difference if isinstance(difference, float) else float("inf")


def _count(record: Record) -> str:
    if record.get("nodes") is None:
        return "fails" if record else ""
    return f"{record['nodes']}{'' if sound(record) else ' (!)'}"


def _with_size(record: Record) -> str:
    grew = record.get("bytes") is not None and record["bytes"] > record["bytes_before"]
    return f", {_size(record['bytes'])}" if grew else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
