"""What a command shows: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from onnxprune.cli.interrupt import raise_again
from onnxprune.cli.pace import Pace

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text

_WIDTH_OF_A_PIPE = 120


class _PatientConsole(Console):
    """A console whose reader may go away: what is left is not shown, but the command does its work."""

    def on_broken_pipe(self) -> None:
        """Sends the rest nowhere."""
        self.quiet = True
        silence(1)


def silence(descriptor: int) -> None:
    """Whatever is still written to stdout (1) or stderr (2) goes nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and not os.environ.get("COLUMNS")
    width = _WIDTH_OF_A_PIPE if piped else None
    return _PatientConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


@dataclass
class Screen:
    """How much of it to show.

    Attributes:
        verbose: everything, not only the most frequent.
        quiet: neither results nor progress; what `--json` asks for stays.
    """

    verbose: bool = False
    quiet: bool = False
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    def show(self, *renderables: RenderableType) -> None:
        """Results for people."""
        if not self.quiet:
            for renderable in renderables:
                self.out.print(renderable)

    def document(self, data: Mapping[str, Any]) -> None:
        """Results for programs: one JSON document."""
        try:
            sys.stdout.write(to_json(data))
            sys.stdout.flush()
        except BrokenPipeError:
            silence(1)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """A callback for (what is being done, share of it that is done 0..1), shown where stderr is a terminal.

        It raises an interrupt that was lost, see `onnxprune.cli.interrupt`.
        """
        if self.quiet or not self.err.is_terminal:
            yield lambda what, share: raise_again()
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column
        from rich.text import Text

        pace, start = Pace(), time.monotonic()

        class Left(TextColumn):
            """Minutes and seconds that are left, where that can be told."""

            def render(self, task: Task) -> Text:
                return Text(left_text(pace.left(time.monotonic() - start)), style="progress.remaining")

        columns = (
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            Left(""),
        )
        with Progress(*columns, console=self.err, transient=True, expand=True) as bar:
            task = bar.add_task("", total=1.0)

            def show(what: str, share: float) -> None:
                raise_again()
                bar.update(task, description=what, completed=pace(time.monotonic() - start, share))

            yield show


def left_text(seconds: float | None) -> str:
    """Such as `1:05 left`; spaces where it can't be told."""
    if seconds is None:
        return " " * 9
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left".rjust(9)


def to_json(data: Mapping[str, Any]) -> str:
    """JSON text by the standard: numbers that are not finite become null."""
    return json.dumps(_plain(data), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
