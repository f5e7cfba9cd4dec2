"""A file of finished results: one line each, only ever appended to.

A line is `{"crc": ..., "record": {"key": ..., "data": ...}}`. It is flushed to the disk before the result counts, so that
after a crash, a kill or a power cut all results that anybody saw are there. A last line that was cut off, and any line
whose checksum does not fit, is passed over. Keys follow from the content of a job, so results of other inputs never count.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.errors import UsageError


class Log:
    """An open log, which one process at a time can write.

    Args:
        path: of the file; is made where it is missing.

    Attributes:
        results: data by key.
        damaged: lines that were passed over.

    Raises:
        UsageError: the file can't be made or written to, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.results: dict[str, Any] = {}
        self.damaged = 0
        try:
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"{self.path}: can't be written ({error.strerror}); choose another folder") from None
        self._lock()
        self._file.seek(0)
        text = self._file.read()
        for line in text.splitlines():
            self._take(line)
        if text and not text.endswith(b"\n"):  # cut off: what follows begins a line of its own
            self._write(b"\n")

    def add(self, key: str, data: Any) -> None:
        """Writes a result; one that is there already stays as it is.

        Args:
            key: of the job.
            data: what JSON can hold.

        Raises:
            UsageError: the disk is full, or the file can't be written to any more.
        """
        if key in self.results:
            return
        plain = json.loads(json.dumps(data))  # keys of objects are texts: what is checked is what is read
        record = _text({"key": key, "data": plain})
        self._write(b'{"crc": %d, "record": %s}\n' % (zlib.crc32(record), record))
        self.results[key] = plain

    def forget(self, key: str) -> None:
        """A result is not valid any more; the next one of its key takes its place."""
        self.results.pop(key, None)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def _lock(self) -> None:
        try:
            fcntl = importlib.import_module("fcntl")
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(f"{self.path}: another run writes to it; wait for it, or choose another folder") from None
        except OSError:  # a file system without locks
            return

    def _take(self, line: bytes) -> None:
        """Reads a line; the last result of a key counts."""
        if not line.strip():
            return
        try:
            held = json.loads(line)
            record = held["record"]
            if zlib.crc32(_text(record)) != held["crc"]:
                raise ValueError
            self.results[record["key"]] = record["data"]
        except (ValueError, KeyError, TypeError):
            self.damaged += 1

    def _write(self, line: bytes) -> None:
        try:
            with memoryview(line) as rest:
                while rest:
                    rest = rest[self._file.write(rest) :]
            with contextlib.suppress(OSError):  # what has no disk behind it, can't be flushed
                os.fsync(self._file.fileno())
        except OSError as error:
            raise UsageError(f"{self.path}: can't be written ({error.strerror}); free some space, then resume") from None


def _text(record: Any) -> bytes:
    return json.dumps(record).encode()
