"""Contestant: `onnxprune.prune`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from measure import Case, describe_text, peak_rss_mb, serve, timed

ROOT = Path(__file__).resolve().parent.parent.parent
REASONS = 12
MEMBERS = 6


def measure(case: Case) -> None:
    """Options: `ratio` and `width`, as `prune` takes them."""
    from onnxprune import prune
    from onnxprune.errors import NothingToPruneError, OnnxPruneError

    result = None
    case.stage("prune")
    try:
        ratio, width = case.options["ratio"], case.options["width"]
        result = timed(case.record, "seconds", lambda: prune(case.model, ratio=ratio, width=width))
        case.record["status"] = "pruned"
    except NothingToPruneError as error:
        case.record["status"] = "nothing"
        case.fail(error, ROOT)
    except OnnxPruneError as error:
        case.record["status"] = "refused"
        case.fail(error, ROOT)
    except Exception as error:
        case.record["status"] = "crashed"
        case.fail(error, ROOT)
    case.record["rss_mb"] = peak_rss_mb()
    if result is not None:
        case.record.update(_figures(result))
    case.judge_dense()
    if result is not None:
        case.judge(result.model)


def _figures(result: Any) -> dict[str, Any]:
    """What our own report says of the run."""
    report = result.report
    checked = report.verification
    compared = getattr(checked, "compared", None) or getattr(checked, "outputs", None) or []
    return {
        "report_params_before": report.params_before,
        "report_params_after": report.params_after,
        "macs_before": report.macs_before,
        "macs_after": report.macs_after,
        "oracle": None
        if checked is None
        else {
            "passed": bool(checked.passed),
            "error": checked.error,
            "tolerance": getattr(checked, "tolerance", None),
            "noise": getattr(checked, "noise", None),
            "compared": list(compared),
            "before": list(getattr(checked, "before", [])),
        },
        "unverified": getattr(report, "unverified", "") if checked is None else "",
        "put_back": [_returned(item, report) for item in report.put_back],
        "groups": len(getattr(report, "groups", [])),
        "frozen": _reasons(report.frozen),
        "frozen_axes": len(report.frozen),
        "unknown_ops": {op: len(nodes) for op, nodes in report.unknown_ops.items()},
        "failures": [str(failure) for failure in report.failures],
        "stage_seconds": {name: round(value, 3) for name, value in report.seconds.items()},
    }


def _returned(item: Any, report: Any) -> dict[str, Any]:
    """A group that was put back: why, and what it is."""
    row = next((row for row in getattr(report, "groups", []) if row.id == item.group), None)
    found = {"group": item.group, "reason": describe_text(item.reason)}
    if row is not None:
        found |= {"kind": row.kind, "units": row.units, "members": [f"{w} axis {a}" for w, a in row.members[:MEMBERS]]}
    return found


def _reasons(frozen: list[Any]) -> list[dict[str, Any]]:
    """The most frequent kinds of reasons: axes of weights they hold, slices they hold, and one of them in full."""
    axes: Counter[str] = Counter()
    slices: Counter[str] = Counter()
    example: dict[str, str] = {}
    for item in frozen:
        kind = re.sub(r" '[^']*'", "", item.reason)
        axes[kind] += 1
        slices[kind] += item.slices
        example.setdefault(kind, f"{item.weight} axis {item.axis}: {item.reason}")
    return [
        {"reason": kind, "axes": count, "slices": slices[kind], "example": example[kind]}
        for kind, count in axes.most_common(REASONS)
    ]


if __name__ == "__main__":
    serve(measure)
