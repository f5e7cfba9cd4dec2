"""Moments of what linear nodes read in the pruned model, and of what they should give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import batch_size
from onnxprune.recover.job import Job
from onnxprune.recover.kept import kept_places, kept_slices
from onnxprune.recover.rows import Rows, sides
from onnxprune.recover.state import State
from onnxprune.statistics.accumulate import pieces
from onnxprune.statistics.device import DeviceMoments, Target, can_be_in_graph
from onnxprune.statistics.forms import Form, some
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.positions import positions_of_each, spread
from onnxprune.statistics.stream import View

Array = NDArray[Any]


def moments_of(state: State, jobs: list[Job], *, forced: bool = False) -> tuple[Moments, Moments]:
    """Moments of the rows that all jobs share, for fitting and for judging; `forced`: rows of the dense model."""
    x = jobs[0].linear.x
    groups, taps, _ = jobs[0].old.shape
    outputs = sum(j.old.shape[2] for j in jobs)
    limit = positions_of_each(taps, state.samples, groups, outputs)
    if state.pruned.providers.in_graph and can_be_in_graph(jobs[0].linear.form) and not forced:
        return _on_device(state, jobs, limit)
    rows = Rows(taps, outputs, limit * state.samples.count, groups)
    sums = [n for j in jobs for n, _ in j.sums]
    wanted_of = [*[j.linear.y for j in jobs], *sums]
    for before, after in state.views([*wanted_of, x] if forced else wanted_of, sums if forced else [x, *sums]):
        target = before.get(jobs[0].linear.y)
        form = jobs[0].linear.form.arranged(target.shape, batch_size(before.batch))
        chosen = spread(form.positions(target), limit)
        given = _sliced(state, x, before.get(x)) if forced else after.get(x)
        differences = [differences_of(state, j, before) for j in jobs]
        both = sides(state, before, target, chosen, form)
        for part, piece in pieces(form, given, chosen):
            wanted = [target_of(j, d, form, before, after, part, chosen) for j, d in zip(jobs, differences, strict=True)]
            joined = wanted[0] if len(wanted) == 1 else np.concatenate(wanted, axis=3)
            rows.add(piece, joined, both[:, part])
    return rows.result()


@dataclass(frozen=True)
class Difference:
    """A difference between both models that an output makes up for.

    Attributes:
        name: of the tensor.
        kept: of its outputs; None: all.
        inverse: what the difference is multiplied with `(G * M,)`.
    """

    name: str
    kept: Array | None
    inverse: Array


def differences_of(state: State, job: Job, before: View) -> list[Difference]:
    """What the output has to make up for."""
    found = []
    axes = job.linear.form.made_axes(state.values[job.linear.y].rank)
    for name, factor in job.sums:
        kept = kept_places(state.values[name], axes, state.alive)
        if not isinstance(kept, str) and before.shaped(name).shape == before.shaped(job.linear.y).shape:
            usable = np.abs(factor) > 1e-3 * np.abs(factor).max()
            found.append(Difference(name, kept, np.divide(1.0, factor, out=np.zeros_like(factor), where=usable)))
    return found


def target_of(
    job: Job, differences: Sequence[Difference], form: Form, before: View, after: View, part: slice, chosen: Array
) -> Array:
    """What the output of some samples should be `(n, P, G, M)`."""

    def outputs(array: Array, kept: Array | None) -> Array:
        flat = form.flat(some(array, form.y_lead, part), chosen)
        return flat if kept is None else flat[..., kept]

    result = outputs(before.get(job.linear.y), job.kept)
    for d in differences:
        lost = outputs(before.get(d.name), d.kept).astype(np.float64) - outputs(after.get(d.name), None)
        result = result + lost * d.inverse
    return result.reshape(*result.shape[:2], len(job.old), -1)


def _sliced(state: State, name: str, array: Array) -> Array:
    """What stays of a tensor of the dense model."""
    for axis, kept in (kept_slices(state.values[name], state.alive) or {}).items():
        array = np.take(array, kept, axis=axis)
    return array


def _on_device(state: State, jobs: list[Job], limit: int) -> tuple[Moments, Moments]:
    """The same, computed by ONNX Runtime."""
    x = jobs[0].linear.x
    shape = jobs[0].old.shape[0], jobs[0].old.shape[1], sum(j.old.shape[2] for j in jobs)
    names = [n for j in jobs for n, _ in j.sums]
    found: DeviceMoments | None = None
    for before, after in state.views([*[j.linear.y for j in jobs], *names], [x, *names]):
        target = before.shaped(jobs[0].linear.y)
        form = found.form if found else jobs[0].linear.form.arranged(target.shape, batch_size(before.batch))
        parts = [(j, differences_of(state, j, before)) for j in jobs]
        if found is None:
            targets = []
            for j, own in parts:
                sums = tuple((d.kept, d.inverse.reshape(len(j.old), -1)) for d in own)
                targets.append(Target(form, j.old.shape[2], j.kept, sums))
            found = DeviceMoments(form, shape, targets, 2, state.pruned.providers)
        others = []
        for j, own in parts:
            others += [before.value(j.linear.y), *[v.value(d.name) for d in own for v in (before, after)]]
        chosen = spread(form.positions(target), limit)
        found.add(after.value(x), others, chosen, [*sides(state, before, target, chosen, form)])
    train, held = found.total if found is not None else [Moments.empty(*shape) for _ in range(2)]
    return (train, held) if train.rows else (held, train)
