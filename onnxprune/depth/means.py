"""What a branch gives on average: one number for each of its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.depth.branches import Branch
from onnxprune.depth.surgery import constant_of
from onnxprune.errors import ModelError
from onnxprune.statistics.flow import lift
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]


def branch_means(
    model: onnx.ModelProto,
    branches: Sequence[Branch],
    samples: Samples,
    *,
    budget: int = 1 << 30,
    providers: Providers = CPU,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Array]:
    """By summand its mean over samples and positions, as a constant of its rank, `(1, C, 1, 1)` for images.

    Args:
        model: the model that the branches are of.
        branches: all that could go.
        samples: calibration samples; positions that their mask leaves out don't count.
        budget: bytes of activations that are held.
        providers: that the model runs on.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples, or a branch gives NaN or infinity.
    """
    sums: dict[str, Array] = {}
    counts = dict.fromkeys((b.tensor for b in branches), 0)
    kinds: dict[str, tuple[int, Any]] = {}
    stream = Stream(lift(model), samples, budget, providers)
    for view in stream.walk([b.tensor for b in branches]):
        for branch in branches:
            array = view.get(branch.tensor)
            rows = _rows(array, branch, view.batch, samples.mask)
            kinds[branch.tensor] = array.ndim, array.dtype
            sums[branch.tensor] = sums.get(branch.tensor, 0.0) + rows.sum(axis=0, dtype=np.float64)
            counts[branch.tensor] += len(rows)
        progress("measuring blocks", (view.index + 1) / len(samples.batches))
    found = {}
    for branch in branches:
        mean = sums[branch.tensor] / max(counts[branch.tensor], 1)
        if not np.isfinite(mean).all():
            raise ModelError(f"tensor {branch.tensor!r} has NaN or infinity on the calibration samples")
        found[branch.tensor] = constant_of(branch, mean, *kinds[branch.tensor])
    return found


def _rows(array: Array, branch: Branch, batch: Batch, mask: str | None) -> Array:
    """Positions of samples that count, `(rows, *channels)`."""
    others = [a for a in range(array.ndim) if a not in branch.axes]
    moved = array.transpose([*others, *branch.axes])
    lead = len(others)
    if others[:1] == [0] and len(array) > batch.count and len(array) == len(next(iter(batch.feeds.values()))):
        moved = moved[: batch.count]  # the others are repeats
    if mask is not None and moved.shape[:2] == batch.feeds[mask][: len(moved)].shape and lead >= 2:
        moved, lead = moved[batch.feeds[mask][: len(moved)] != 0], lead - 1
    return moved.reshape(-1, *moved.shape[lead:])
