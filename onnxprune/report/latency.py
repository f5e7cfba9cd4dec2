"""Latency of models side by side, in this process, on the CPU of this machine.

A quick look for the result table, not a benchmark: one process, one input, whatever else the machine does meanwhile.
The models take turns (A B A B), so that a busy moment, a warm cache or a throttled clock hits all of them alike: the
ratio of two medians is more to be trusted than the medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import ModelError
from onnxprune.proof.session import first_line

if TYPE_CHECKING:
    import onnxruntime as ort

Feeds = Mapping[str, NDArray[Any]]

_STABLE = 1.1  # the last runs may take this much longer than those before them, or shorter
_WINDOW = 3


@dataclass(frozen=True)
class Latency:
    """Times of single runs of one model.

    Attributes:
        ms: milliseconds of each run, in the order of the runs, warm-up left out.
    """

    ms: list[float] = field(repr=False)

    @property
    def p50(self) -> float:
        """The median in ms."""
        return statistics.median(self.ms)

    @property
    def p90(self) -> float:
        """The 90th percentile in ms."""
        return float(np.percentile(self.ms, 90))


def latency(
    models: Mapping[str, Path | bytes], feeds: Feeds, *, seconds: float = 1.0, min_runs: int = 10, max_runs: int = 500
) -> dict[str, Latency]:
    """Times models in turn on the same inputs, with ONNX Runtime's own defaults.

    Args:
        models: a file or its bytes for each name.
        feeds: inputs; those a model does not have are left out.
        seconds: time to spend on timed runs, all models together; warm-up takes up to half of it more.
        min_runs: timed runs of each model, however long they take.
        max_runs: the most timed runs of each model.

    Raises:
        ModelError: ONNX Runtime refuses a model or can't run it.
    """
    sessions = {name: _Session(name, model, feeds) for name, model in models.items()}
    _warm_up(list(sessions.values()), seconds / 2)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    for k in range(max_runs):
        if k >= min_runs and time.perf_counter() > end:
            break
        for name, session in sessions.items():
            times[name].append(session.run())
    return {name: Latency(ms) for name, ms in times.items()}


def _warm_up(sessions: Sequence[_Session], seconds: float) -> None:
    """Runs in turn until the last runs of each model take as long as those before them, or the time is spent."""
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 1:
        for session, own in zip(sessions, times, strict=True):
            own.append(session.run())
        if all(_stable(own) for own in times):
            return


def _stable(ms: Sequence[float]) -> bool:
    if len(ms) < 2 * _WINDOW:
        return False
    last, before = statistics.median(ms[-_WINDOW:]), statistics.median(ms[-2 * _WINDOW : -_WINDOW])
    return before / _STABLE <= last <= before * _STABLE


class _Session:
    """A session with its inputs at hand."""

    def __init__(self, name: str, model: Path | bytes, feeds: Feeds) -> None:
        self.name = name
        self.session = open_optimized(model, name)
        self.feeds = {i.name: feeds[i.name] for i in self.session.get_inputs() if i.name in feeds}

    def run(self) -> float:
        """One run; its duration in ms."""
        start = time.perf_counter_ns()
        try:
            self.session.run(None, self.feeds)
        except Exception as error:
            raise ModelError(f"{self.name}: ONNX Runtime can't run it ({first_line(error)})") from error
        return (time.perf_counter_ns() - start) / 1e6


def open_optimized(model: Path | bytes, name: str) -> ort.InferenceSession:
    """A CPU session with all optimizations, as a user would open it, except that idle threads don't spin.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Spinning threads of one model would take the cores from the next one's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        source = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: ONNX Runtime can't load it ({first_line(error)})") from error


def single_input(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, NDArray[Any]]:
    """Random inputs for one sample: a symbolic first dimension is 1, other symbolic ones as in verification.

    Args:
        model: the source model.
        shapes: shapes fixed by the user, by input name.

    Raises:
        ModelError: no shapes could be found that the model accepts.
    """
    from onnxprune.prepare.prepare import prepare
    from onnxprune.proof.inputs import random_inputs
    from onnxprune.shapes.dims import one_sample

    given = dict(shapes or {})
    try:
        prepared = prepare(model, one_sample(model, given))
        if prepared.inferred.errors:
            prepared = prepare(model, given)
        scope = prepared.inferred.scopes[id(prepared.graph)]
        return random_inputs(prepared.graph, prepared.shapes, scope, 0)
    except Exception as error:
        raise ModelError(f"no inputs for one sample could be made up ({first_line(error)}); give --shape") from error
