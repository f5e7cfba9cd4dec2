"""The file of a pruning: what `onnxprune prune --report-out` writes, by the schema beside this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.report.provenance import provenance

if TYPE_CHECKING:
    import onnx

FORMAT = "onnxprune.prune/1"


def record(
    source: tuple[Path, onnx.ModelProto], output: tuple[Path, onnx.ModelProto], command: Sequence[str] | None = None
) -> dict[str, Any]:
    """What a reader of the file needs beside its figures: both models, the machine and the command.

    Args:
        source: file of the source, and what it holds.
        output: file of the pruned model, and what it holds.
        command: program and arguments; those of this process unless given.
    """
    from onnxprune.io.structure import sha256_model

    return {
        "format": FORMAT,
        **provenance(command),
        "input": str(source[0]),
        "output": str(output[0]),
        "sha256": {"input": sha256_model(source[1]), "output": sha256_model(output[1])},
    }


@cache
def schema() -> dict[str, Any]:
    """The published JSON schema."""
    return dict(json.loads(files("onnxprune.report").joinpath("prune.schema.json").read_text("utf-8")))
