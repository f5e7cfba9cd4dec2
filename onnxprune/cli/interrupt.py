"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread is. Inside a callback of an extension module it becomes an error of
another kind, and code that goes on after a failure, as a search does with its other models, would go on. So it is
remembered, and the next sign of progress raises it again.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_seen = threading.Event()


def remember_interrupts() -> None:
    """From now on Ctrl-C is remembered, unless the process ignores it or has a handler of its own."""
    _seen.clear()
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _interrupt)


def interrupted() -> bool:
    """Ctrl-C came since interrupts are remembered."""
    return _seen.is_set()


def raise_again() -> None:
    """Raises an interrupt that was lost.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _seen.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _seen.set()
    signal.default_int_handler(number, frame)
