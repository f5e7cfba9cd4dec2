"""Where jobs run: in this process, in others on this machine (loky), on a Dask or on a Ray cluster.

All of them hand out `concurrent.futures.Future`. joblib's own loop would start the next job of a worker before the result of
the last one is written down; here a worker gets its next job once that is safe, so a crash costs one job for each worker.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from onnxprune.errors import UsageError
from onnxprune.io.scratch import Scratch
from onnxprune.jobs.worker import THREADS, Answer, Filed, Sealed, begin, perform

Backend = Literal["processes", "dask", "ray"]
_SECONDS = 20  # to connect
_FRESH = 0.5  # seconds for which it is taken as known who works on a Dask cluster
_START = 60  # seconds for the first job of a cluster, whose workers may have to start


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

    Args:
        workers: how many.
    """

    workers: int
    _pools: dict[int, Any] = field(default_factory=dict)
    _jobs: dict[int, Future[Answer]] = field(default_factory=dict)
    _scratch: Scratch = field(default_factory=Scratch)
    _shared: list[tuple[Any, Filed]] = field(default_factory=list)

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
        from concurrent.futures.process import BrokenProcessPool

        place = next(k for k in range(self.workers) if k not in self._jobs or self._jobs[k].done())
        last = self._jobs.get(place)
        if last is not None and not last.cancelled() and isinstance(last.exception(), BrokenProcessPool):
            self._pools.pop(place, None)
        try:
            future = self._pool(place).submit(perform, function, shared, arguments, timed=timed)
        except BrokenProcessPool:  # it died while it had nothing to do
            del self._pools[place]
            future = self._pool(place).submit(perform, function, shared, arguments, timed=timed)
        self._jobs[place] = future
        return self._jobs[place]

    def lost(self, error: BaseException) -> bool:
        """The process was killed, or ran out of memory."""
        from concurrent.futures.process import BrokenProcessPool

        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        """Ends all processes."""
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


