"""Level switches: allocations of equal cost around that of the knapsack, judged by what they really do to the outputs.

The knapsack adds losses of groups up. What several groups lose together is more, or less. So candidates give units of one
group to others at equal cost, are run (`onnxprune.search.stitched`), and the best of them are switched further: an
evolution strategy of `PARENTS` parents, one candidate after the other. The parents of a candidate are the best of those
proposed at least `LAG` before it. So no worker waits unless a candidate takes as long as eleven others, and what is
proposed follows from the seed, never from the order in which workers finish. Several budgets go on side by side.

Source: Sieberling et al. 2024, "EvoPress", for evolution by level switches, there between layers of equal size; Frantar et
al. 2022, "SPDY", for candidates stitched from a bank of layers; Syswerda 1991, "A study of reproduction in generational and
steady-state genetic algorithms", for evolution without generations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

LAG = 12
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
        proposed: all candidates in order; None where no new one was found.
    """

    start: dict[str, int]
    limits: Sequence[Limit]
    rng: np.random.Generator
    errors: dict[_Key, float] = field(default_factory=dict)
    proposed: list[_Key | None] = field(default_factory=list)

    @property
    def best(self) -> dict[str, int]:
        """The candidate with the least error; the start where none could be run."""
        ranked = self.ranked([k for k, error in self.errors.items() if np.isfinite(error)])
        return dict(ranked[0]) if ranked else dict(self.start)

    def ranked(self, keys: Sequence[_Key]) -> list[_Key]:
        """Candidates that were run, the best first."""
        return sorted(keys, key=lambda k: (self.errors[k], k))

    @property
    def before(self) -> list[_Key]:
        """The candidates from which parents of the next one are taken."""
        return [k for k in self.proposed[: max(len(self.proposed) + 1 - LAG, 0)] if k is not None]

    @property
    def ready(self) -> bool:
        """Their results are known."""
        return all(k in self.errors for k in self.before)

    def full(self, count: int) -> bool:
        """So many were proposed, or none is left to propose."""
        last = self.proposed[-LAG:]
        return sum(k is not None for k in self.proposed) >= count or (len(last) == LAG and not any(last))


class LevelSwitches:
    """Proposes candidates.

    Args:
        levels: widths to choose from, by group id.
        loss: the sum of losses that is expected at some widths.
    """

    def __init__(self, levels: Levels, loss: Callable[[Widths], float]) -> None:
        self.levels = {g: own.tolist() for g, own in levels.items() if own.size > 1}
        self.loss = loss

    def propose(self, population: Population) -> dict[str, int] | None:
        """The next candidate, the start first; None where no new one was found."""
        found = self._switched_parent(population) if population.proposed else dict(population.start)
        population.proposed.append(None if found is None else _key(found))
        return found

    def _switched_parent(self, population: Population) -> dict[str, int] | None:
        parents = population.ranked(population.before)[:PARENTS] or [_key(population.start)]
        parent = dict(parents[len(population.proposed) % len(parents)])
        known, proposals = set(population.proposed), []
        for _ in range(_ATTEMPTS):
            candidate = self.switched(parent, population)
            if candidate is not None and _key(candidate) not in known:
                proposals.append(candidate)
            if len(proposals) == _TOURNAMENT:
                break
        return min(proposals, key=self.loss, default=None)

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
    *,
    levels: Levels | None = None,
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
        levels: widths to choose from, those of the study unless given.
    """
    switches = LevelSwitches(study.levels if levels is None else levels, study.loss)
    owners: dict[str, list[tuple[Population, _Key]]] = {}
    known: dict[str, float] = {}

    def jobs() -> Iterator[Job | None]:
        while left := [p for p in populations if not p.full(candidates)]:
            ready = [p for p in left if p.ready]
            if not ready:
                yield None
                continue
            population = min(ready, key=lambda p: len(p.proposed))
            widths = switches.propose(population)
            if widths is None:
                continue
            removed = study.removed(widths)
            key = digest("candidate", shared.key, removed)
            if key in known:
                population.errors[_key(widths)] = known[key]
            else:
                owners.setdefault(key, []).append((population, _key(widths)))
                yield Job(key, (removed,))

    for done in run_jobs(candidate_error, shared, jobs(), cluster, log):
        known[done.job.key] = float("inf") if done.value is None else float(done.value)
        for population, own in owners.pop(done.job.key):
            population.errors[own] = known[done.job.key]
        ran = sum(len(p.errors) for p in populations)
        progress("judging candidates", ran / max(candidates * len(populations), 1))


def candidate_error(shared: Shared, removed: Removed) -> float:
    """Job: relative squared error of the outputs without some units."""
    return bench(shared).output_error.of(removed)


def _key(widths: Widths) -> _Key:
    return tuple(sorted(widths.items()))
