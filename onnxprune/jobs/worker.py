"""What runs in a worker: one job at a time, with its own threads only, and never next to a timing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxPruneError
from onnxprune.jobs.machine import alone, among_others
from onnxprune.statistics.providers import threads

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_HELD = 2  # shared values that a worker keeps
_held: OrderedDict[str, Any] = OrderedDict()


@dataclass(frozen=True)
class Answer:
    """What a worker sends back.

    Attributes:
        value: of the function; None where it failed.
        error: why the input can't be evaluated; empty where it could.
        seconds: that the function took.
        worker: machine and process.
    """

    value: Any
    error: str
    seconds: float
    worker: str


@dataclass(frozen=True)
class Filed:
    """A shared value in a file of this machine; a worker reads it once."""

    key: str
    path: Path

    def read(self) -> Any:
        """The value; arrays in it are mapped, so that workers have them in common."""
        if self.key not in _held:
            import joblib

            _held[self.key] = joblib.load(self.path, mmap_mode="r")
            while len(_held) > _HELD:
                _held.popitem(last=False)
        _held.move_to_end(self.key)
        return _held[self.key]


@dataclass(frozen=True)
class Sealed:
    """Arguments of a job that Dask is not to search for results of other jobs: that takes longer than to send them."""

    values: tuple[Any, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


def perform(
    function: Callable[..., Any], shared: Any, arguments: Iterable[Any], *, timed: bool, pinned: bool = False
) -> Answer:
    """Runs a job: `function(shared, *arguments)`.

    Args:
        function: of a module.
        shared: what many jobs have in common, or where it lies.
        arguments: of this job.
        timed: nothing else may run on this machine meanwhile.
        pinned: this process is a worker: it has one thread, unless somebody said otherwise.
    """
    if pinned:
        _pin()
    value = shared.read() if isinstance(shared, Filed) else shared
    start, name = time.perf_counter(), f"{os.uname().nodename if hasattr(os, 'uname') else ''}:{os.getpid()}"
    with alone() if timed else among_others():
        try:
            found, error = function(value, *arguments), ""
        except OnnxPruneError as problem:
            found, error = None, str(problem)
    return Answer(found, error, time.perf_counter() - start, name)


def _pin() -> None:
    """One thread for sessions and for products, where the worker was started without."""
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threadpool_limits(limits=threads() or 1)  # for good: all that runs here are jobs


def begin(parent: int) -> None:
    """Prepares a process of this machine: it ends with its parent, and leaves Ctrl-C to it."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()
