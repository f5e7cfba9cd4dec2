"""What is said about a latency target, as data and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.report.tables import Note


@dataclass(frozen=True)
class LatencyFigures:
    """The table of latencies, and what it said about the result.

    Attributes:
        dense_ms: of the source, as the table was measured.
        modelled_ms: of the result, by the table.
        measured_ms: of the result, in processes of its own; in ms of `dense_ms`.
        error: modelled by measured, less 1.
        samples: widths at which the whole model was timed.
        median_error: relative error of what the table says about such a sample when it is left out.
        worst_error: the largest.
        pieces: sum of the times of all pieces of the source by themselves, by the time of the whole.
        timed: distinct pieces of the source.
        untimed: pieces that can't be run by themselves.
        measured_now: samples that were not in the cache.
        cache: file of measured times; empty where they could not be kept.
        steps: units between the widths that pay, by group id.
        provider: that both models ran on.
        threads: of one operator; 0 is ONNX Runtime's choice.
        batch: samples of a run.
    """

    dense_ms: float
    modelled_ms: float
    measured_ms: float
    error: float
    samples: int
    median_error: float
    worst_error: float
    pieces: float
    timed: int
    untimed: int
    measured_now: int
    cache: str
    steps: dict[str, int]
    provider: str
    threads: int
    batch: int


def latency_notes(found: LatencyFigures) -> list[Note]:
    """What the table said about the result, and how far it is to be trusted."""
    from onnxprune.report.tables import Note, plural

    threads = plural(found.threads, "thread") if found.threads else "as many threads as ONNX Runtime takes"
    model = (
        f"{found.modelled_ms:.4g} ms by the table ({found.error:+.1%}); it foretells the whole model within "
        f"{found.median_error:.1%} (median) and {found.worst_error:.1%} (worst of {found.samples} widths)"
    )
    where = f"{plural(found.measured_now, 'sample')} now" if found.measured_now else "read from the cache"
    timed = (
        f"{plural(found.timed, 'distinct piece')} of the model, {where}; result beside source in fresh processes; "
        f"{found.provider}, {threads}, batch {found.batch}"
    )
    notes = [Note("modelled", model), Note("timed", timed)]
    if found.untimed:
        notes.append(Note("", f"{plural(found.untimed, 'piece')} can't be timed alone: widths are chosen without them"))
    return notes
