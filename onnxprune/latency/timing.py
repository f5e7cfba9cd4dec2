"""What the user says about the latency that is aimed at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onnxprune.latency.store import default_folder


@dataclass(frozen=True)
class Timing:
    """How the pruned model will be run.

    Attributes:
        threads: of one operator, as ONNX Runtime counts them; 0 leaves it to ONNX Runtime.
        batch: samples of a run, where the model leaves that open.
        cache: folder of measured times; the user's folder for caches where None.
    """

    threads: int = 0
    batch: int = 1
    cache: str | os.PathLike[str] | None = None

    @property
    def folder(self) -> Path:
        """Of measured times."""
        return default_folder() if self.cache is None else Path(self.cache)
