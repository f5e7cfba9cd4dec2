"""Labels of calibration samples, for what can use them. Nothing needs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxprune.calibrate.batch import Chunk, Samples
from onnxprune.errors import UsageError

Labels = NDArray[Any]


def stored_labels(source: Any, inputs: Sequence[str], count: int) -> Labels | None:
    """The array `labels` of an npz file, where it is one of integers with one row for each of `count` samples.

    Labels of other samples of the file (those of evaluation images) are passed over.
    """
    if not isinstance(source, str | os.PathLike) or Path(source).suffix != ".npz" or "labels" in inputs:
        return None
    with np.load(source, allow_pickle=False) as archive:
        found = archive["labels"] if "labels" in archive.files else None
    return found if found is not None and found.ndim in (1, 2) and found.dtype.kind in "iu" and len(found) == count else None


def with_labels(samples: Samples, labels: ArrayLike, available: int | None = None, chunks: Sequence[Chunk] = ()) -> Samples:
    """Samples that carry labels.

    Args:
        samples: without.
        labels: integers `(S,)`, or `(S, T)` for tokens; S is the number of samples, or of all that
            there were to take from.
        available: how many there were to take from.
        chunks: where the samples lie.

    Raises:
        UsageError: they are no integers, not as many as the samples, or batches do not keep the order of the samples.
    """
    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.ndim not in (1, 2):
        raise UsageError(f"labels have to be integers (N,), or (N, T) for tokens, not {found.dtype} {list(found.shape)}")
    if len(found) not in (samples.count, available):
        raise UsageError(f"there are {len(found):,} labels for {samples.count:,} samples; give one for each")
    if len({chunk.shape for chunk in chunks}) > 1:
        raise UsageError("labels need samples of one shape: those of different shapes run in batches of their own")
    return replace(samples, labels=found[: samples.count].astype(np.int64))
