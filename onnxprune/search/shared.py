"""What evaluations have in common: what a worker is sent once, and what it makes of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.errors import ModelError
from onnxprune.io.journal import digest
from onnxprune.io.load import MAX_PROTOBUF_BYTES
from onnxprune.io.structure import model_size
from onnxprune.metrics.data import EvalData
from onnxprune.metrics.registry import find_metric
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock
from onnxprune.search.stitched import Judged, OutputError, Stitched
from onnxprune.statistics.channels import ChannelStatistics

_OPEN = 2  # studies that a worker keeps
_MARGIN = 2**24
_lock = threading.Lock()
_open: OrderedDict[str, Bench] = OrderedDict()


@dataclass(frozen=True)
class Shared:
    """Everything that an evaluation follows from, besides its own arguments.

    Attributes:
        key: hash of it.
        source: the model.
        request: options; its data are the calibration samples, held in arrays.
        statistics: moments of what linear nodes read, without their weights.
        evaluation: data with labels, held in arrays; None where nothing is scored. Its metric has no function: that may be
            one of a user's file.
        metric: its name, or `file.py:function`, which has to be there on each machine.
        judged: batches on which candidates are compared, and which of their samples count; see `judging`.
    """

    key: str
    source: onnx.ModelProto
    request: Request
    statistics: Sequence[ChannelStatistics] = ()
    evaluation: EvalData | None = None
    metric: str | None = None
    judged: Sequence[Judged] = ()

    def judging(self, judged: Sequence[Judged]) -> Shared:
        """What judges candidates: the batches for that in place of all calibration samples, which are more to send.

        Args:
            judged: at least one.
        """
        samples = self.request.data
        assert isinstance(samples, Samples)
        batch = judged[0][0]
        few = replace(samples, batches=[batch], count=batch.count, names=(), labels=None)
        return replace(self, key=digest("judging", self.key), request=replace(self.request, data=few), judged=judged)


class Bench:
    """What a worker keeps open between evaluations of one study."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.lock = threading.Lock()  # a cluster's worker may have several threads

    @cached_property
    def pruning(self) -> Pruning:
        """The source, analysed, with its samples."""
        return Pruning(self.shared.source, self.shared.request, lambda stage, done: None, Clock())

    @cached_property
    def stitched(self) -> Stitched:
        """Runs candidates."""
        with self.lock:
            return Stitched(self.pruning.reference.model, self.pruning.groups, self.shared.statistics)

    @cached_property
    def output_error(self) -> OutputError:
        """Judges candidates."""
        samples = self.pruning.samples
        assert samples is not None
        return OutputError(self.stitched, self.shared.judged, samples.mask)

    @cached_property
    def evaluation(self) -> EvalData | None:
        """The data to score on, with its metric."""
        found = self.shared.evaluation
        if found is None or self.shared.metric is None:
            return found
        return replace(found, metric=find_metric(self.shared.metric))


def bench(shared: Shared) -> Bench:
    """The open bench of a study, in this process."""
    with _lock:
        if shared.key not in _open:
            _open[shared.key] = Bench(shared)
            while len(_open) > _OPEN:
                _open.popitem(last=False)
        _open.move_to_end(shared.key)
        return _open[shared.key]


def in_arrays(samples: Samples) -> Samples:
    """The same samples, read once and held."""
    return replace(samples, batches=list(samples.batches))


def check_size(source: onnx.ModelProto) -> None:
    """Raises `ModelError` where a model is too large to be sent to a worker (2 GiB)."""
    size = model_size(source)
    if size > MAX_PROTOBUF_BYTES - _MARGIN:
        raise ModelError(f"the model has {size / 1e9:.1f} GB: beyond 2 GiB it can't be sent to workers; use `prune`")
