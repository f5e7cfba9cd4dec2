"""Values of one attention: their moments, the fit of `onnxprune.recover.attention`, and the new weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.recover.attention import LARGEST, Factors, Values, features, fit_values
from onnxprune.recover.job import Job
from onnxprune.recover.regression import differences_of, target_of
from onnxprune.recover.rows import Rows, sides
from onnxprune.recover.state import State
from onnxprune.recover.target import follow
from onnxprune.statistics.accumulate import PIECE
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.positions import positions_of_each, spread

Array = NDArray[Any]


def fit_attention(state: State, job: Job, way: Values) -> None:
    """Fits the values of an attention together with the output projection, which is fitted once more afterwards."""
    values = way.value
    stored = state.weight(values.weight)
    whole = values.matrix(stored)[0]
    slot = follow(state.pruned.flow, values, (2,), 3, whole.shape[1]).slot
    inside = slot is not None and slot.tensor != "" and job.bias is None  # a bias of values is one more row of them
    wide = whole if slot is None or not inside else np.vstack([whole, state.weight(slot.tensor).reshape(1, -1)])
    if len(way.read) * len(wide) <= LARGEST:
        found = _moments(state, job, way, len(wide), inside)
        if found is not None:
            start = Factors([wide[:, m] for m in way.made], [job.old[0][r] for r in way.read], way.owner)
            factors, before, after = fit_values(*found, start, job.bias is not None)
            if after < before:
                _keep(state, job, way, factors, whole, stored)
    state.pruned.pinned -= way.needs | {values.x}
    state.pin()


def _moments(state: State, job: Job, way: Values, c: int, inside: bool) -> tuple[Moments, Moments] | None:
    """Of features and target; None where the shapes are others than they look like, or there are no rows."""
    heads = len(way.read)
    limit = positions_of_each(heads * c, state.samples)
    rows = Rows(heads * c, job.old.shape[2], limit * state.samples.count)
    fits = True
    sums = [n for n, _ in job.sums]
    for before, after in state.views([job.linear.y, *sums], [way.value.x, way.probabilities, *sums]):
        target = before.get(job.linear.y)
        x, p = after.get(way.value.x), after.get(way.probabilities)
        x = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1) if inside else x
        fits &= p.ndim == 4 and p.shape == (len(x), heads, target.shape[1], x.shape[1])
        if not fits:
            continue
        chosen = spread(target.shape[1], limit)
        differences = differences_of(state, job, before)
        both = sides(state, before, target, chosen, job.linear.form)
        step = max(PIECE // (4 * heads * c * len(chosen)), 1)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            piece = features(p[part], x[part], chosen)[:, :, None, :]
            wanted = target_of(job, differences, job.linear.form, before, after, part, chosen)
            rows.add(piece, wanted, both[:, part])
    train, held = rows.result()
    return (train, held) if fits and train.rows else None


def _keep(state: State, job: Job, way: Values, factors: Factors, whole: Array, stored: Array) -> None:
    """New value projections, and a way on from there: what lies between runs again."""
    values = way.value
    changed = whole.copy()
    output = job.old.copy()
    for made, value in zip(way.made, factors.value, strict=True):
        changed[:, made] = value[: len(whole)]
    for read, own in zip(way.read, factors.output, strict=True):
        output[0][read] = own
    state.pruned.weights[values.weight] = values.stored(changed[None], stored)
    slot = follow(state.pruned.flow, values, (2,), 3, whole.shape[1]).slot
    if slot is not None and slot.tensor:  # probabilities sum to 1: a bias of values is one of the output, if that has one
        bias = state.weight(slot.tensor).copy()
        for made, value in zip(way.made, factors.value, strict=True):
            bias.reshape(-1)[made] = value[-1] if len(value) > len(whole) else 0
        state.pruned.weights[slot.tensor] = bias
    job.old[...] = output
    state.pruned.weights[job.linear.weight] = job.linear.stored(output, job.stored)
    state.pruned.redo(way.between)
