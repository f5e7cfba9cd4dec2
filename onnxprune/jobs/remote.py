"""Clusters of other machines: Dask and Ray. Both give the job of a dead worker to another."""

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
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.jobs.worker import THREADS, Answer, Sealed, perform

_SECONDS = 20  # to connect
_FRESH = 0.5  # seconds for which it is taken as known who works on a Dask cluster
_START = 60  # seconds for the first job of a cluster, whose workers may have to start


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
