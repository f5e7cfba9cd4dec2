"""The table: what it says about a machine whose times are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.bench.inputs import made_up
from onnxprune.budget.axes import Axes
from onnxprune.budget.levels import levels_of
from onnxprune.io.load import load_model
from onnxprune.latency.cost import Latency
from onnxprune.latency.design import Grid, alignment, close_by, far_apart
from onnxprune.latency.fit import fit_piece, fit_whole
from onnxprune.latency.machine import Runtime
from onnxprune.latency.measure import Comparison
from onnxprune.latency.sample import Sample, Sampler
from onnxprune.latency.store import Store
from onnxprune.latency.table import Table, build_table
from onnxprune.latency.timing import Timing
from onnxprune.latency.work import Work
from onnxprune.pipeline.stages import analysed
from onnxprune.select.allocate import Choice, Options, ranked
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score

MODELS = Path(__file__).parents[2] / "models"
QUIET = Runtime(threads=1)


class Machine(Sampler):
    """A sampler whose times follow a formula: widths count in blocks, odd ones cost half as much again."""

    block = 16

    def prepared_for(self, axes: Axes) -> Machine:
        values = self.groups.trace.values
        self.works = [Work(axes, self.prepared.graph, values, p) for p in self.pieces]
        self.by_id = {c.group.id: c.group for c in self.choices}
        self.calls = 0
        return self

    def ms(self, k: int, gone: Mapping[str, int]) -> float:
        rounded, odd = dict(gone), 1.0
        for g in self.works[k].groups:
            group = self.by_id[g]
            kept = (group.units - gone.get(g, 0)) * group.width
            up = min(math.ceil(kept / self.block) * self.block, group.units * group.width)
            rounded[g] = group.units - up // group.width
            odd = max(odd, 1.5 if gone.get(g, 0) and kept % 4 else 1.0)
        return float(self.works[k].at(rounded) @ [0.01, 1.0, 0.2, 0.1, 0.05]) * odd

    def known(self, gone: Mapping[str, int]) -> bool:
        return False

    @property
    def kinds(self) -> Sequence[int]:
        return list(range(len(self.pieces)))

    def together(self, gones: Sequence[Mapping[str, int]]) -> list[Sample]:
        self.calls += len(gones)
        rows = [np.array([self.ms(k, gone) for k in range(len(self.pieces))]) for gone in gones]
        dense = sum(self.ms(k, {}) for k in range(len(self.pieces)))
        return [Sample(dict(g), self.kinds, r, 0.8 * float(r.sum()), 0.8 * dense) for g, r in zip(gones, rows, strict=True)]


def machine(name: str) -> tuple[Machine, Axes, list[Choice]]:
    """A machine for one of the models."""
    prepared, groups = analysed(load_model(MODELS / f"{name}.onnx"), width=False, shapes=None)
    choices = ranked(groups, Options(), score(ScoreContext(groups), "l2"))
    axes = Axes(groups, choices)
    made = Machine(prepared, groups, choices, made_up(prepared.model), QUIET, Store(None, QUIET))
    return made.prepared_for(axes), axes, choices


@pytest.fixture(scope="module")
def resnet() -> tuple[Machine, Table, Axes, list[Choice]]:
    made, axes, choices = machine("resnet")
    return made, build_table(made, axes, lambda stage, share: None), axes, choices


def cost_of(made: Machine, table: Table, axes: Axes) -> Latency:
    return Latency(table, axes, Comparison(made.prepared.model, made.feeds, QUIET), Timing())


def that_pay(choices: Sequence[Choice], table: Table) -> dict[str, NDArray[np.int64]]:
    """Levels from the first width on that pays."""
    levels = levels_of(choices, Options(steps=table.steps))
    return {g: own[own >= min(table.steps[g], own[-1])] for g, own in levels.items()}


def test_it_finds_the_widths_that_pay(resnet: tuple[Machine, Table, Axes, list[Choice]]) -> None:
    made, table, _, choices = resnet
    wide = [c.group for c in choices if c.group.units * c.group.width >= 6 * made.block]
    assert wide
    for group in wide:
        assert table.steps[group.id] * group.width == made.block


def test_it_foretells_the_whole_model_at_widths_that_pay(resnet: tuple[Machine, Table, Axes, list[Choice]]) -> None:
    made, table, axes, choices = resnet
    cost = cost_of(made, table, axes)
    rng = np.random.default_rng(1)
    levels = that_pay(choices, table)
    for _ in range(10):
        widths = {g: int(rng.choice(own)) for g, own in levels.items()}
        true = made.together([axes.gone(widths)])[0].whole
        assert cost.total(widths) == pytest.approx(true, rel=0.06)
    assert cost.total({}) == pytest.approx(made.together([{}])[0].whole, rel=0.01)
    assert table.check.error < 0.05


def test_a_width_that_does_not_pay_is_never_cheaper_than_the_next_that_does(
    resnet: tuple[Machine, Table, Axes, list[Choice]],
) -> None:
    made, table, axes, choices = resnet
    cost = cost_of(made, table, axes)
    group = max((c.group for c in choices), key=lambda g: g.units)
    base = next(g for g in table.grids if g.group is group).base
    says = cost.table({}, {group.id: np.array([base - 3, base - 1, base])})[group.id]
    assert says[0] > says[2] * 0.99
    assert says[1] > says[2] * 0.99


def test_it_foretells_less_than_the_first_width_that_pays(resnet: tuple[Machine, Table, Axes, list[Choice]]) -> None:
    made, table, axes, choices = resnet
    cost = cost_of(made, table, axes)
    below = {}
    for choice in choices:
        group = choice.group
        levels = levels_of([choice], Options(steps=table.steps))[group.id]
        below[group.id] = levels[levels < table.steps[group.id]].tolist()
    assert any(len(own) > 1 for own in below.values())
    for place in range(2):
        widths = {g: own[place] for g, own in below.items() if len(own) > place}
        true = made.together([axes.gone(widths)])[0].whole
        assert cost.total(widths) == pytest.approx(true, rel=0.15)


def test_the_table_of_a_group_is_the_total_while_the_others_stay(
    resnet: tuple[Machine, Table, Axes, list[Choice]],
) -> None:
    made, table, axes, choices = resnet
    cost = cost_of(made, table, axes)
    widths = {c.group.id: c.group.units // 2 for c in choices}
    levels = that_pay(choices, table)
    for group, says in cost.table(widths, levels).items():
        totals = [cost.total({**widths, group: int(n)}) for n in levels[group]]
        np.testing.assert_allclose(says, totals, rtol=1e-6)


def test_fewer_units_never_take_longer_at_widths_that_pay(resnet: tuple[Machine, Table, Axes, list[Choice]]) -> None:
    made, table, axes, choices = resnet
    cost = cost_of(made, table, axes)
    for says in cost.table({}, that_pay(choices, table)).values():
        assert (np.diff(says) >= -1e-12).all()


def test_samples_stop_when_they_are_foretold() -> None:
    made, axes, _ = machine("mobilenet")
    made.block = 1  # times follow the work
    build_table(made, axes, lambda stage, share: None)
    assert made.calls < len(far_apart([Grid.of(c.group) for c in made.choices], 0)) + 8


def test_a_disturbed_sample_counts_little() -> None:
    rng = np.random.default_rng(0)
    work = np.column_stack([np.ones(12), rng.uniform(0.1, 1, (12, 4))])
    true = np.array([0.1, 2.0, 0.3, 0.2, 0.1])
    ms = work @ true
    disturbed = ms.copy()
    disturbed[3] *= 20
    assert work[5] @ fit_piece(work, disturbed) == pytest.approx(ms[5], rel=0.1)
    assert (fit_piece(work, ms) >= 0).all()


def test_what_a_piece_takes_alone_and_in_the_model_is_told_apart() -> None:
    rng = np.random.default_rng(0)
    parts = np.vstack([np.array([1.0, 8.0, 2.0, 2.0, 1.0]), rng.uniform(0.3, 1, (14, 5)) * [1, 8, 2, 2, 1]])
    factors = np.array([0.0, 1.0, 0.5, 0.5, 1.0])  # no calls, and tensors that stay in their layout
    found = fit_whole(parts, parts @ factors)
    np.testing.assert_allclose(parts @ found, parts @ factors, rtol=0.06)
    assert found[0] < 0.5 * found[1]


def test_designs_hold_legal_widths() -> None:
    _, _, choices = machine("mobilenet")
    grids = [Grid.of(c.group) for c in choices]
    units = {c.group.id: c.group.units for c in choices}
    for gone in [*far_apart(grids, 0), *close_by(grids).values()]:
        assert all(0 <= gone[g] < n for g, n in units.items())
    for offset, gone in close_by(grids).items():
        for grid in grids:
            if offset > 0 and grid.below(offset) is not None:
                kept = (grid.group.units - gone[grid.group.id]) * grid.group.width
                assert alignment(kept) == offset


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "vit_dynamo", "gru"])
def test_designs_vary_every_group(name: str) -> None:
    _, _, choices = machine(name)
    plan = far_apart([Grid.of(c.group) for c in choices], 0)
    for choice in choices:
        assert len({gone[choice.group.id] for gone in plan}) > 1
