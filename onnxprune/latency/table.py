"""The latency of a model by its widths: sampled, fitted, and checked against the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.axes import Axes
from onnxprune.groups.group import Group
from onnxprune.latency.design import LOWER, OFFSETS, Grid, alignment, close_by, far_apart, is_narrow, narrow
from onnxprune.latency.fit import Penalties, fit_piece, fit_whole, left_out_errors
from onnxprune.latency.sample import Sample, Sampler
from onnxprune.latency.work import KINDS, Work

Floats = NDArray[np.float64]
Gone = Mapping[str, int]
Progress = Callable[[str, float], None]

PAYS = 0.5
"""Share of the time that a width should save by its work, as against the next multiple of more slices: less does not pay."""
_TOLD = 0.03  # share of its time by which a piece has to be slower to be called so
_FEWEST = 6  # samples far apart
_FORESEEN = 0.03  # error of a sample before it was taken, below which no further one is needed
_IN_A_ROW = 2
_CLOSE_BY = 5  # time of all samples close by, in those far apart
_NARROW = 3  # the same of narrow ones


@dataclass(frozen=True)
class Check:
    """How well the table tells the whole model.

    Attributes:
        samples: widths at which the whole model was timed.
        error: median of its relative error there, each sample left out of the fit that foretells it.
        worst: the largest.
        pieces: sum of the pieces of the source, as a share of the whole of it.
    """

    samples: int
    error: float
    worst: float
    pieces: float


@dataclass
class Table:
    """Milliseconds by widths.

    Attributes:
        dense: ms of the source: the median over all samples.
        steps: units between the widths of a group that pay, by group id.
        check: against the whole model.
        measured: samples that were measured now, not read.
        untimed: pieces that can't be run by themselves.
        cache: file of measured times; empty where they could not be kept.
    """

    grids: Sequence[Grid]
    works: Sequence[Work]
    operators: Sequence[str]
    kinds: Sequence[int]
    penalties: Penalties = field(default_factory=Penalties)
    coefficients: dict[int, Floats] = field(default_factory=dict)
    factors: Floats = field(default_factory=lambda: np.ones(len(KINDS)))
    dense: float = 0.0
    steps: dict[str, int] = field(default_factory=dict)
    check: Check = field(default_factory=lambda: Check(0, 0.0, 0.0, 0.0))
    measured: int = 0
    untimed: int = 0
    cache: str = ""
    _slower: dict[str, Mapping[int, float]] = field(default_factory=dict)
    _narrow: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._grid_of = {g.group.id: g for g in self.grids}

    # ---- what it says ----

    def piece(self, k: int, gone: Gone) -> float:
        """Milliseconds of one piece within the whole model."""
        return float(self.parts_of(k, gone) @ self.factors)

    def along(self, k: int, group: str, gone: Gone, counts: NDArray[np.int64]) -> Floats:
        """The same for different numbers of units of one group gone `(N,)`."""
        work = self.works[k].along(group, gone, counts) @ (self.coefficients[self.kinds[k]] * self.factors)
        return np.asarray(work * [self._slowed(k, {**gone, group: int(n)}) for n in counts])

    def parts_of(self, k: int, gone: Gone) -> Floats:
        """Milliseconds of each kind of work `(5,)` of one piece by itself."""
        return self.coefficients[self.kinds[k]] * self.works[k].at(gone) * self._slowed(k, gone)

    def parts(self, gone: Gone) -> Floats:
        """The sum over all pieces `(5,)`."""
        return np.asarray(np.sum([self.parts_of(k, gone) for k in range(len(self.works))], axis=0))

    def _slowed(self, k: int, gone: Gone) -> float:
        """Factor of a piece for the width of its groups that pays least, and for those that are narrow, by their share."""
        known, groups = self._slower.get(self.operators[k], {}), self.works[k].groups
        worst, narrow_ones = 1.0, 1.0
        for g in groups:
            n = gone.get(g, 0)
            grid = self._grid_of[g]
            slices = (grid.group.units - n) * grid.group.width
            factor = self._narrow.get((self.operators[k], slices))
            if n and factor is not None and is_narrow(grid, slices, self.steps[g]):
                narrow_ones *= factor ** (1 / len(groups))
            elif n and (at := alignment(slices)) < grid.step:
                worst = max(worst, known.get(at, 1.0))
        return worst * narrow_ones

    # ---- how it comes about ----

    def fit(self, samples: Sequence[Sample], close: Mapping[int, Sample], few: Mapping[int, Sample]) -> None:
        """Fits pieces, then what widths close by a multiple and below the first one cost, then the whole.

        Args:
            samples: at multiples.
            close: by slices below a multiple, as in `design.close_by`.
            few: by slices that are left, as in `design.narrow`.
        """
        every = [*samples, *close.values()]
        self.dense = float(np.median([s.dense for s in every]))
        self._slower, self._narrow, self.steps = {}, {}, {}
        self._fit_pieces([*samples, *[s for offset, s in close.items() if offset <= 0]])
        self._fit_penalties(close)
        self.steps = {g.group.id: self._step(g) for g in self.grids}
        self._fit_narrow(few)
        parts = np.array([self.parts(s.gone) for s in every])
        whole = np.array([s.whole / s.dense * self.dense for s in every])
        self.factors = fit_whole(parts, whole)

    def checked(self, samples: Sequence[Sample]) -> Check:
        """How well the whole model is foretold at widths that are left out of the fit."""
        parts = np.array([self.parts(s.gone) for s in samples])
        whole = np.array([s.whole / s.dense * self.dense for s in samples])
        errors = np.abs(left_out_errors(parts, whole)) if len(samples) > 2 else np.zeros(1)
        alone = float(self.parts({}).sum())
        return Check(len(samples), float(np.median(errors)), float(errors.max()), alone / self.dense)

    def foretold(self, sample: Sample) -> float:
        """Relative error of what the table says about a sample."""
        said = float(self.parts(sample.gone) @ self.factors)
        return abs(said / (sample.whole / sample.dense * self.dense) - 1)

    def _fit_pieces(self, samples: Sequence[Sample]) -> None:
        for kind in dict.fromkeys(self.kinds):
            k = self.kinds.index(kind)
            work = np.array([self.works[k].at(s.gone) for s in samples])
            ms = np.array([s.pieces[k] for s in samples])
            timed = np.isfinite(ms)
            self.coefficients[kind] = fit_piece(work[timed], ms[timed])

    def _fit_penalties(self, close: Mapping[int, Sample]) -> None:
        """What widths between two multiples take, against what lies between the times of these."""
        self.penalties = Penalties()
        tried = [o for o in OFFSETS if o in close]
        for offset in tried:
            for kind in dict.fromkeys(self.kinds):
                k = self.kinds.index(kind)
                if self._all_below(k, offset) and np.isfinite([s.pieces[k] for s in close.values()]).all():
                    measured, expected = self._between(k, close[0], close[offset], close[LOWER])
                    self.penalties.add(self.operators[k], offset, measured, expected, float(close[0].pieces[k]))
        self._slower = {name: self.penalties.factors(name, tried) for name in dict.fromkeys(self.operators)}

    def _fit_narrow(self, few: Mapping[int, Sample]) -> None:
        """What widths below the first one that pays take, against what is said of them so far, by operators and slices."""
        seen: dict[tuple[str, int], Floats] = {}
        for slices, sample in few.items():
            for kind in dict.fromkeys(self.kinds):
                k = self.kinds.index(kind)
                if np.isfinite(sample.pieces[k]) and self._all_narrow(k, slices):
                    key = self.operators[k], slices
                    said = float(self.coefficients[kind] @ self.works[k].at(sample.gone))
                    seen[key] = seen.get(key, np.zeros(2)) + np.array([sample.pieces[k], said])
        self._narrow = {key: measured / said for key, (measured, said) in seen.items() if said > 0}

    def _all_narrow(self, k: int, slices: int) -> bool:
        groups = self.works[k].groups
        return bool(groups) and all(is_narrow(self._grid_of[g], slices, self.steps[g]) for g in groups)

    def _between(self, k: int, upper: Sample, middle: Sample, lower: Sample) -> tuple[float, float]:
        """Time of a piece, and the one expected by its work from those at widths above and below."""
        said = [float(self.coefficients[self.kinds[k]] @ self.works[k].at(s.gone)) for s in (upper, middle, lower)]
        share = (said[0] - said[1]) / (said[0] - said[2]) if said[0] > said[2] else 0.0
        top, bottom = float(upper.pieces[k]), float(lower.pieces[k])
        return float(middle.pieces[k]), top + share * (min(bottom, top) - top)

    def _all_below(self, k: int, offset: int) -> bool:
        """All groups of a piece were so many slices below their base in the sample of this offset."""
        groups = self.works[k].groups
        return bool(groups) and all(self._grid_of[g].below(offset) is not None for g in groups)

    def pays(self, group: Group, at: int) -> bool:
        """Multiples of so few slices only save enough of what they should save, or lose no more than a clock can tell."""
        measured, expected = self._beside(group, at)
        return bool(measured <= expected * (1 + _TOLD) or 1 - measured >= PAYS * (1 - expected))

    def _beside(self, group: Group, at: int) -> Floats:
        """Time measured and expected of a group's pieces so few slices below a multiple, by the time there `(2,)`."""
        own = [k for k, work in enumerate(self.works) if group.id in work.groups]
        weights = np.array([self.parts_of(k, {}).sum() for k in own])
        shares = [self.penalties.shares(self.operators[k], at) for k in own]
        return np.average(shares, axis=0, weights=weights) if weights.sum() > 0 else np.ones(2)

    def _step(self, grid: Grid) -> int:
        """Units between widths that pay: the least power of two of slices at which less work still takes less time."""
        step = grid.step
        for offset in OFFSETS:
            if offset < grid.step:
                if not self.pays(grid.group, offset):
                    break
                step = offset
        return step // math.gcd(step, grid.group.width)


