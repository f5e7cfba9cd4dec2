"""One model in a process of its own, which runs when it is told to.

Speaks JSON, one line for each message, on stdin and stdout. It imports little, so that the memory it takes is the
model's, and it ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from onnxprune.bench.session import ReadySession, open_optimized
from onnxprune.errors import OnnxPruneError
from onnxprune.statistics.providers import Providers, load_libraries

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What a process is to run.

    Attributes:
        model: file.
        name: of the model, for errors.
        providers: ONNX Runtime's names and options.
        libraries: files of plug-in providers.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        device: where inputs and outputs stay; None for arrays of numpy.
        feeds: file that holds the inputs, pickled.
        profile: beginning of the path of ONNX Runtime's profile; empty for none.
    """

    model: str
    name: str
    providers: list[tuple[str, dict[str, str]]]
    libraries: list[str]
    threads: int
    device: tuple[str, int] | None
    feeds: str
    profile: str = ""


def main() -> None:
    """Reads messages until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not be taken for answers
    import numpy  # noqa: F401
    import onnxruntime  # noqa: F401

    _say(answers, {"imported": True})
    worker = _Worker()
    for line in sys.stdin:
        try:
            _say(answers, worker.answer(json.loads(line)))
        except OnnxPruneError as error:
            _say(answers, {"error": str(error), "kind": type(error).__name__})


def _end_with_parent() -> None:
    """A suspended process does not see its stdin end: on Linux the kernel ends it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


class _Worker:
    """Answers messages."""

    def __init__(self) -> None:
        self.ready: ReadySession | None = None
        self.before: int | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """What the first key of a message asks for."""
        if "open" in message:
            return self.open(Order(**message["open"]))
        assert self.ready is not None, "nothing is open"
        if "burst" in message:
            return {"ms": self.ready.burst(message["burst"]).round(6).tolist()}
        if "transfers" in message:
            return {"transfers": self.ready.transfers()}
        if "profile" in message:
            return {"profile": self.ready.session.end_profiling()}
        return {"peak": peak_memory(), "device": _difference(device_memory(self.device), self.before)}

    def open(self, order: Order) -> dict[str, Any]:
        """Creates the session, and runs it once."""
        import time

        load_libraries(order.libraries)
        feeds = pickle.loads(Path(order.feeds).read_bytes())
        self.device = order.device
        self.before = device_memory(order.device)
        chosen = tuple((name, tuple(options.items())) for name, options in order.providers)
        base = resident_memory()
        start = time.perf_counter_ns()
        session = open_optimized(
            Path(order.model), order.name, providers=Providers(chosen), threads=order.threads, profile=order.profile
        )
        opened = (time.perf_counter_ns() - start) / 1e6
        device = None if order.device is None else (order.device[0], int(order.device[1]))
        self.ready = ReadySession(session, order.name, feeds, device)
        first = self.ready.first()
        self.ready.keep_outputs()
        return {"session_ms": opened, "first_ms": first, "base": base, "running": session.get_providers()}


def resident_memory() -> int:
    """Bytes of physical memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most bytes of physical memory that this process has had."""
    # getrusage would count the process that started this one, too: Linux keeps its maximum through exec.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    windows = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows is not None:
        return int(windows)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def device_memory(device: tuple[str, int] | None) -> int | None:
    """Bytes in use on an NVIDIA device, by all processes; None where that can't be told (needs nvidia-ml-py)."""
    if device is None or device[0] != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(device[1]))).used)
    except Exception:
        return None


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
