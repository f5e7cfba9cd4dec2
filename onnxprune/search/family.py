"""A family of pruned models from one study: an allocation for each budget, then surgery, proof, fit and score of each.

What is finished lies in a log beside the models, so that a search that was cut off goes on where it was: at most the
evaluations that ran are repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.bench.quick import latency
from onnxprune.bench.session import Feeds
from onnxprune.budget.allocation import Limit
from onnxprune.budget.targets import Quantity, Target
from onnxprune.errors import ModelError, UsageError
from onnxprune.io.journal import digest
from onnxprune.io.save import save_bytes, save_text
from onnxprune.io.structure import model_size
from onnxprune.jobs.cluster import Cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.machine import alone
from onnxprune.jobs.run import Job, run_jobs
from onnxprune.metrics.score import Score
from onnxprune.search.candidates import Population, evolve
from onnxprune.search.front import Card, Front, marked
from onnxprune.search.point import Made, Marks, make_point
from onnxprune.search.shared import Shared
from onnxprune.search.study import Study

LOG = "search.jsonl"
STATISTICS = "statistics"
OUTPUT_ERROR = "output error"

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Goal:
    """One model of a family.

    Attributes:
        name: of its files.
        target: what it may cost.
        limits: the same in the units of costs.
        widths: by the knapsack.
    """

    name: str
    target: Target
    limits: Sequence[Limit]
    widths: dict[str, int]


def shares(points: int, least: float) -> list[float]:
    """What models of a family may cost: evenly spaced from, not including, 1 down to `least`.

    Raises:
        UsageError: an argument is out of range.
    """
    if points < 1:
        raise UsageError(f"a search has at least one point, not {points}")
    if not 0 < least < 1:
        raise UsageError(
            f"least {least:g} is not between 0 and 1: it is the share of the source that the smallest model has"
        )
    return [1 - (1 - least) * k / points for k in range(1, points + 1)]


def goals(study: Study, quantity: Quantity, points: int, least: float) -> list[Goal]:
    """Allocations for all points by the knapsack; two that come out the same are one.

    Raises:
        BudgetError: the smallest can't be had.
        UsageError: there is no table of this quantity, or an argument is out of range.
    """
    found: list[Goal] = []
    wanted = shares(points, least)
    with alone() if quantity == "latency" else contextlib.nullcontext():  # it is measured
        study.spend(Target(quantity, wanted[-1], True))  # the smallest first: if it can't be had, nothing was done in vain
    for share in wanted:
        target = Target(quantity, share, True)
        widths, budget = study.spend(target)
        if all(widths != other.widths for other in found) and study.taken(widths):
            found.append(Goal(f"p{len(found) + 1}", target, budget.limits(), widths))
    return found


class Family:
    """Makes the models of a family.

    Args:
        study: the source.
        shared: what workers have.
        cluster: where they run.
        folder: for models, plans and cards; with the log of what is finished.
        log: open, in that folder.
        before: score of the source; None where nothing is scored.
    """

    def __init__(
        self, study: Study, shared: Shared, cluster: Cluster, folder: Path, log: Log, before: Score | None = None
    ) -> None:
        self.study, self.shared, self.cluster = study, shared, cluster
        self.folder, self.log, self.before = folder, log, before
        self.repeated = 0

    def searched(
        self, wanted: Sequence[Goal], candidates: int, progress: Progress = lambda stage, done: None
    ) -> tuple[list[Goal], dict[str, dict[str, Any]]]:
        """The same goals with the best candidates' widths, and what the search found, by name.

        Args:
            wanted: goals with the widths to begin at.
            candidates: how many to run for each, that of the knapsack included.
            progress: called with the stage and the share that is done.
        """
        seed = self.study.request.seed
        populations = [Population(g.widths, g.limits, np.random.default_rng([seed, k])) for k, g in enumerate(wanted)]
        shared = self.study.judging(self.study.shared(workers=self.cluster.workers))
        levels = self.study.levels_for(wanted[0].target.quantity) if wanted else None
        evolve(self.study, shared, populations, candidates, self.cluster, self.log, progress, levels=levels)
        found, said = [], {}
        for goal, population in zip(wanted, populations, strict=True):
            start = population.errors[tuple(sorted(goal.widths.items()))]
            best = replace(goal, widths=population.best)
            found.append(best)
            said[goal.name] = {
                "candidates": len(population.errors),
                "knapsack_error": _root(start),
                "best_error": _root(min(population.errors.values())),
            }
        return found, said

    def made(
        self,
        wanted: Sequence[Goal],
        said: Mapping[str, Mapping[str, Any]] | None = None,
        progress: Progress = lambda stage, done: None,
    ) -> list[Card]:
        """All models, in files; the card of one that failed says why.

        Args:
            wanted: allocations.
            said: what the search found for each.
            progress: called with the stage and the share that is done.
        """
        jobs, of_key = [], {}
        for goal in wanted:
            removed = self.study.removed(goal.widths)
            key = digest("point", goal.name, self.shared.key, removed)
            if key in self.log.results and not self._whole(self.log.results[key]):
                self.log.forget(key)
            jobs.append(Job(key, (removed,)))
            of_key[key] = goal
        cards = {}

        def keep(job: Job, made: Made) -> dict[str, Any]:
            return self._written(of_key[job.key], made)

        for k, done in enumerate(run_jobs(make_point, self.shared, jobs, self.cluster, self.log, keep=keep)):
            goal = of_key[done.job.key]
            cards[goal.name] = self._card(goal, done.value, done.error, (said or {}).get(goal.name, {}))
            self.repeated += done.found
            progress(f"made {k + 1} of {len(jobs)} models", (k + 1) / len(jobs))
        return [cards[goal.name] for goal in wanted]

    def _written(self, goal: Goal, made: Made) -> dict[str, Any]:
        """Writes a model and its plan; what the log holds of them."""
        save_text(made.plan, self.folder / f"{goal.name}.plan.json")
        save_bytes(made.model, self.folder / f"{goal.name}.onnx")
        return {
            "files": {n: _hash(self.folder / n) for n in (f"{goal.name}.plan.json", f"{goal.name}.onnx")},
            "report": made.report,
            "evaluation": None if made.score is None else self._evaluation(made.score),
        }

    def _whole(self, held: Mapping[str, Any]) -> bool:
        """The files that the log speaks of are there, unchanged."""
        with contextlib.suppress(OSError):
            return all(_hash(self.folder / n) == own for n, own in held["files"].items())
        return False

    def _evaluation(self, marks: Marks) -> dict[str, Any]:
        before = self.before
        assert before is not None
        after = replace(before, **vars(marks))
        change = before.change(after)
        return {
            "metric": before.metric,
            "title": before.title,
            "unit": before.unit,
            "higher_is_better": before.higher_is_better,
            "samples": marks.samples,
            "before": before.value,
            "after": marks.value,
            "change": {**asdict(change), "within_noise": change.within_noise},
        }

    def _card(self, goal: Goal, held: Mapping[str, Any] | None, error: str, said: Mapping[str, Any]) -> Card:
        if held is None:
            return Card(goal.name, goal.target.value, {}, failed=error)
        report, evaluation = held["report"], held["evaluation"]
        figures = {n: float(report[n]) for n in ("macs", "params", "size")}
        if evaluation is not None:
            found = evaluation["change"]["interval"]
            worth, interval = evaluation["after"], None if found is None else (found["low"], found["high"])
        else:
            worth, interval = max((f["relative_error"] for f in report["fidelity"]), default=None), None
        details = {
            "target": {"quantity": goal.target.quantity, "share": goal.target.value},
            "source": {"sha256": self.study.sha256},
            "files": held["files"],
            "widths": goal.widths,
            "expected_error": sqrt(self.study.loss(goal.widths)),
            "search": dict(said) or None,
            "evaluation": evaluation,
            **{n: v for n, v in report.items() if n not in figures},
        }
        return Card(goal.name, goal.target.value, dict(figures), worth, interval, details=details)

    def front(self, cards: Sequence[Card], quantity: Quantity) -> Front:
        """All models, with the dominated ones marked."""
        study, before = self.study, self.before
        figures: dict[str, float | None] = {n: study.cost(n).total({}) for n in ("macs", "params")}
        figures["size"] = float(model_size(study.source))
        dense = Card("dense", 1.0, figures, 0.0 if before is None else before.value)
        if before is None:
            return marked(Front(dense, cards, quantity, OUTPUT_ERROR, "plain", False))
        return marked(Front(dense, cards, quantity, before.title, before.unit, before.higher_is_better))


def timed(front: Front, source: Path, folder: Path, feeds: Feeds, *, threads: int = 0, seconds: float = 1.0) -> Front:
    """The same with latencies: all models in turn, while nothing else runs on this machine.

    Args:
        front: the family.
        source: file of the source.
        folder: of the models.
        feeds: one input.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        seconds: for each model.

    Raises:
        ModelError: ONNX Runtime can't run a model.
    """
    made = [c for c in front.cards if not c.failed]
    files: dict[str, Path | bytes] = {c.name: folder / f"{c.name}.onnx" for c in made}
    with alone():
        times = latency(
            {"dense": source, **files}, feeds, threads=threads, seconds=seconds * (len(made) + 1), max_rounds=1000
        )

    def with_time(card: Card) -> Card:
        return replace(card, figures={**card.figures, "latency": times[card.name].p50}) if card.name in times else card

    return marked(replace(front, dense=with_time(front.dense), cards=[with_time(c) for c in front.cards]))


def _root(error: float) -> float | None:
    """Of a squared error; None where the candidate could not be run."""
    return sqrt(error) if isfinite(error) else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_front(front: Front, folder: Path, to_json: Callable[[Mapping[str, Any]], str] | None = None) -> None:
    """Writes the index and a card for each model.

    Args:
        front: the family.
        folder: of its models.
        to_json: makes a text of plain data.

    Raises:
        UsageError: the folder can't be written to.
        ModelError: there is no model in the family.
    """
    write = to_json or (lambda data: json.dumps(data, indent=1) + "\n")
    if not front.cards:
        raise ModelError("no model was made")
    for card in front.cards:
        save_text(write(card.to_dict()), folder / f"{card.name}.json")
    save_text(write(front.to_dict()), folder / "index.json")
