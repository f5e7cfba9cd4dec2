"""Runs jobs on a cluster and writes down what is finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import ModelError
from onnxprune.jobs.cluster import Cluster, first
from onnxprune.jobs.log import Log
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
    jobs: Sequence[Job],
    cluster: Cluster,
    log: Log | None = None,
    *,
    keep: Callable[[Job, Any], Any] = lambda job, value: value,
    timed: bool = False,
) -> Iterator[Done]:
    """Results in the order in which they are finished; those of the log first.

    A worker gets a new job after the result of its last one is in the log. A job whose worker dies is tried again on
    another, `_ATTEMPTS` times in all. Jobs with the same key run once.

    Args:
        function: of a module; called as `function(shared, *job.arguments)`.
        shared: what jobs have in common.
        jobs: what to do.
        cluster: where.
        log: of finished results.
        keep: makes of a result what the log holds of it (what JSON can hold), after writing the rest elsewhere.
        timed: each job runs alone on its machine.

    Raises:
        ModelError: a job took all its workers down.
        UsageError: the log can't be written to.
    """
    waiting: deque[Job] = deque()
    seen: set[str] = set()
    for job in jobs:
        if job.key in seen:
            continue
        seen.add(job.key)
        if log is not None and job.key in log.results:
            yield Done(job, log.results[job.key], found=True)
        else:
            waiting.append(job)
    if not waiting:
        return
    sent = cluster.share(shared)
    running: dict[Future[Answer], Job] = {}
    tried: dict[str, int] = {}
    while waiting or running:
        while waiting and len(running) < cluster.workers:
            job = waiting.popleft()
            tried[job.key] = tried.get(job.key, 0) + 1
            running[cluster.submit(function, sent, job.arguments, timed=timed)] = job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            error = _error(future)
            if error is None:
                yield _finished(job, future.result(), log, keep)
            elif cluster.lost(error) and tried[job.key] < _ATTEMPTS:
                waiting.appendleft(job)
                sent = cluster.share(shared, again=True)
            else:
                raise _final(error, tried[job.key]) from error


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
