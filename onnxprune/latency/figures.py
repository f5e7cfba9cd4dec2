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


def latency_notes(found: LatencyFigures, target: str, limit: float) -> list[Note]:
    """Target, measurement and model side by side, and how far the model is to be trusted.

    Args:
        found: of one pruning.
        target: as it was asked for.
        limit: ms.
    """
    from onnxprune.report.tables import Note, plural

    share = found.measured_ms / found.dense_ms
    threads = plural(found.threads, "thread") if found.threads else "as many threads as ONNX Runtime takes"
    off = found.measured_ms / limit - 1
    first = (
        f"{target}: {ms(found.measured_ms)} measured, {share:.1%} of {ms(found.dense_ms)}; {abs(off):.1%} "
        f"{'above' if off > 0 else 'below'} the target, modelled {ms(found.modelled_ms)} ({found.error:+.1%})"
    )
    where = "read from the cache" if not found.measured_now else f"{found.measured_now} measured now"
    second = (
        f"{plural(found.timed, 'distinct piece')} at {plural(found.samples, 'sample')} of widths ({where}); whole model "
        f"foretold within {found.median_error:.1%} (median), {found.worst_error:.1%} (worst); {found.provider}, {threads}, batch {found.batch}"
    )
    notes = [Note("target", first), Note("timed", second)]
    if found.untimed:
        notes.append(Note("", f"{plural(found.untimed, 'piece')} can't be timed alone: widths are chosen without them"))
    return notes


def ms(value: float) -> str:
    """Three digits."""
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
