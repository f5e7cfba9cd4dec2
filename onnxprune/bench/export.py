"""A benchmark as CSV: one line for each model in each configuration."""

from __future__ import annotations

import csv
import io
from typing import Any

from onnxprune.bench.result import Benchmark

_MEASURED = (
    "p50_ms", "p90_ms", "p99_ms", "samples_per_second", "session_ms", "first_ms", "peak_bytes", "added_bytes",
    "device_bytes", "upload_ms", "download_ms", "macs",
)  # fmt: skip
_COMPARED = ("value", "low", "high", "confidence", "verdict")


def to_csv(found: Benchmark) -> str:
    """CSV text with a header; what was not measured is empty."""
    data = found.to_dict()
    about = {m["name"]: m for m in data["models"]}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["provider", "batch", "threads", "model", "path", "file_bytes", "parameters", "nodes", *_MEASURED]
        + [f"speedup_{name}" if name != "value" else "speedup" for name in _COMPARED]
        + ["processes", "runs", "noise"]
    )
    for configuration in data["configurations"]:
        for each in configuration["measurements"]:
            table.writerow(_row(configuration, each, about[each["model"]]))
    return text.getvalue()


def _row(configuration: dict[str, Any], each: dict[str, Any], about: dict[str, Any]) -> list[Any]:
    compared = each["speedup"] or dict.fromkeys(_COMPARED)
    runs = sum(len(r) for p in each["processes"] for r in p["rounds_ms"])
    return [
        *(configuration[k] for k in ("provider", "batch", "threads")),
        *(about[k] for k in ("name", "path", "file_bytes", "parameters", "nodes")),
        *(each[k] for k in _MEASURED),
        *(compared[k] for k in _COMPARED),
        len(each["processes"]),
        runs,
        "; ".join(configuration["noise"]),
    ]