def build_table(sampler: Sampler, axes: Axes, progress: Progress, *, seed: int = 0) -> Table:
    """Samples a model until the table foretells further samples, and where its times jump.

    Args:
        sampler: of the model.
        axes: lengths by widths, for the groups that the sampler varies.
        progress: called with the stage and the share that is done.
        seed: of the widths that are sampled.

    Raises:
        ModelError: ONNX Runtime can't run the model.
    """
    grids = [Grid.of(c.group) for c in sampler.choices]
    graph, values = sampler.prepared.graph, sampler.groups.trace.values
    works = [Work(axes, graph, values, piece) for piece in sampler.pieces]
    operators = ["+".join(graph.nodes[k].op for k in piece.nodes) for piece in sampler.pieces]
    plan = far_apart(grids, seed) if grids else [{}]
    total = len(plan) + _CLOSE_BY + _NARROW
    table = Table(grids, works, operators, sampler.kinds)

    def sample(at: int, gone: Gone) -> Sample:
        progress("measuring latency", at / total)
        table.measured += not sampler.known(gone)
        return sampler.at(gone)

    far: list[Sample] = []
    foreseen = 0
    for k, gone in enumerate(plan):
        far.append(sample(k, gone))
        if len(far) > _FEWEST:
            foreseen = foreseen + 1 if table.foretold(far[-1]) < _FORESEEN else 0
        if foreseen >= _IN_A_ROW:
            break
        if len(far) >= _FEWEST:
            table.fit(far, {}, {})
    close: dict[int, Sample] = {}
    widths = close_by(grids)
    if len(widths) > 2:
        progress("measuring latency", len(plan) / total)
        table.measured += sum(not sampler.known(gone) for gone in widths.values())
        close = dict(zip(widths, sampler.together(list(widths.values())), strict=True))
    table.fit(far, close, {})
    few: dict[int, Sample] = {}
    if widths := narrow(grids, table.steps):
        progress("measuring latency", (total - _NARROW) / total)
        table.measured += sum(not sampler.known(gone) for gone in widths.values())
        few = dict(zip(widths, sampler.together(list(widths.values())), strict=True))
        table.fit(far, close, few)
    table.check = table.checked([*far, *close.values()])
    table.untimed = int(np.isnan(far[0].pieces[[table.kinds.index(kind) for kind in table.kinds]]).sum())
    table.cache = "" if sampler.store.path is None else str(sampler.store.path)
    progress("measuring latency", 1.0)
    return table
