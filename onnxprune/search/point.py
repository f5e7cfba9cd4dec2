"""One pruned model of a family: surgery, proof, reconstruction and score of an allocation that is known."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import ModelError, VerificationError
from onnxprune.io.load import MAX_PROTOBUF_BYTES
from onnxprune.io.structure import model_size
from onnxprune.metrics.score import Score
from onnxprune.pipeline.stages import Clock
from onnxprune.report.evaluate import evaluate
from onnxprune.report.report import Report
from onnxprune.search.shared import Shared, bench
from onnxprune.search.stitched import Removed
from onnxprune.select.allocate import Choice


@dataclass(frozen=True)
class Made:
    """What a worker sends back.

    Attributes:
        model: the pruned model as a protobuf.
        plan: what went, as JSON.
        report: figures of it, see `figures_of`.
        score: what it reaches; None where nothing is scored.
    """

    model: bytes
    plan: str
    report: dict[str, Any]
    score: Marks | None


@dataclass(frozen=True)
class Marks:
    """A `Score` without its functions."""

    value: float
    samples: int
    predictions: NDArray[np.int64]
    totals: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, score: Score) -> Marks:
        """What a score holds."""
        return cls(score.value, score.samples, score.predictions, score.totals, score.weights)


def nothing() -> None:
    """Job that does nothing. Who gets it, scheduler or worker, imports what jobs need, while the first are prepared."""


def make_point(shared: Shared, removed: Removed) -> Made:
    """Job: the pruned model, proven and scored.

    Raises:
        VerificationError: it does not compute what it should.
        ModelError: it can't be run on the data.
    """
    own = bench(shared)
    pruning = copy(own.pruning)
    pruning.clock, pruning.checker = Clock(), replace(pruning.checker, put_back=[])
    by_id = {g.id: g for g in pruning.groups.groups}
    choices = [
        Choice(by_id[g], [list(rows) for rows in buckets], [np.zeros(len(b)) for b in by_id[g].buckets])
        for g, buckets in removed.items()
        if any(buckets)
    ]
    model, plan, report = pruning.finished(pruning.attempt(choices))
    found = report.verification
    if found is not None and not found.passed:
        raise VerificationError(found.message or "the results differ")
    if model_size(model) > MAX_PROTOBUF_BYTES - 2**24:
        raise ModelError("the pruned model is beyond 2 GiB")
    data = own.evaluation
    score = None if data is None else Marks.of(evaluate(model, data, "the pruned model"))
    return Made(model.SerializeToString(deterministic=True), plan.to_json(), figures_of(report), score)


def figures_of(report: Report) -> dict[str, Any]:
    """What a card says of a pruning."""
    whole = report.to_dict()
    fitted = [f for f in report.fits if not f.reason]
    return {
        "macs": report.macs_after,
        "params": report.params_after,
        "size": report.bytes_after,
        "groups": [{"id": g.id, "kind": g.kind, "units": g.units, "removed": g.removed} for g in report.groups],
        "verification": whole["verification"],
        "unverified": report.unverified,
        "put_back": whole["put_back"],
        "calibration": report.calibration,
        "criterion": report.criterion,
        "fidelity": whole["fidelity"],
        "fits": {
            "nodes": len(fitted),
            "lost_before": median(f.lost_before for f in fitted) if fitted else None,
            "lost_after": median(f.lost_after for f in fitted) if fitted else None,
        },
        "seconds": report.seconds,
    }
