"""A study of one model: calibration statistics, scores and costs, once for all points and candidates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx

from onnxprune.budget.axes import Axes
from onnxprune.budget.costs import Cost, Floats, Widths
from onnxprune.budget.counted import macs, params, size
from onnxprune.budget.curves import loss_curves
from onnxprune.budget.levels import levels_of
from onnxprune.errors import NothingToPruneError, UsageError
from onnxprune.io.journal import digest
from onnxprune.io.load import sha256_model
from onnxprune.metrics.data import EvalData
from onnxprune.pipeline.evidence import Needs
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, Progress
from onnxprune.search.shared import Shared, check_size, in_arrays
from onnxprune.select.allocate import Choice, ranked, take
from onnxprune.select.criteria import score

Axis = Literal["macs", "params", "size"]
_OF_COST: Mapping[str, Callable[[Study], Cost]] = {
    "macs": lambda s: macs(s.groups, s.axes),
    "params": lambda s: params(s.groups, s.axes),
    "size": lambda s: size(s.groups, s.axes, s.prepared.model),
}


class Study(Pruning):
    """The source with everything that is measured once.

    Args:
        source: the model; not changed.
        request: options; with data.
        tell: called with the stage and the share that is done.

    Attributes:
        choices: groups that may go, with the importances of their units.
        losses: by group id, expected relative squared error of the output by the number of units that go.
        levels: by group id the widths to choose from.

    Raises:
        ModelError: the model is not valid, too large, or ONNX Runtime can't run it on the samples.
        NothingToPruneError: no unit can go.
    """

    def __init__(self, source: onnx.ModelProto, request: Request, tell: Progress = lambda stage, done: None) -> None:
        check_size(source)
        super().__init__(source, request, tell, Clock())
        if self.samples is None:
            raise UsageError("a study needs calibration samples: give data")
        self.samples = in_arrays(self.samples)
        self.needs = Needs(statistics=True, gradients=False, sensitivity=True)
        self.shares = self._bounds()
        evidence = self._gather()
        seen = evidence.context(self.groups, request.seed)
        scores = score(seen, self.options.criterion)
        self.choices = ranked(self.groups, self.options, scores)
        if not self.choices:
            raise NothingToPruneError("no group can be pruned; `onnxprune inspect` says why")
        self.losses: dict[str, Floats] = loss_curves([c.group for c in self.choices], scores.curves)
        self.sensitivity = dict(evidence.sensitivity)
        self.statistics = [replace(s, weights=[]) for s in seen.statistics or ()]
        self.axes = Axes(self.groups, self.choices)
        self.levels = {g: own for g, own in levels_of(self.choices, self.options).items() if g in self.losses}

    def cost(self, name: str) -> Cost:
        """What widths cost.

        Raises:
            UsageError: there is no such cost.
        """
        if name not in _OF_COST:
            raise UsageError(f"target {name!r} is none of {', '.join(get_args(Axis))}")
        return _OF_COST[name](self)

    def taken(self, widths: Widths) -> list[Choice]:
        """What goes of each group at some widths."""
        counts = [c.group.units - widths.get(c.group.id, c.group.units) for c in self.choices]
        return [c for c in take(self.groups, self.choices, counts) if c.count]

    def removed(self, widths: Widths) -> dict[str, list[list[int]]]:
        """The same as positions in each bucket, by group id."""
        return {c.group.id: c.removed for c in self.taken(widths)}

    def shared(self, evaluation: EvalData | None = None, metric: str | None = None, *, workers: int = 1) -> Shared:
        """What evaluations have in common.

        Args:
            evaluation: data with labels.
            metric: its name, or `file.py:function`.
            workers: of one machine, which have the memory budget in common.
        """
        assert self.samples is not None
        request = replace(self.request, data=self.samples, resume=None, memory=self.request.memory // max(workers, 1))
        plain = {n: repr(v) for n, v in vars(request).items() if n not in ("data", "memory", "progress")}
        held = None
        if evaluation is not None:
            held = replace(evaluation, samples=in_arrays(evaluation.samples), metric=None)
        parts = [self.source, self.samples, plain, [] if held is None else _content(held), metric or ""]
        return Shared(digest(*parts), self.source, request, self.statistics, held, absolute(metric))

    @property
    def sha256(self) -> str:
        """Hash of the source's content."""
        return sha256_model(self.source)


def absolute(metric: str | None) -> str | None:
    """A metric of a user's file with the whole path: workers run elsewhere."""
    from onnxprune.calibrate.stream import split_function

    place = split_function(metric) if metric else None
    return metric if place is None or not place else f"{Path(os.path.abspath(place[0]))}:{place[1]}"


def _content(data: EvalData) -> list[str]:
    """What a score follows from, as hashes."""
    labels = np.zeros(0) if data.labels is None else data.labels
    beside = [digest(array) for batch in data.samples.batches for _, array in sorted(batch.extras.items())]
    return [digest(data.samples), digest(np.asarray(labels)), data.label_name, *beside]
