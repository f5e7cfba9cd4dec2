"""A study of one model: calibration statistics, scores and costs, once for all points and candidates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.budget.choose import widths_of
from onnxprune.budget.costs import Cost, Floats, Widths
from onnxprune.budget.curves import loss_curves
from onnxprune.budget.levels import levels_of
from onnxprune.budget.targets import Quantity, Target
from onnxprune.errors import NothingToPruneError, UsageError
from onnxprune.io.journal import digest
from onnxprune.io.structure import sha256_model
from onnxprune.jobs.machine import alone
from onnxprune.latency.cost import Latency
from onnxprune.latency.timing import Timing
from onnxprune.metrics.data import EvalData
from onnxprune.pipeline.attempt import nothing
from onnxprune.pipeline.budget import Budget
from onnxprune.pipeline.evidence import Evidence
from onnxprune.pipeline.pruning import Pruning
from onnxprune.pipeline.request import Request
from onnxprune.pipeline.stages import Clock, Progress
from onnxprune.search.shared import Shared, check_size, in_arrays
from onnxprune.search.stitched import Judged, judged
from onnxprune.select.allocate import Attention, Choice, Options, ranked, take
from onnxprune.sparsity.measure import ModelSparsity, measure_sparsity
from onnxprune.sparsity.patterns import Pattern
from onnxprune.statistics.channels import ChannelStatistics


class Study(Pruning):
    """The source with everything that is measured once.

    Args:
        source: the model; not changed.
        request: options, with the ranking `knapsack` and with data.
        tell: called with the stage and the share that is done.

    Attributes:
        choices: groups that may go, with the importances of their units.
        losses: by group id, expected relative squared error of the output by the number of units that go.
        levels: by group id the widths to choose from.
        known: ids of the groups whose losses are expected from statistics.

    Raises:
        ModelError: the model is not valid, too large, or ONNX Runtime can't run it on the samples.
        NothingToPruneError: no unit can go.
        UsageError: there are no samples, or the criterion does not tell what widths lose.
    """

    def __init__(self, source: onnx.ModelProto, request: Request, tell: Progress = lambda stage, done: None) -> None:
        check_size(source)
        super().__init__(source, request, tell, Clock())
        if self.samples is None:
            raise UsageError("a study needs calibration samples: give data")
        self.held = in_arrays(self.samples)
        self.samples = self.held
        self.statistics: list[ChannelStatistics] = []
        self.ranking = self.scores()
        self.choices = ranked(self.groups, self.options, self.ranking)
        if not self.choices:
            raise NothingToPruneError(nothing(self.groups, self.options))
        self.losses: dict[str, Floats] = loss_curves(self.choices, self.ranking.curves)
        self.levels = levels_of(self.choices, self.options)
        self.known = set(self.ranking.curves)
        self.setting = self.budget(self.ranking, []).setting

    def _gather(self) -> Evidence:
        """What the criterion needs; moments of channels are kept for candidates, but for their weights."""
        found = super()._gather()
        self.statistics = [replace(s, weights=[]) for s in (found.expected.statistics if found.expected else ())]
        return found

    def cost(self, quantity: str) -> Cost:
        """What widths cost.

        Raises:
            UsageError: there is no such cost.
        """
        return self.setting.cost(quantity)

    def latency(self, timing: Timing, progress: Progress) -> Latency:
        """Latency by widths, measured where it was not before, while no evaluation runs on this machine.

        Raises:
            ModelError: ONNX Runtime can't run the model.
            UsageError: a provider is absent, or the model fixes another batch.
        """
        with alone():
            return replace(self.setting, timing=timing, tell=progress, _made={}).latency

    def loss(self, widths: Widths) -> float:
        """Sum of the losses of all groups."""
        return sum(float(own[max(own.size - widths[g], 0)]) for g, own in self.losses.items())

    def spend(self, target: Target) -> tuple[dict[str, int], Budget]:
        """The widths that lose least within a target, by the knapsack, and its limits.

        Raises:
            BudgetError: no widths are within it.
        """
        budget = Budget(self.setting, self.options, self.ranking, [target])
        chosen = widths_of(budget.choose())
        return {c.group.id: chosen.get(c.group.id, c.group.units) for c in self.choices}, budget

    def levels_for(self, quantity: Quantity) -> dict[str, NDArray[np.int64]]:
        """By group id the widths that a target of a quantity chooses from."""
        return levels_of(self.choices, replace(self.options, steps=self.setting.steps([quantity])))

    def taken(self, widths: Widths) -> list[Choice]:
        """What goes of each group at some widths; groups that are not named stay whole."""
        counts = [c.group.units - widths.get(c.group.id, c.group.units) for c in self.choices]
        return [c for c in take(self.groups, self.choices, counts) if c.count]

    def removed(self, widths: Widths) -> dict[str, list[list[int]]]:
        """The same as positions in each bucket, by group id."""
        return {c.group.id: c.removed for c in self.taken(widths)}

    def sparsity(self, patterns: Sequence[Pattern], progress: Progress) -> ModelSparsity:
        """What zeros in weights would cost.

        Raises:
            ModelError: ONNX Runtime can't run the model on the samples.
        """
        return measure_sparsity(
            self.reference.model,
            self.groups,
            self.held,
            patterns,
            budget=self.request.memory // 2,
            providers=self.providers,
            progress=progress,
        )

    def shared(self, evaluation: EvalData | None = None, metric: str | None = None, *, workers: int = 1) -> Shared:
        """What evaluations have in common.

        Args:
            evaluation: data with labels.
            metric: its name, or `file.py:function`.
            workers: which have the memory budget in common.
        """
        request = replace(self.request, data=self.held, resume=None, memory=self.request.memory // max(workers, 1))
        plain = {n: repr(v) for n, v in vars(request).items() if n not in ("data", "memory", "timing")}
        held = None
        if evaluation is not None:
            held = replace(evaluation, samples=in_arrays(evaluation.samples), metric=None)
        parts = [self._content, plain, [] if held is None else _content(held), metric or ""]
        return Shared(digest(*parts), self.source, request, self.statistics, held, absolute(metric))

    @cached_property
    def _content(self) -> str:
        """Hash of the source and of its samples."""
        return digest(self.source, self.held)

    @cached_property
    def _judged(self) -> list[Judged]:
        return judged(self.reference.model, self.held)

    def judging(self, shared: Shared) -> Shared:
        """The part of it that candidates need."""
        return shared.judging(self._judged)

    @property
    def sha256(self) -> str:
        """Hash of the source's content."""
        return sha256_model(self.source)


