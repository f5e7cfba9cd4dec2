"""The command line `onnxprune`.

Exit codes are those of `onnxprune.errors`, 70 for an internal error (a bug of ours) and 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

INTERNAL_ERROR = 70
INTERRUPTED = 130

_EVERYWHERE = {"--debug": "--debug", "-v": "-v", "--verbose": "-v", "-q": "-q", "--quiet": "-q"}


def main() -> NoReturn:
    """Entry point of the installed command."""
    from onnxprune.cli.process import prepare_process

    prepare_process()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code.

    Args:
        arguments: the command line without the program's name.
    """
    from onnxprune.cli.interrupt import interrupted, remember_interrupts

    flags, rest = _hoist(arguments)
    try:
        remember_interrupts()
        _end_on_sigterm()
        from onnxprune.cli.app import app

        # Returns the code of typer.Exit, and what the command returned, which is nothing, otherwise.
        code: int | None = app(args=[*flags, *rest], prog_name="onnxprune", standalone_mode=False)
        return _interrupted() if code == INTERRUPTED or interrupted() else code or 0  # typer makes a code of Ctrl-C too
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if type(error).__name__ == "Abort" or interrupted() or _from_interrupt(error):
            return _interrupted()
        if "--debug" in flags:
            raise
        return _report(error)
    finally:
        _flush()


def _from_interrupt(error: BaseException | None) -> bool:
    """An extension module turned an interrupt into an error of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _hoist(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Global flags may stand anywhere before `--`: they are taken to the front."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [_EVERYWHERE[a] for a in arguments[:end] if a in _EVERYWHERE]
    return flags, [a for k, a in enumerate(arguments) if k >= end or a not in _EVERYWHERE]


def _report(error: Exception) -> int:
    """One line on stderr for any error; returns the exit code."""
    from onnxprune.errors import OnnxPruneError, UsageError

    if isinstance(error, OnnxPruneError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _complain("out of memory; use a machine with more of it, or --no-verify", 1)
    usage = getattr(error, "format_message", None)  # typer's own complaint about the command line
    if usage is not None:
        return _complain(f"{usage()} (see `onnxprune --help`)", UsageError.exit_code)
    text = f"internal error ({type(error).__name__}: {error}); please report it with the traceback that --debug shows"
    return _complain(text, INTERNAL_ERROR)


def _complain(text: str, code: int) -> int:
    line = " ".join(text.split())
    print(f"error: {line}", file=sys.stderr)
    return code


def _interrupted() -> int:
    return _complain("interrupted; no output was left half-written", INTERRUPTED)


def _end_on_sigterm() -> None:
    """SIGTERM ends the program as an exception does, so that temporary files are removed."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _flush() -> None:
    """A reader that has gone away is no error."""
    from onnxprune.cli.screen import silence

    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            silence(descriptor)
