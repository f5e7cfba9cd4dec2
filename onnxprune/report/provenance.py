"""Where results come from: program, date, command and machine, in the same words in every file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any


def provenance(command: Sequence[str] | None = None) -> dict[str, Any]:
    """What every result file holds beside its figures: `onnxprune`, `created`, `command` and `environment`.

    Args:
        command: program and arguments; those of this process unless given.
    """
    import onnxprune
    from onnxprune.bench.environment import environment

    return {
        "onnxprune": onnxprune.__version__,
        "created": now(),
        "command": command_line(command),
        "environment": asdict(environment()),
    }


def now() -> str:
    """Date and time by ISO 8601, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command_line(command: Sequence[str] | None = None) -> str:
    """Program and arguments as a shell reads them; those of this process unless given."""
    return shlex.join(command or ["onnxprune", *sys.argv[1:]])
