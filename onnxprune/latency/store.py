"""Times that were measured before on this machine, in a file that grows line by line.

One line is one result, written and flushed when it is there: an interrupted run keeps what it has. Several runs may append
to one file; a line that was cut off or damaged is passed over.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from onnxprune.latency.machine import Runtime

VARIABLE = "ONNXPRUNE_CACHE"


def default_folder() -> Path:
    """Where times are kept unless a folder is given: `$ONNXPRUNE_CACHE/latency`, else the user's folder for caches.

    Source: XDG Base Directory Specification (`$XDG_CACHE_HOME`); its counterparts on macOS and Windows.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given) / "latency"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"
    return base / "onnxprune" / "latency"


class Store:
    """Results by key. What can't be read or written is told as a warning, and does without.

    Args:
        folder: of the files; made where it is missing. None keeps nothing.
        runtime: times of another runtime or machine lie in other files.

    Attributes:
        found: results that were asked for and there.
    """

    def __init__(self, folder: Path | None, runtime: Runtime) -> None:
        self.found = 0
        self.path = None if folder is None else folder / f"{runtime.name()}.jsonl"
        self._held: dict[str, Any] = {}
        if self.path is not None:
            self._held = self._read(self.path)
            self._prepare(self.path, runtime)

    def get(self, key: str) -> Any:
        """A result as plain data; None where there is none."""
        value = self._held.get(key)
        self.found += value is not None
        return value

    def put(self, key: str, value: Any) -> None:
        """Adds a result."""
        self._held[key] = value
        self._append(json.dumps({"key": key, "value": value}))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            warnings.warn(f"{path}: measured times can't be read ({error.strerror}); measuring again", stacklevel=4)
            return {}
        held: dict[str, Any] = {}
        damaged = 0
        for line in lines:
            try:
                record = json.loads(line)
                if "machine" not in record:
                    held[str(record["key"])] = _checked(record["value"])
            except (ValueError, TypeError, KeyError):
                damaged += 1
        if damaged:
            warnings.warn(f"{path}: {damaged} damaged of {len(lines)} lines passed over; measuring again", stacklevel=4)
        return held

    def _prepare(self, path: Path, runtime: Runtime) -> None:
        """The folder, and what the file is about."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        except OSError as error:
            self._give_up(error)
            return
        if cut:  # the last line was cut off: what follows gets a line of its own
            self._append("")
        if not self._held:
            self._append(json.dumps({"machine": runtime.fingerprint()}))

    def _append(self, line: str) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        warnings.warn(f"{self.path}: measured times can't be kept ({error.strerror})", stacklevel=5)
        self.path = None


def _checked(value: Any) -> Any:
    """Times are positive and finite, however deep they lie."""
    if isinstance(value, dict):
        return {k: _checked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_checked(v) for v in value]
    if isinstance(value, int | float) and (not math.isfinite(value) or value < 0):
        raise ValueError(value)
    return value
