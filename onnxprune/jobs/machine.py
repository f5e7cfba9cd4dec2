"""Who may use the processors of a machine: any number of evaluations at a time, or one timing alone.

A readers-writer lock made of two locked files in the folder for temporary files, so it holds between processes of all
sessions of a machine. The system gives locks back however a process ends. A timing that waits holds the first file, the
gate, which every evaluation passes: those that run finish, no new one starts, and the timing gets its turn.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_GATE, _ROOM = "onnxprune-machine-gate.lock", "onnxprune-machine-room.lock"


@contextlib.contextmanager
def among_others(folder: Path | None = None) -> Iterator[None]:
    """An evaluation: waits while something is timed on this machine, and keeps timings waiting.

    Args:
        folder: where the locks lie; the system's folder for temporary files where not given.
    """
    with contextlib.ExitStack() as held:
        with _locked(_GATE, folder, alone=True):
            held.enter_context(_locked(_ROOM, folder, alone=False))
        yield


@contextlib.contextmanager
def alone(folder: Path | None = None) -> Iterator[None]:
    """A timing: waits until all evaluations on this machine have ended, and keeps new ones waiting.

    Args:
        folder: see `among_others`.
    """
    with _locked(_GATE, folder, alone=True), _locked(_ROOM, folder, alone=True):
        yield


@contextlib.contextmanager
def _locked(name: str, folder: Path | None, *, alone: bool) -> Iterator[None]:
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:  # Windows: timings are not kept apart from other processes
        yield
        return
    file = _open(Path(tempfile.gettempdir() if folder is None else folder) / name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """A file that every user of the machine can lock."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
            with contextlib.suppress(OSError):
                os.fchmod(made, 0o444)
            os.close(made)
        return os.open(path, os.O_RDONLY)
