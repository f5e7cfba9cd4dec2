"""What the tests' jobs do; workers import it."""

import os
import signal
import time
from pathlib import Path

from onnxprune.errors import ModelError


def add(shared, number):
    return shared + number


def process(shared):
    return os.getpid()


def noted(folder, number, seconds=0.0):
    """Leaves a note of every start and every end."""
    note(folder, f"start {number} {os.getpid()}")
    time.sleep(seconds)
    note(folder, f"end {number} {os.getpid()}")
    return number * number


def fatal(folder, number, times):
    """Kills its worker as often as it is told to; other numbers wait until that happened."""
    if number == 0 and len(notes(folder, "start 0")) < times:
        note(folder, f"start 0 {os.getpid()}")
        os.kill(os.getpid(), signal.SIGKILL)
    return noted(folder, number, 0.05)


def refuse(shared, number):
    if number == 2:
        raise ModelError("two is no model")
    return number


def wrong(shared, number):
    raise ZeroDivisionError("a bug")


def threads(shared):
    from onnxprune.statistics.providers import threads

    return {n: os.environ.get(n) for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}, threads()


def note(folder, text):
    with open(Path(folder) / "notes", "a") as file:
        file.write(text + "\n")


def notes(folder, start=""):
    path = Path(folder) / "notes"
    return [line for line in path.read_text().splitlines() if line.startswith(start)] if path.exists() else []
