"""Temporary folders that don't outlive a killed process for long.

Each holds a file that its process keeps locked. The system gives the lock back however the process ends, so a folder whose
lock is free has lost its owner, in whatever container or user session that was; the next process that needs room removes it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: folders stay after a kill, until the system tidies up
    fcntl = None  # type: ignore[assignment]

_PREFIX = "onnxprune-"
_LOCK = "lock"


class Scratch:
    """A new temporary folder, removed with this object or at the end of the process.

    Attributes:
        path: of the folder.

    Raises:
        OSError: there is no room, or no folder for temporary files.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.path = Path(self._folder.name)
        new = self.path / f"{_LOCK}.new"
        self._lock = open(new, "wb")  # noqa: SIM115 - held as long as the folder
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(self.path / _LOCK)  # never seen unlocked

    def __del__(self) -> None:
        lock = getattr(self, "_lock", None)
        if lock is not None:
            lock.close()


@functools.cache
def remove_abandoned() -> None:
    """Removes folders of processes that are gone, once in a process."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}") if fcntl is not None else ():
        with contextlib.suppress(OSError), open(lock, "r+b") as held:  # of others, or locked
            if os.fstat(held.fileno()).st_uid == os.geteuid():
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
