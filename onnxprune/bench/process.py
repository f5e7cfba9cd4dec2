"""Processes that run one model each, seen from the one that times them.

A process is suspended while it is not its turn: threads of ONNX Runtime go on spinning for up to 0.1 s behind a run, in
expectation of the next one, and with as many threads as cores they would slow down whoever runs then, up to fourfold.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import IO, Any

import numpy as np
import psutil

from onnxprune.bench.timing import Floats
from onnxprune.bench.worker import Order
from onnxprune.errors import ModelError, OnnxPruneError, UsageError

_KINDS: dict[str, type[OnnxPruneError]] = {"UsageError": UsageError}
_PATIENCE = 10.0  # seconds that a process gets to end by itself
_SHOWN = 200
_START = "import json, sys; sys.path = json.loads(sys.argv[1]); from onnxprune.bench.worker import main; main()"


class ModelProcess:
    """A `Subject`: a fresh process, whose libraries are loaded while its model is not yet.

    Used as a context manager; the process is gone behind it.

    Args:
        order: what to run.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self.opened: dict[str, Any] = {}
        self._seen = psutil.Process(self._process.pid)
        self._rests = False

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:  # nobody waits for what it still does
            self._process.kill()
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def imported(self) -> None:
        """Waits until libraries are loaded.

        Raises:
            ModelError: the process died.
        """
        self._heard()

    def open(self) -> None:
        """Creates the session and runs it once; `opened` says how long each took (`session_ms`, `first_ms`).

        Raises:
            ModelError: ONNX Runtime refuses the model, can't run it, or the process died of it.
            UsageError: a provider did not start.
        """
        self.opened = self._ask(open=asdict(self.order))
        self._rest()

    def burst(self, runs: int) -> Floats:
        """Runs in a row; the duration of each in ms `(runs,)`."""
        found = self._ask(burst=runs)
        self._rest()
        return np.array(found["ms"], np.float64)

    def transfers(self) -> tuple[float, float] | None:
        """Ms in which inputs come onto the device, and outputs back; None where there is none."""
        found = self._ask(transfers=True)["transfers"]
        return None if found is None else (found[0], found[1])

    def memory(self) -> tuple[int, int, int | None]:
        """Bytes: the peak of the process, what it held before the session, and what the session took on the device."""
        found = self._ask(memory=True)
        return found["peak"], self.opened["base"], found["device"]

    def profile(self) -> str:
        """Path of ONNX Runtime's profile, which ends with this call."""
        return str(self._ask(profile=True)["profile"])

    def close(self) -> None:
        """Ends the process."""
        self._go_on()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still to be written to a process that is gone
                    stream.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _rest(self) -> None:
        with contextlib.suppress(psutil.Error):  # it is gone, or must not be touched
            self._seen.suspend()
            self._rests = True

    def _go_on(self) -> None:
        if self._rests:
            with contextlib.suppress(psutil.Error):
                self._seen.resume()
            self._rests = False

    def _ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._go_on()
        with contextlib.suppress(BrokenPipeError):  # it is dead; reading tells more
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(f"{self.order.name}: its process {self._cause()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _KINDS.get(answer["kind"], ModelError)(answer["error"])
        return answer

    def _cause(self) -> str:
        """How the process ended, and the last it said."""
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {said[-1][:_SHOWN]}" if said else ""
        if code == -getattr(signal, "SIGKILL", 0) != 0:
            return f"was killed; there may be too little memory{last}"
        return f"ended with {f'signal {-code}' if code < 0 else f'code {code}'}{last}"
