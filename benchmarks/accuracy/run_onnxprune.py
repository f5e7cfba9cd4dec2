"""Contestant: `onnxprune.prune`, with the request's options as they are."""

from __future__ import annotations

import inspect
from typing import Any

import onnx
from exchange import Answer, Feeds, Unsupported, accepted, serve


def prune(model: onnx.ModelProto, request: dict[str, Any], data: list[Feeds] | None) -> tuple[onnx.ModelProto, Answer]:
    """Prunes and verifies."""
    import onnxprune

    options = dict(request["options"]) | {"shapes": request["shapes"]}
    if data is not None:
        options |= {"data": data, "samples": sum(len(next(iter(batch.values()))) for batch in data)}
    if "latency" in (options.get("target") or {}):
        options["closest"] = True  # what it comes to is in the table
        options["timing"] = onnxprune.Timing(threads=1)  # with more, times differ too much from process to process
    accepted(onnxprune.prune, options)
    if data is not None and request["mask"] and "mask" in inspect.signature(onnxprune.prune).parameters:
        options["mask"] = request["mask"]
    try:
        result = onnxprune.prune(model, **options)
    except onnxprune.UsageError as error:
        if str(error).startswith("unknown criterion"):
            raise Unsupported(str(error)) from error
        raise
    report, proof = result.report, result.report.verification
    return result.model, {
        "macs_before": report.macs_before,
        "macs_after": report.macs_after,
        "targets": {t.quantity: round(t.after / t.before, 4) for t in report.targets},
        "put_back": len(report.put_back),
        "verified": None if proof is None else bool(proof.passed),
        "unverified": report.unverified,
        "stages": {name: round(seconds, 2) for name, seconds in report.seconds.items()},
    }


if __name__ == "__main__":
    serve(prune)
