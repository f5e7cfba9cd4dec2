"""The file of a pruning: what `onnxprune prune --report-out` writes, by the schema beside this file."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

FORMAT = "onnxprune.prune/1"


def record(source: Path, output: Path, command: Sequence[str] | None = None) -> dict[str, Any]:
    """What a reader of the file needs beside its figures: both models, the machine and the command.

    Args:
        source: file of the source.
        output: file of the pruned model.
        command: program and arguments; those of this process unless given.
    """
    import onnxprune
    from onnxprune.bench.environment import environment

    return {
        "format": FORMAT,
        "onnxprune": onnxprune.__version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(command or ["onnxprune", *sys.argv[1:]]),
        "environment": asdict(environment()),
        "input": str(source),
        "output": str(output),
        "sha256": {"input": _hash(source), "output": _hash(output)},
    }


def _hash(path: Path) -> str:
    """SHA-256 of a model file; empty where it is gone by now."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


@cache
def schema() -> dict[str, Any]:
    """The published JSON schema."""
    return dict(json.loads(files("onnxprune.report").joinpath("prune.schema.json").read_text("utf-8")))