class Dask:
    """A Dask cluster. Its scheduler gives the job of a dead worker to another.

    Args:
        address: of the scheduler, such as `tcp://10.0.0.1:8786`.

    Raises:
        UsageError: `distributed` is not installed, nobody answers, or workers have another onnxprune.
    """

    def __init__(self, address: str) -> None:
        try:
            client: Any = importlib.import_module("distributed").Client
        except ImportError:
            raise UsageError("the dask backend needs dask: pip install 'onnxprune[distributed]'") from None
        try:
            self.client: Any = client(address, timeout=_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {address} ({first(error)}); start one with `dask scheduler`"
            ) from None
        self._executors: dict[str, Any] = {}
        self._known: tuple[float, dict[str, int]] = -_FRESH, {}
        self._jobs: list[tuple[str, Future[Answer]]] = []
        self._shared: tuple[Any, Any] | None = None
        self._wait()
        _check_versions(self._versions())
        nothing = importlib.import_module("onnxprune.search.point").nothing
        self._ready = [self.client.submit(nothing, pure=False, workers=[w]) for w in self.client.nthreads()]

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        return sum(self._threads().values()) or 1

    def share(self, value: Any, *, again: bool = False) -> Any:
        """The value in the memory of every worker."""
        if again or self._shared is None or self._shared[0] is not value:
            self._shared = value, self.client.scatter([value], broadcast=True, hash=False)[0]
        return self._shared[1]

    def submit(
        self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], *, timed: bool
    ) -> Future[Answer]:
        """Hands the job to a worker with a free thread, or to any other should that one die.

        Left to itself, the scheduler sends the next job where the last one ran, and another worker has nothing to do.
        """
        self._jobs = [(worker, job) for worker, job in self._jobs if not job.done()]
        busy = Counter(worker for worker, _ in self._jobs)
        free = {worker: threads - busy[worker] for worker, threads in self._threads().items()}
        place = max(sorted(free), key=lambda worker: free[worker], default="")
        future: Future[Answer] = self._executor(place).submit(
            perform, function, shared, Sealed(arguments), timed=timed, pinned=True
        )
        self._jobs.append((place, future))
        return future

    def lost(self, error: BaseException) -> bool:
        """What the job reads was lost with the workers; the scheduler has tried a dead worker's job elsewhere already."""
        return isinstance(error, CancelledError) and self.client.status == "running"

    def close(self) -> None:
        """Drops what still runs, and leaves the cluster as it was."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            for executor in self._executors.values():
                executor.shutdown(wait=False, cancel_futures=True)
            self.client.close(timeout=2)

    def _threads(self) -> dict[str, int]:
        """Of each worker; the scheduler is not asked more often than every `_FRESH` seconds."""
        asked, known = self._known
        if time.monotonic() - asked >= _FRESH:
            known = dict(self.client.nthreads())
            self._known = time.monotonic(), known
        return known

    def _executor(self, worker: str) -> Any:
        """Of one worker; of any where there is none."""
        if worker not in self._executors:
            where = {"workers": [worker], "allow_other_workers": True} if worker else {}
            self._executors[worker] = self.client.get_executor(pure=False, **where)
        return self._executors[worker]

    def _wait(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            address = self.client.scheduler.address if self.client.scheduler else ""
            raise UsageError(f"the Dask scheduler at {address} has no workers; start some with `dask worker`") from None

    def _versions(self) -> list[str]:
        try:
            return list(self.client.run(version).values())
        except Exception as error:
            raise UsageError(f"a Dask worker can't import onnxprune ({first(error)}); install it there too") from None


class Ray:
    """A Ray cluster. Ray gives the job of a dead worker to another.

    Args:
        address: of the cluster; `auto` for the one of this machine.

    Raises:
        UsageError: `ray` is not installed, nobody answers, or workers have another onnxprune.
    """

    def __init__(self, address: str) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise UsageError("the ray backend needs ray, which is not installed: pip install ray") from None
        self.ray = ray
        try:
            _check_listens(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster answers at {address} ({first(error)}); start one with `ray start`") from None
        self._shared: tuple[Any, Any] | None = None
        pinned = {"env_vars": dict.fromkeys(THREADS, "1")}
        self.task = ray.remote(perform).options(num_cpus=1, max_retries=3, runtime_env=pinned)
        try:
            _check_versions([self._version()])
        except BaseException:
            ray.shutdown()
            raise

    @property
    def workers(self) -> int:
        """Processors of all machines that are there now."""
        return int(self.ray.cluster_resources().get("CPU", 1)) or 1

    def share(self, value: Any, *, again: bool = False) -> Any:
        """The value in Ray's store of objects."""
        if again or self._shared is None or self._shared[0] is not value:
            self._shared = value, self.ray.put(value)
        return self._shared[1]

    def submit(
        self, function: Callable[..., Any], shared: Any, arguments: tuple[Any, ...], *, timed: bool
    ) -> Future[Answer]:
        """Hands the job to Ray."""
        future: Future[Answer] = self.task.remote(function, shared, arguments, timed=timed, pinned=True).future()
        return future

    def lost(self, error: BaseException) -> bool:
        """What the job reads was lost with its machine."""
        return isinstance(error, self.ray.exceptions.ObjectLostError)

    def close(self) -> None:
        """Leaves the cluster as it was."""
        self.ray.shutdown()

    def _version(self) -> str:
        try:
            return str(self.ray.get(self.ray.remote(version).remote(), timeout=_START))
        except self.ray.exceptions.GetTimeoutError:
            raise UsageError(
                f"no worker of the Ray cluster took a job within {_START} s; add some with `ray start`"
            ) from None
        except self.ray.exceptions.RayTaskError as error:
            last = (str(error).strip().splitlines() or ["it can't say why"])[-1]  # above it is what Ray called on the way
            raise UsageError(f"a Ray worker can't import onnxprune ({last}); install it there too") from None
        except self.ray.exceptions.RayError as error:
            raise UsageError(f"the Ray cluster runs no job ({first(error)})") from None


def _check_listens(address: str) -> None:
    """Raises `OSError` where nobody listens at `host:port`: Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()


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


def version() -> str:
    """Of what a worker runs."""
    import onnxprune

    return f"onnxprune {onnxprune.__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}"


def _check_versions(found: list[str]) -> None:
    other = next((v for v in found if v != version()), None)
    if other is not None:
        raise UsageError(f"a worker has {other}, this is {version()}: install the same everywhere")


def first(error: BaseException) -> str:
    """First line of an error text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
