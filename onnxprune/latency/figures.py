"""What is said about a latency target, as data and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.report.tables import Note


_NAMED = 3


@dataclass(frozen=True)
class TableFigures:
    """The table of latencies, and how far it is to be trusted.

    Attributes:
        dense_ms: of the source, as the table was measured.
        samples: widths at which the whole model was timed.
        median_error: relative error of what the table says about such a sample when it is left out.
        worst_error: the largest.
        pieces: sum of the times of all pieces of the source by themselves, by the time of the whole.
        timed: distinct pieces of the source.
        untimed: pieces that can't be run by themselves.
        measured_now: samples that were not in the cache.
        cache: file of measured times; empty where they could not be kept.
        steps: units between the widths that pay, by group id.
        provider: that models ran on.
        threads: of one operator; 0 is ONNX Runtime's choice.
        batch: samples of a run.
        inputs: shapes that were fed, by input.
    """

    dense_ms: float
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
    inputs: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LatencyFigures(TableFigures):
    """The same, and what it said about a result.

    Attributes:
        modelled_ms: of the result, by the table.
        measured_ms: of the result, in processes of its own; in ms of `dense_ms`.
        error: modelled by measured, less 1.
    """

    modelled_ms: float
    measured_ms: float
    error: float


def latency_notes(found: LatencyFigures) -> list[Note]:
    """What the table said about the result, and how far it is to be trusted."""
    from onnxprune.report.tables import Note

    model = f"{found.modelled_ms:.4g} ms by the table ({found.error:+.1%}); {_foretells(found)}"
    timed = f"{_timed(found)}; result beside source in fresh processes; {_where(found)}"
    return [Note("modelled", model), Note("timed", timed), *_untimed(found)]


def table_notes(found: TableFigures) -> list[Note]:
    """What stands behind figures that are all by the table."""
    from onnxprune.report.tables import Note

    text = f"{found.dense_ms:.4g} ms of the source, measured; all else is by a table of pieces; {_foretells(found)}"
    return [Note("latency", text), Note("timed", f"{_timed(found)}; {_where(found)}"), *_untimed(found)]


def _foretells(found: TableFigures) -> str:
    return (
        f"it foretells the whole model within {found.median_error:.1%} (median) and {found.worst_error:.1%} "
        f"(worst of {found.samples} widths)"
    )


def _timed(found: TableFigures) -> str:
    from onnxprune.report.tables import plural

    where = f"{plural(found.measured_now, 'sample')} now" if found.measured_now else "read from the cache"
    return f"{plural(found.timed, 'distinct piece')} of the model, {where}"


def _where(found: TableFigures) -> str:
    from onnxprune.report.tables import plural

    threads = plural(found.threads, "thread") if found.threads else "as many threads as ONNX Runtime takes"
    fed = [f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in found.inputs.items()]
    more = f" and {plural(len(fed) - _NAMED, 'other input')}" if len(fed) > _NAMED else ""
    return f"{found.provider}, {threads}, {', '.join(fed[:_NAMED])}{more}"


def _untimed(found: TableFigures) -> list[Note]:
    from onnxprune.report.tables import Note, plural

    if not found.untimed:
        return []
    return [Note("", f"{plural(found.untimed, 'piece')} can't be timed alone: widths are chosen without them")]
