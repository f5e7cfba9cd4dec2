"""Smaller batches of the same samples, so that what a model makes of one fits into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import onnx

from onnxprune.calibrate.batch import Batch, LazyBatches, Samples
from onnxprune.calibrate.signature import signature
from onnxprune.errors import ModelError
from onnxprune.trace.value import Value

_AT_ONCE = 8  # tensors of the largest size that are alive at the same time: those of a part that runs, and rows of them


class _Parts(LazyBatches):
    """Batches cut into pieces of at most `size` samples."""

    def __init__(self, batches: Sequence[Batch], size: int) -> None:
        self.batches = batches
        self.plan = [(k, start, size) for k, batch in enumerate(batches) for start in range(0, batch.count, size)]
        self.last: tuple[int, Batch] | None = None

    def __len__(self) -> int:
        return len(self.plan)

    def batch(self, index: int) -> Batch:
        """Cuts one out; the whole that it comes from is kept for the next."""
        k, start, size = self.plan[index]
        if self.last is None or self.last[0] != k:
            self.last = k, self.batches[k]
        whole = self.last[1]
        stop = min(start + size, whole.count)
        parts = {f.name: _cut(getattr(whole, f.name), start, stop) for f in fields(whole) if f.name != "count"}
        return Batch(**parts, count=stop - start)


def rebatch(samples: Samples, model: onnx.ModelProto, values: Mapping[str, Value], limit: int) -> Samples:
    """The same samples in batches whose activations take about `limit` bytes; as they are where the model fixes the batch.

    Args:
        samples: of any batch size.
        model: that they are for.
        values: its tensors at the traced sizes.
        limit: bytes for what a part of the model makes of one batch.
    """
    try:
        wanted = signature(model)
    except ModelError:
        return samples
    if not len(samples.batches) or not wanted.batched or wanted.batch is not None:
        return samples
    batch = samples.batches[0]
    if any(a.ndim == 0 or len(a) != batch.count for a in batch.feeds.values()):
        return samples
    each = sum(a.nbytes for a in batch.feeds.values()) / batch.count
    traced = sum(_bytes(values[i.name]) for i in wanted.inputs if i.name in values)
    if not traced:
        return samples
    largest = max(_bytes(v) for v in values.values() if not v.constant)
    size = max(int(limit / (_AT_ONCE * largest * each / traced)), 1)
    return replace(samples, batches=_Parts(samples.batches, size)) if size < batch.count else samples


def _cut(held: Any, start: int, stop: int) -> Any:
    """Samples of what a batch holds: an array, or arrays by name."""
    return {n: a[start:stop] for n, a in held.items()} if isinstance(held, dict) else held[start:stop]


def _bytes(value: Value) -> int:
    count = 1
    for n in value.shape or ():
        count *= n
    return 4 * count if value.shape else 0
