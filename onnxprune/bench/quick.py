"""Latency of models side by side, in this process, on the CPU of this machine.

A quick look for the result table, not a benchmark: one process, one input, whatever else the machine does meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxprune.bench.session import Feeds, ReadySession, open_optimized
from onnxprune.bench.timing import Effort, Times, interleave


def latency(
    models: Mapping[str, Path | bytes],
    feeds: Feeds,
    *,
    threads: int = 0,
    seconds: float = 1.0,
    min_rounds: int = 10,
    max_rounds: int = 500,
) -> dict[str, Times]:
    """Times models in turn on the same inputs, with ONNX Runtime's own defaults.

    Args:
        models: a file or its bytes for each name.
        feeds: inputs; those a model does not have are left out.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        seconds: time to spend on timed rounds, all models together; warm-up takes up to half of it more.
        min_rounds: rounds of each model, however long they take.
        max_rounds: the most rounds of each model.

    Raises:
        ModelError: ONNX Runtime refuses a model or can't run it.
    """
    sessions = {n: ReadySession(open_optimized(m, n, threads=threads, spin=False), n, feeds) for n, m in models.items()}
    return interleave(sessions, Effort(seconds, min_rounds, max_rounds))
