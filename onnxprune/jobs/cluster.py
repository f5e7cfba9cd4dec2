"""Where jobs run: in this process, in others on this machine (loky), on a Dask or on a Ray cluster.

All of them hand out `concurrent.futures.Future`. joblib's own loop would start the next job of a worker before the result of
the last one is written down; here a worker gets its next job once that is safe, so a crash costs one job for each worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from onnxprune.errors import UsageError
from onnxprune.io.scratch import Scratch
from onnxprune.jobs.remote import Dask, Ray
from onnxprune.jobs.worker import THREADS, Answer, Filed, begin, perform

Backend = Literal["processes", "dask", "ray"]


class Cluster(Protocol):
    """Workers that take jobs."""

    @property
    def workers(self) -> int:
        """How many jobs run at a time."""

    def share(self, value: Any, *, again: bool = False) -> Any:
        """Takes what many jobs have in common to the workers; what stands for it in `submit`.

        Args:
            value: not changed as long as the cluster is open; what was shared last is not sent twice.
            again: it may be lost.
        """

    def submit(
        self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], *, timed: bool
    ) -> Future[Answer]:
        """Starts `function(shared, *arguments)`; see `onnxprune.jobs.worker.perform`."""

    def lost(self, error: BaseException) -> bool:
        """The worker is gone, not the job wrong: it can be tried again."""

    def close(self) -> None:
        """Gives everything back; what still runs is dropped."""


@dataclass
class Inline:
    """Jobs run in this process, one after the other."""

    workers: int = 1

    def share(self, value: Any, *, again: bool = False) -> Any:
        """The value itself."""
        return value

    def submit(
        self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], *, timed: bool
    ) -> Future[Answer]:
        """Runs the job at once."""
        found: Future[Answer] = Future()
        found.set_result(perform(function, shared, arguments, timed=timed))
        return found

    def lost(self, error: BaseException) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Processes:
    """Processes of this machine, each with one thread; a process that dies takes its own job with it and no other.

    A thread of its own speaks to loky: Ctrl-C reaches the main thread only, and so never leaves a job half handed on.

    Args:
        workers: how many.
    """

    workers: int
    _pools: dict[int, Any] = field(default_factory=dict)
    _jobs: dict[int, Future[Answer]] = field(default_factory=dict)
    _scratch: Scratch = field(default_factory=Scratch)
    _shared: list[tuple[Any, Filed]] = field(default_factory=list)
    _clerk: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def share(self, value: Any, *, again: bool = False) -> Filed:
        """A file that all processes read."""
        import joblib

        for known, filed in self._shared:
            if known is value:
                return filed
        path = self._scratch.path / f"shared-{len(self._shared)}"
        joblib.dump(value, path, protocol=5)
        self._shared.append((value, Filed(str(path), path)))
        return self._shared[-1][1]

    def submit(
        self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], *, timed: bool
    ) -> Future[Answer]:
        """Hands the job to a process that is free, a new one where the last one died."""
        return self._clerk.submit(self._submit, function, shared, arguments, timed).result()

    def lost(self, error: BaseException) -> bool:
        """The process was killed, or ran out of memory."""
        from concurrent.futures.process import BrokenProcessPool

        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        """Ends all processes."""
        self._clerk.submit(self._close).result()

    def _submit(self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], timed: bool) -> Future[Answer]:
        from concurrent.futures.process import BrokenProcessPool

        place = next(k for k in range(self.workers) if k not in self._jobs or self._jobs[k].done())
        last = self._jobs.get(place)
        if last is not None and not last.cancelled() and isinstance(last.exception(), BrokenProcessPool):
            self._pools.pop(place, None)
        try:
            future: Future[Answer] = self._pool(place).submit(perform, function, shared, arguments, timed=timed)
        except BrokenProcessPool:  # it died while it had nothing to do
            del self._pools[place]
            future = self._pool(place).submit(perform, function, shared, arguments, timed=timed)
        self._jobs[place] = future
        return future

    def _close(self) -> None:
        for job in self._jobs.values():
            while not (job.running() or job.done()):  # a pool that ends with a job in its queue fails in its thread
                time.sleep(0.001)
        for pool in self._pools.values():
            pool.shutdown(wait=True, kill_workers=True)
        self._pools.clear()
        self._jobs.clear()

    def _pool(self, place: int) -> Any:
        if place not in self._pools:
            from joblib.externals.loky import ProcessPoolExecutor

            environment = dict.fromkeys(THREADS, "1")
            self._pools[place] = ProcessPoolExecutor(
                1, env=environment, initializer=begin, initargs=(os.getpid(),), timeout=None
            )
        return self._pools[place]


def open_cluster(backend: str = "processes", *, workers: int | None = None, address: str | None = None) -> Cluster:
    """Workers to run jobs on.

    Args:
        backend: `processes` of this machine, `dask` or `ray`.
        workers: processes; one for each core of the machine where not given. A cluster has its own.
        address: of the cluster.

    Raises:
        UsageError: there is no such backend, an option does not go with it, it is not installed, or nobody answers.
    """
    check_backend(backend, workers, address)
    if backend == "processes":
        wanted = cores() if workers is None else workers
        return Inline() if wanted == 1 else Processes(wanted)
    return Dask(address or "") if backend == "dask" else Ray(address or "auto")


def check_backend(backend: str, workers: int | None, address: str | None) -> None:
    """Raises `UsageError` unless these options go together; see `open_cluster`."""
    if backend not in get_args(Backend):
        raise UsageError(f"backend {backend!r} is none of {', '.join(get_args(Backend))}")
    if backend == "processes":
        if address is not None:
            raise UsageError("an address is that of a cluster: choose the backend dask or ray")
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be at least 1, not {workers}")
        return
    if workers is not None:
        raise UsageError(f"workers are those of the {backend} cluster: leave out their number")
    if address is None and backend == "dask":
        raise UsageError("the dask backend needs the address of its scheduler, such as tcp://10.0.0.1:8786")


def cores() -> int:
    """Cores of this machine that this process may use."""
    import joblib

    return int(joblib.cpu_count(only_physical_cores=True))