def study_request(
    data: object,
    *,
    round_to: int | None = None,
    min_channels: int = 1,
    ignore: Sequence[str] = (),
    only: Sequence[str] = (),
    attention: Attention = "heads",
    width: bool = False,
    mask: str | None = None,
    memory: int = 2 << 30,
    providers: Sequence[str] = (),
    resume: str | os.PathLike[str] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    seed: int = 0,
) -> Request:
    """The request of a study; options are those of `onnxprune.prune`.

    Raises:
        UsageError: one is out of range.
    """
    options = Options(
        criterion="obs",
        ranking="knapsack",
        round_to=round_to,
        min_channels=min_channels,
        ignore=tuple(ignore),
        only=tuple(only),
        attention=attention,
    )
    return Request(
        options=options,
        target=(),
        width=width,
        data=data,
        samples=512,
        mask=mask,
        labels=None,
        reconstruct=None,
        merge=False,
        lossless=False,
        memory=memory,
        providers=tuple(providers),
        resume=resume,
        shapes=shapes,
        timing=timing,
        check=True,
        seed=seed,
    )


def absolute(metric: str | None) -> str | None:
    """A metric of a user's file with the whole path: workers run elsewhere."""
    from onnxprune.calibrate.stream import split_function

    place = split_function(metric) if metric else None
    return f"{os.path.abspath(place[0])}:{place[1]}" if place else metric  # noqa: PTH100 - links stay


def _content(data: EvalData) -> list[str]:
    """What a score follows from, as hashes."""
    labels = np.zeros(0) if data.labels is None else data.labels
    beside = [digest(array) for batch in data.samples.batches for _, array in sorted(batch.extras.items())]
    return [digest(data.samples), digest(np.asarray(labels)), data.label_name, *beside]
