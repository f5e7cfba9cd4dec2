"""What each group costs in error, by the share of it that goes: predicted from curves, or measured.

All figures are of one group alone, all others whole, and before any fit. The prediction is what the knapsack goes by: at
four widths of each group readers were given the best linear guess of what went and the outputs compared
(`onnxprune.statistics.removal`), and the OBS curve leads from one to the next (`onnxprune.budget.curves`). Measured are the
outputs at the very widths, on more samples: of the model as it is, and with readers whose weights make up for what went
(`onnxprune.search.stitched`). The latter is what the prediction foretells. Errors of several groups do not add up.
Latencies come from the table that targets are chosen by; see `onnxprune.search.pays`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from math import sqrt
from typing import Any

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.io.journal import digest
from onnxprune.jobs.cluster import Cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.run import Job, run_jobs
from onnxprune.latency.figures import TableFigures
from onnxprune.metrics.data import EvalData
from onnxprune.report.evaluate import Tally
from onnxprune.search.shared import Bench, Shared, bench
from onnxprune.search.stitched import Removed
from onnxprune.search.study import Study
from onnxprune.sparsity.measure import ModelSparsity

FORMAT = "onnxprune.sensitivity/1"
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass
class Point:
    """One group at one width.

    Attributes:
        ratio: share of its units that was asked for.
        removed: units that go.
        macs: multiply-accumulates of the whole model then.
        params: parameters.
        size: bytes.
        predicted: relative error of the outputs (root of the relative squared error) where readers make up for it, before
            any fit; None where no curve is known.
        error: measured, weights as they are, which no prediction is about; None where it was not asked for.
        repaired: measured, where readers make up for it by the best linear guess: what `predicted` foretells.
        metric: figure of the repaired model on the evaluation data.
        latency: of the whole model in ms, by the table; None where nothing was timed.
        latency_share: that by what the table says of the source; above 1 where the width suits the kernels badly.
    """

    ratio: float
    removed: int
    macs: float
    params: float
    size: float
    predicted: float | None = None
    error: float | None = None
    repaired: float | None = None
    metric: float | None = None
    latency: float | None = None
    latency_share: float | None = None


@dataclass(frozen=True)
class Worth:
    """A width of a group at which more time is saved than at any width with less error, all other groups whole.

    Attributes:
        removed: units that go; 0 where no width saves time within an error.
        predicted: relative error of the outputs there.
        saved: share of the source's time, by the table.
    """

    removed: int
    predicted: float
    saved: float


@dataclass
class GroupCurve:
    """One group.

    Attributes:
        id: its name.
        kind: of its units.
        units: how many it has.
        exact: whether removing a unit equals zeroing its weights.
        members: weights and axes it touches.
        sensitivity: relative squared error of the outputs for each share of its readers' variance that is lost, half of it
            gone; None where no linear node reads it.
        points: by ascending ratio.
        failed: why it could not be measured.
        worth: where most time is saved within `Sensitivity.worth_error`; None where nothing was timed, or no error is
            predicted.
        paying: widths that are worth their error, a few of them where there are many; more and more units go.
    """

    id: str
    kind: str
    units: int
    exact: bool
    members: list[tuple[str, int]]
    sensitivity: float | None
    points: list[Point] = field(default_factory=list)
    failed: str = ""
    worth: Worth | None = None
    paying: list[Worth] = field(default_factory=list)


@dataclass
class Sensitivity:
    """Result of `sensitivity`.

    Attributes:
        sha256: of the source.
        calibration: where the samples came from.
        ratios: that were asked for.
        macs: of the source.
        params: of the source.
        size: of the source, in bytes.
        groups: in graph order.
        metric: name, title, unit, direction and figure of the source; None where nothing was scored.
        sparsity: what zeros in weights would cost; None where no pattern was given.
        latency: of the source in ms, by the table; None where nothing was timed.
        latency_table: what stands behind all latencies, and how well they foretell the whole model.
        worth_error: relative error of the outputs at which groups are compared; see `GroupCurve.worth`.
    """

    sha256: str
    calibration: str
    ratios: list[float]
    macs: float
    params: float
    size: float
    groups: list[GroupCurve]
    metric: dict[str, Any] | None = None
    sparsity: ModelSparsity | None = None
    latency: float | None = None
    latency_table: TableFigures | None = None
    worth_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema."""
        return {"format": FORMAT, **asdict(self)}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a sensitivity analysis."""
    import json

    return dict(json.loads(files("onnxprune.search").joinpath("sensitivity.schema.json").read_text("utf-8")))


def check_ratios(ratios: Sequence[float]) -> list[float]:
    """Raises `UsageError` unless all are shares of which something stays and something goes; ascending, once each."""
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise UsageError(f"ratio {ratio:g} is not between 0 and 1: it is the share of a group's units that goes")
    return sorted(set(ratios))


def predicted(study: Study, ratios: Sequence[float] = RATIOS) -> Sensitivity:
    """The analysis by curves and sensitivities: nothing is run.

    Args:
        study: the model.
        ratios: shares of each group that go.

    Raises:
        UsageError: a ratio is out of range.
    """
    shares = check_ratios(ratios)
    costs = {name: study.cost(name) for name in ("macs", "params", "size")}
    curves = []
    for choice in study.choices:
        g = choice.group
        loss = study.losses[g.id] if g.id in study.known else None
        points = []
        for ratio in shares:
            gone = count(g.units, ratio)
            figures = {n: c.total({g.id: g.units - gone}) for n, c in costs.items()}
            expected = None if loss is None or gone >= loss.size else sqrt(max(float(loss[gone]), 0.0))
            points.append(Point(ratio, gone, **figures, predicted=expected))
        own = _half(study, g.id)
        curves.append(GroupCurve(g.id, g.kind, g.units, g.exact, list(g.members), own, points))
    whole = {n: c.total({}) for n, c in costs.items()}
    return Sensitivity(study.sha256, study.held.origin, shares, whole["macs"], whole["params"], whole["size"], groups=curves)


def _half(study: Study, group: str) -> float | None:
    """Sensitivity where half of a group is gone."""
    curve = study.ranking.curves.get(group)
    if curve is None:
        return None
    known = np.broadcast_to(np.asarray(curve.sensitivity, np.float64), curve.cost.shape)
    return float(known[len(known) // 2])


def count(units: int, ratio: float) -> int:
    """Units that go: the nearest number, of which one at least stays."""
    return min(max(round(units * ratio), 0), units - 1)


def measure(
    study: Study,
    found: Sensitivity,
    cluster: Cluster,
    log: Log | None = None,
    *,
    evaluation: EvalData | None = None,
    metric: str | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> None:
    """Fills in what is measured, one job for each group.

    Args:
        study: the model.
        found: result of `predicted`.
        cluster: where jobs run.
        log: of finished groups.
        evaluation: data to score repaired models on.
        metric: its metric.
        progress: called with the stage and the share that is done.
    """
    shared = study.judging(study.shared(evaluation, metric, workers=cluster.workers))
    jobs, of_key = [], {}
    for curve in found.groups:
        removed = [study.removed({curve.id: curve.units - p.removed}) for p in curve.points]
        key = digest("sensitivity", shared.key, removed)
        jobs.append(Job(key, (removed,)))
        of_key[key] = curve
    for k, done in enumerate(run_jobs(measured_group, shared, jobs, cluster, log)):
        curve = of_key[done.job.key]
        curve.failed = done.error
        for point, (error, repaired, figure) in zip(curve.points, done.value or (), strict=False):
            point.error, point.repaired, point.metric = error, repaired, figure
        progress("measuring groups", (k + 1) / len(jobs))


def measured_group(shared: Shared, removals: Sequence[Removed]) -> list[tuple[float, float, float | None]]:
    """Job: errors of the outputs without and with repair, and the figure with it, for each removal."""
    own = bench(shared)
    return [
        (
            sqrt(own.output_error.of(removed, repair=False)),
            sqrt(own.output_error.of(removed)),
            _figure(own, removed),
        )
        for removed in removals
    ]


def _figure(own: Bench, removed: Removed) -> float | None:
    data = own.evaluation
    if data is None:
        return None
    tally, feeds = Tally(data, "the model without these units"), own.stitched.feeds(removed)
    for batch in data.samples.batches:
        tally.add(batch, own.stitched.run(batch, feeds))
    return tally.score().value
