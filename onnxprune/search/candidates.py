"""Level switches: allocations of equal cost around that of the knapsack, judged by what they really do to the outputs.

The knapsack adds losses of groups up. What several groups lose together is more, or less. So candidates give units of one
group to others at equal cost, are run (`onnxprune.search.stitched`), and the best of them are switched further: an
evolution strategy of `PARENTS` parents, generation by generation. What is proposed follows from the seed and from results of
whole generations only, never from the order in which workers finish. Several budgets go through their generations side by
side.

Source: Sieberling et al. 2024, "EvoPress", for evolution by level switches, there between layers of equal size; Frantar et
al. 2022, "SPDY", for candidates stitched from a bank of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.budget.allocation import Limit
from onnxprune.budget.costs import Levels, Widths
from onnxprune.io.journal import digest
from onnxprune.jobs.cluster import Cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.run import Job, run_jobs
from onnxprune.search.shared import Shared, bench
from onnxprune.search.stitched import Removed
from onnxprune.search.study import Study

GENERATION = 12
PARENTS = 4
_TOURNAMENT = 3  # proposals of which the one with the least sum of losses is run
_ATTEMPTS = 40  # to find one that is new
_RAISED = 3  # groups that share what others gave
_LOOKED_AT = 12  # levels of a group that is to grow
_FARTHEST = 6  # a switch goes over a sixth of a group's levels at most

Progress = Callable[[str, float], None]
_Key = tuple[tuple[str, int], ...]


@dataclass
class Population:
    """Candidates within one limit.

    Attributes:
        start: the allocation to begin with.
        limits: that all candidates keep.
        errors: of all candidates that were run, relative squared error of the outputs.
    """

    start: dict[str, int]
    limits: Sequence[Limit]
    rng: np.random.Generator
    errors: dict[_Key, float] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, int]:
        """The candidate with the least error; the start where none was run."""
        ranked = self.ranked()
        return dict(ranked[0]) if ranked else dict(self.start)

    def ranked(self) -> list[_Key]:
        """All that were run, the best first."""
        return sorted(self.errors, key=lambda k: (self.errors[k], k))


class LevelSwitches:
    """Proposes candidates.

    Args:
        levels: widths to choose from, by group id.
        loss: the sum of losses that is expected at some widths.
    """

    def __init__(self, levels: Levels, loss: Callable[[Widths], float]) -> None:
        self.levels = {g: own.tolist() for g, own in levels.items() if own.size > 1}
        self.loss = loss

    def generation(self, population: Population, count: int) -> list[dict[str, int]]:
        """New candidates, all different; less of them where there are no more.

        Args:
            population: so far; the start comes first.
            count: how many.
        """
        found: dict[_Key, dict[str, int]] = {}
        if not population.errors:
            found[_key(population.start)] = dict(population.start)
        parents = [dict(k) for k in population.ranked()[:PARENTS]] or [dict(population.start)]
        for k in range(count - len(found)):
            proposals = []
            for _ in range(_ATTEMPTS):
                candidate = self.switched(parents[k % len(parents)], population)
                if candidate is not None and _key(candidate) not in found and _key(candidate) not in population.errors:
                    proposals.append(candidate)
                if len(proposals) == _TOURNAMENT:
                    break
            if proposals:
                best = min(proposals, key=self.loss)
                found[_key(best)] = best
        return list(found.values())

    def switched(self, widths: Mapping[str, int], population: Population) -> dict[str, int] | None:
        """One or two groups get narrower, others as wide as the limit allows; None where nothing changes."""
        rng, result = population.rng, dict(widths)
        lower = [g for g, own in self.levels.items() if widths[g] > own[0]]
        if not lower:
            return None
        given = rng.permutation(lower)[: int(rng.integers(1, 3))].tolist()
        for g in given:
            own = self.levels[g]
            place = own.index(widths[g])
            step = int(rng.integers(1, max(len(own) // _FARTHEST, 1) + 1))
            result[g] = own[max(place - step, 0)]
        others = [g for g in self.levels if g not in given and result[g] < self.levels[g][-1]]
        raised = 0
        for g in rng.permutation(others).tolist() if others else ():
            wider = self.widest(result, g, population.limits)
            if wider > result[g]:
                result[g] = wider
                raised += 1
            if raised == _RAISED:
                break
        return result if raised else None

    def widest(self, widths: Mapping[str, int], group: str, limits: Sequence[Limit]) -> int:
        """The widest level of a group that keeps the limits, nearly: not all levels are looked at."""
        wider = [n for n in self.levels[group] if n >= widths[group]]
        own = np.array([wider[k] for k in np.unique(np.linspace(0, len(wider) - 1, _LOOKED_AT).astype(np.int64))])
        kept = np.ones(own.size, np.bool_)
        for limit in limits:
            kept &= limit.cost.table(widths, {group: own})[group] <= limit.most * (1 + 1e-9)
        fits = own[kept]
        return int(fits[-1]) if fits.size else widths[group]


def evolve(
    study: Study,
    shared: Shared,
    populations: Sequence[Population],
    candidates: int,
    cluster: Cluster,
    log: Log | None = None,
    progress: Progress = lambda stage, done: None,
) -> None:
    """Runs candidates of each population; results are in the populations then.

    Args:
        study: the model.
        shared: what workers have.
        populations: one for each budget.
        candidates: how many of each, the start included.
        cluster: where they run.
        log: of finished ones.
        progress: called with the stage and the share that is done.
    """
    switches = LevelSwitches(study.levels, study.loss)
    left = [candidates] * len(populations)
    while any(left):
        jobs: list[Job] = []
        owners: dict[str, list[tuple[Population, _Key]]] = {}
        for k, population in enumerate(populations):
            proposed = switches.generation(population, min(GENERATION, left[k])) if left[k] else []
            left[k] = left[k] - len(proposed) if proposed else 0
            for widths in proposed:
                removed = study.removed(widths)
                key = digest("candidate", shared.key, removed)
                jobs.append(Job(key, (removed,)))
                owners.setdefault(key, []).append((population, _key(widths)))
        for done in run_jobs(candidate_error, shared, jobs, cluster, log):
            for population, own in owners[done.job.key]:
                population.errors[own] = float("inf") if done.value is None else float(done.value)
            ran = sum(len(p.errors) for p in populations)
            progress("judging candidates", ran / max(candidates * len(populations), 1))


def candidate_error(shared: Shared, removed: Removed) -> float:
    """Job: relative squared error of the outputs without some units."""
    return bench(shared).output_error.of(removed)


def _key(widths: Widths) -> _Key:
    return tuple(sorted(widths.items()))
