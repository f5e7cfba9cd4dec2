"""Runs jobs on a cluster and writes down what is finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import ModelError
from onnxprune.jobs.cluster import Cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.remote import first
from onnxprune.jobs.worker import Answer

_ATTEMPTS = 3  # of a job whose workers die


@dataclass(frozen=True)
class Job:
    """One evaluation.

    Attributes:
        key: hash of everything that its result follows from.
        arguments: of the function, behind what all jobs share.
    """

    key: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Done:
    """A finished job.

    Attributes:
        job: which.
        value: what the log holds of its result.
        error: why there is none; empty where there is.
        found: it was in the log already.
    """

    job: Job
    value: Any
    error: str = ""
    found: bool = False


def run_jobs(
    function: Callable[..., Any],
    shared: Any,
    jobs: Iterable[Job | None],
    cluster: Cluster,
    log: Log | None = None,
    *,
    keep: Callable[[Job, Any], Any] = lambda job, value: value,
    timed: bool = False,
) -> Iterator[Done]:
    """Results in the order in which they are finished; those of the log as soon as their job is known.

    A worker gets a new job after the result of its last one is in the log. A job whose worker dies is tried again on
    another, `_ATTEMPTS` times in all. Jobs with the same key run once.

    Args:
        function: of a module; called as `function(shared, *job.arguments)`.
        shared: what jobs have in common.
        jobs: what to do. None: there is none before another result was handed out; then it is asked again.
        cluster: where.
        log: of finished results.
        keep: makes of a result what the log holds of it (what JSON can hold), after writing the rest elsewhere.
        timed: each job runs alone on its machine.

    Raises:
        ModelError: a job took all its workers down.
        UsageError: the log can't be written to.
    """
    source, seen = iter(jobs), set[str]()
    hands = _Hands(function, shared, cluster, timed)
    more = True
    while more or hands.busy:
        for job in source:
            if job is None:
                break
            if job.key in seen:
                continue
            seen.add(job.key)
            if log is not None and job.key in log.results:
                yield Done(job, log.results[job.key], found=True)
            else:
                hands.take(job)
        else:
            more = False
        if more and not hands.busy:
            raise RuntimeError("jobs wait for a result that nobody works on")
        for job, answer in hands.finished():
            yield _finished(job, answer, log, keep)


class _Hands:
    """Jobs that run, and those that wait for a worker.

    Args:
        function: of all jobs.
        shared: what they have in common.
        cluster: where they run.
        timed: each runs alone on its machine.
    """

    def __init__(self, function: Callable[..., Any], shared: Any, cluster: Cluster, timed: bool) -> None:
        self.function, self.shared, self.cluster, self.timed = function, shared, cluster, timed
        self.waiting: deque[Job] = deque()
        self.running: dict[Future[Answer], Job] = {}
        self.tried: dict[str, int] = {}
        self.sent: Any = None

    @property
    def busy(self) -> bool:
        """There is something to wait for."""
        return bool(self.waiting or self.running)

    def take(self, job: Job) -> None:
        """Starts a job now or as soon as a worker is free."""
        self.waiting.append(job)
        self._start()

    def finished(self) -> Iterator[tuple[Job, Answer]]:
        """Waits for a result; workers that are free afterwards have their next job before this is called again."""
        self._start()
        for future in wait(self.running, return_when=FIRST_COMPLETED).done if self.running else ():
            job = self.running.pop(future)
            error = _error(future)
            if error is None:
                yield job, future.result()
            elif self.cluster.lost(error) and self.tried[job.key] < _ATTEMPTS:
                self.waiting.appendleft(job)
                self.sent = self.cluster.share(self.shared, again=True)
            else:
                raise _final(error, self.tried[job.key]) from error
            self._start()

    def _start(self) -> None:
        while self.waiting and len(self.running) < self.cluster.workers:
            if self.sent is None:
                self.sent = self.cluster.share(self.shared)
            job = self.waiting.popleft()
            self.tried[job.key] = self.tried.get(job.key, 0) + 1
            self.running[self.cluster.submit(self.function, self.sent, job.arguments, timed=self.timed)] = job


def _error(future: Future[Answer]) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _finished(job: Job, answer: Answer, log: Log | None, keep: Callable[[Job, Any], Any]) -> Done:
    if answer.error:
        return Done(job, None, answer.error)
    value = keep(job, answer.value)
    if log is not None:
        log.add(job.key, value)
        value = log.results[job.key]  # what a later run will see
    return Done(job, value)


def _final(error: BaseException, tried: int) -> BaseException:
    """Workers that die are no bug of ours; anything else is passed on."""
    name = type(error).__name__
    if isinstance(error, CancelledError):
        return ModelError("the cluster is gone; start it again, and resume")
    if name in ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker", "WorkerCrashedError", "OutOfMemoryError"):
        return ModelError(
            f"an evaluation took its worker down {max(tried, _ATTEMPTS)} times, out of memory perhaps: use fewer workers, "
            f"or a smaller memory budget, and resume ({first(error)[:120]})"
        )
    return error
