"""Reconstruction: fits every linear node behind a removal to what the dense model computes there.

Node by node in graph order: the input comes from the pruned model with all earlier nodes fitted already, the output from the
dense one. Both models run once over the samples, piece by piece (`onnxprune.statistics.stream`).

Source: the layer-wise least squares of He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section
3.2, over all taps of a kernel, with statistics of the pruned prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import Batch, Samples, batch_size, digests
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.recover.attention import LARGEST as LARGEST_FEATURES
from onnxprune.recover.attention import Factors, Values, features, find_values, fit_values
from onnxprune.recover.fit import Fit
from onnxprune.recover.kept import kept_places, kept_slices
from onnxprune.recover.order import Step, steps, steps_behind
from onnxprune.recover.recurrent import fit_recurrent
from onnxprune.recover.repair import Repairs
from onnxprune.recover.shared import fit_shared, readers_of
from onnxprune.recover.slots import drop_zeros, give_slots, give_vectors, write_weights
from onnxprune.recover.solve import Mode, Solution, solve
from onnxprune.recover.target import Chain, follow
from onnxprune.statistics.accumulate import PIECE, Accumulator, picked, pieces
from onnxprune.statistics.channels import counted_rows, judging, positions_of_each, spread
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.forms import some
from onnxprune.statistics.linear import Contraction, Declined, Dense, Form, Linear, find_linear
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.recurrent import Recurrent, with_states
from onnxprune.statistics.stream import Stream, View
from onnxprune.trace.value import Value

Array = NDArray[Any]
LARGEST = 4608  # taps times channels: beyond that a Gram matrix costs more than it is worth
_HELD = 5  # every fifth sample judges


@dataclass
class Reconstruction:
    """Result of `reconstruct`: the model with new weights, and one line for each node behind a removal that it fits."""

    model: onnx.ModelProto
    fits: list[Fit] = field(default_factory=list)


def reconstruct(
    prepared: Prepared,
    groups: Groups,
    alive: Mask,
    pruned: onnx.ModelProto,
    samples: Samples,
    *,
    mode: Mode = "lsq",
    budget: int = 1 << 30,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Reconstruction:
    """New weights for a pruned model. Neither model is changed.

    Args:
        prepared: the source as it was traced.
        groups: its analysis.
        alive: for each label whether it stays.
        pruned: result of the removal.
        samples: calibration samples.
        mode: `bias` shifts outputs, `affine` scales them too, `lsq` fits all weights; `channel` rebuilds input channels.
        budget: bytes of activations held in memory, for each of the two models.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run a model on the samples.
    """
    result = onnx.ModelProto()
    result.CopyFrom(pruned)
    dense = Stream(with_states(lift(prepared.model)), samples, budget)
    work = with_states(lift(result))
    shape_of = groups.trace.shape_of
    behind = steps_behind(Flow(work), dense.flow, shape_of)
    added = give_slots(result, work, [x for x in behind if isinstance(x, Linear)], groups)
    if mode != "none":
        give_vectors(result, prepared.model, groups, alive)
    sliced = Stream(with_states(lift(result)), samples, budget)
    linears = find_linear(sliced.flow, shape_of)
    touched = {x.y for x in behind}
    order = [x for x in steps(sliced.flow, shape_of) if x.y in touched]
    run = _Run(groups, alive, samples, mode, dense, sliced, linears)
    for way in find_values(sliced.flow, linears, groups, alive) if mode == "lsq" else ():
        run.attention[way.output.y] = way
        run.pruned.pinned |= way.needs | {way.value.x}
    repairs = run.repairs = Repairs(run, linears, [x for x in order if isinstance(x, Linear)])
    fits: list[Fit] = []
    pending = list(order)
    while pending:
        first = pending[0]
        progress(f"reconstructing {first.name}", 1 - len(pending) / len(order))
        together: list[Step] = [first]
        fits += repairs.before(first.node)
        for way in run.attention.values():
            run.pruned.pinned |= way.needs | {way.value.x}
        if isinstance(first, Declined):
            fits.append(Fit(first.name, first.weight, "none", reason=first.reason))
        elif isinstance(first, Recurrent):
            fits.append(fit_recurrent(run, first))
        else:
            same = [x for x in pending if isinstance(x, Linear) and x.x == first.x and x.form == first.form]
            fits += run.fit(same, pending)
            together = [*same]
        pending = [x for x in pending if x not in together and x.node not in run.fitted]
    fits += repairs.before(len(sliced.flow.nodes))
    write_weights(result, run.pruned.weights)
    drop_zeros(result, added)
    return Reconstruction(result, fits)


@dataclass
class _Run:
    groups: Groups
    alive: Mask
    samples: Samples
    mode: Mode
    dense: Stream
    pruned: Stream
    linears: list[Linear]
    fitted: set[int] = field(default_factory=set)  # nodes that were fitted along with an earlier one
    attention: dict[str, Values] = field(default_factory=dict)
    repairs: Repairs | None = None

    @property
    def values(self) -> Mapping[str, Value]:
        return self.groups.trace.values

    @cached_property
    def judges(self) -> list[NDArray[np.bool_]]:
        """For each batch which of its samples judge."""
        return [held_out(batch) for batch in self.samples.batches]

    def fit(self, linears: list[Linear], pending: Sequence[Step]) -> list[Fit]:
        """Fits nodes that read the same tensor in the same way."""
        found: list[Fit] = []
        jobs: list[_Job] = []
        for linear in linears:
            if linear.node in self.fitted:
                continue
            readers = readers_of(self.pruned.flow, linear.weight, self.linears)
            if len(readers) > 1 and not isinstance(readers, str):
                found += self.fit_readers(readers, pending)
                continue
            job = readers if isinstance(readers, str) else self.job(linear, pending)
            if isinstance(job, str):
                found.append(Fit(linear.name, linear.weight, "none", reason=job))
            else:
                jobs.append(job)
        if not jobs:
            return found
        for job in [j for j in jobs if j.by_channel]:
            found.append(self.fit_channels(job))
            jobs.remove(job)
        if not jobs:
            return found
        for job in jobs:
            way = self.attention.pop(job.linear.y, None)
            if way is not None and len(readers_of(self.pruned.flow, way.value.weight, self.linears)) == 1:
                self.fit_attention(job, way)
        train, held = self.moments(jobs)
        start = 0
        for job in jobs:
            width = job.old.shape[2]
            solution = solve(
                train.columns(start, start + width),
                held.columns(start, start + width),
                job.old,
                job.bias,
                self.mode,
                job.weight,
            )
            self.keep(job, solution)
            found.append(
                Fit(
                    job.linear.name,
                    job.linear.weight,
                    solution.kind,
                    solution.before,
                    solution.after,
                    solution.fitted,
                    solution.strength,
                )
            )
            start += width
        return found

    def fit_readers(self, readers: list[Linear], pending: Sequence[Step]) -> list[Fit]:
        """Fits a weight that several nodes read, all of them at once."""
        self.fitted |= {x.node for x in readers}
        jobs: list[_Job] = []
        for linear in readers:
            job = self.job(linear, pending)
            value = self.values.get(linear.x)
            if not isinstance(job, str) and job.by_channel:
                job = f"{job.old.shape[1]} taps are too many for a weight that several nodes read"
            if value is None or value.shape is None or kept_slices(value, self.alive) is None:
                job = "its input lost slices of several axes together"
            if isinstance(job, str):
                return [Fit(x.name, x.weight, "none", reason=job) for x in readers]
            jobs.append(job)
        flow = self.pruned.flow
        waiting = {p.node for p in pending}
        return fit_shared(self, jobs, [not waiting & flow.ancestors([j.linear.x]) for j in jobs])

    def job(self, linear: Linear, pending: Sequence[Step]) -> _Job | str:
        """What there is to do for a node, or why nothing is done."""
        flow = self.pruned.flow
        value = self.values.get(linear.y)
        if value is None or value.shape is None:
            return "its shape is not known"
        stored = self.weight(linear.weight)
        old = linear.matrix(stored)
        by_channel = self.mode == "channel" or old.shape[1] > LARGEST
        if by_channel and (len(old) > 1 or isinstance(linear.form, Contraction) or not self.channels(linear)):
            return f"{old.shape[1]} taps in {len(old)} groups can't be fitted by channels"
        axes = linear.form.made_axes(value.rank)
        kept = kept_places(value, axes, self.alive)
        if isinstance(kept, str):
            return kept
        chain = follow(flow, linear, axes, value.rank, old.shape[0] * old.shape[2])
        bias = None
        if chain.slot is not None:
            held = self.weight(chain.slot.tensor)
            own = chain.slot.scale * held.astype(np.float64).ravel()
            bias = (own if chain.slot.own else np.zeros(held.size)).reshape(old.shape[0], -1)
        sums = [(name, factor) for name, factor in chain.sums if self.settled(name, linear, pending)]
        weight = (chain.factor**2).reshape(old.shape[0], -1)
        return _Job(linear, stored, old, bias, chain, sums, kept, weight, by_channel)

    def channels(self, linear: Linear) -> int:
        """Channels of the dense input, where nothing but channels went of it; else 0."""
        value = self.values.get(linear.x)
        if value is None or value.shape is None:
            return 0
        axis = linear.form.channel_axis(value.rank)
        kept = kept_slices(value, self.alive)
        return value.sizes[axis] if kept is not None and set(kept) <= {axis} else 0

    def fit_channels(self, job: _Job) -> Fit:
        """Rebuilds the dense input channels from those that are left, and multiplies the dense weights with that.

        One matrix for all taps: cheaper, and worse than least squares over taps. Losses are shares of the input's variance.
        """
        linear = job.linear
        value = self.values[linear.x]
        axis = linear.form.channel_axis(value.rank)
        kept = (kept_slices(value, self.alive) or {}).get(axis, np.arange(value.sizes[axis]))
        form = Dense(axis, False)
        limit = positions_of_each(kept.size, self.samples)
        rows = _Rows(self, kept.size, value.sizes[axis], limit)
        for before, after in self.views([linear.x], [linear.x]):
            x, y = after.get(linear.x), before.get(linear.x)
            chosen = spread(form.positions(y), limit)
            for part, piece in pieces(form, x, chosen):
                rows.add(piece, form.rows(y[part], chosen), part, before, y, chosen, form)
        train, held = rows.result()
        old = np.zeros((1, kept.size, value.sizes[axis]))
        old[0, np.arange(kept.size), kept] = 1
        bias = None if job.bias is None else np.zeros((1, value.sizes[axis]))
        found = solve(train, held, old, bias, "lsq", np.ones((1, value.sizes[axis])))
        dense = linear.matrix(numpy_helper.to_array(self.dense.flow.initializers[linear.weight]))[0]
        dense = dense if job.kept is None else dense[:, job.kept]
        taps = dense.reshape(value.sizes[axis], -1, dense.shape[1])
        matrix = np.einsum("pc,ctm->ptm", found.matrix[0], taps).reshape(1, -1, dense.shape[1])
        shift = None if job.bias is None or found.bias is None else job.bias + np.einsum("c,ctm->m", found.bias[0], taps)
        self.keep(job, replace(found, kind="channel" if found.kind != "none" else "none", matrix=matrix, bias=shift))
        return Fit(linear.name, linear.weight, "channel", found.before, found.after, found.fitted, found.strength)

    def weight(self, name: str) -> Array:
        """A stored tensor as it is by now."""
        changed = self.pruned.weights.get(name)
        return numpy_helper.to_array(self.pruned.flow.initializers[name]) if changed is None else changed

    def settled(self, name: str, linear: Linear, pending: Sequence[Step]) -> bool:
        """A summand that will not change any more and has the output's shape."""
        flow = self.pruned.flow
        behind = flow.ancestors([name])
        shape, own = self.values.get(name), self.values[linear.y]
        same = shape is not None and shape.shape == own.shape
        waiting = {p.node for p in pending} | (self.repairs.nodes if self.repairs else set())
        return same and not waiting & behind

    def moments(self, jobs: list[_Job], *, forced: bool = False) -> tuple[Moments, Moments]:
        """Moments of the rows that all jobs share, for fitting and for judging; `forced`: rows of the dense model."""
        x = jobs[0].linear.x
        groups, taps, _ = jobs[0].old.shape
        limit = positions_of_each(taps, self.samples, groups)
        rows = _Rows(self, taps, sum(j.old.shape[2] for j in jobs), limit, groups)
        sums = [n for j in jobs for n, _ in j.sums]
        wanted_of = [*[j.linear.y for j in jobs], *sums]
        for before, after in self.views([*wanted_of, x] if forced else wanted_of, sums if forced else [x, *sums]):
            target = before.get(jobs[0].linear.y)
            form = jobs[0].linear.form.arranged(target.shape, batch_size(before.batch))
            chosen = spread(form.positions(target), limit)
            given = self.sliced(x, before.get(x)) if forced else after.get(x)
            for part, piece in pieces(form, given, chosen):
                wanted = [self.target(j, form, before, after, part, chosen) for j in jobs]
                joined = wanted[0] if len(wanted) == 1 else np.concatenate(wanted, axis=3)
                rows.add(piece, joined, part, before, target, chosen, form)
        return rows.result()

    def sliced(self, name: str, array: Array) -> Array:
        """What stays of a tensor of the dense model."""
        for axis, kept in (kept_slices(self.values[name], self.alive) or {}).items():
            array = np.take(array, kept, axis=axis)
        return array

    def views(self, dense: Iterable[str], pruned: Iterable[str]) -> Iterator[tuple[View, View]]:
        """Both models, batch by batch, with the tensors that are asked for."""
        return zip(self.dense.walk(dense), self.pruned.walk(pruned), strict=True)

    def fit_attention(self, job: _Job, way: Values) -> None:
        """Fits the values of an attention together with the output projection, which is fitted once more afterwards."""
        values = way.value
        stored = self.weight(values.weight)
        whole = values.matrix(stored)[0]
        slot = follow(self.pruned.flow, values, (2,), 3, whole.shape[1]).slot
        inside = slot is not None and slot.tensor != "" and job.bias is None  # a bias of values is one more row of them
        wide = whole if slot is None or not inside else np.vstack([whole, self.weight(slot.tensor).reshape(1, -1)])
        start_from = Factors([wide[:, m] for m in way.made], [job.old[0][r] for r in way.read], way.owner)
        c, heads = wide.shape[0], len(way.read)
        if heads * c <= LARGEST_FEATURES:
            limit = positions_of_each(heads * c, self.samples)
            rows = _Rows(self, heads * c, job.old.shape[2], limit)
            fits = True
            sums = [n for n, _ in job.sums]
            for before, after in self.views([job.linear.y, *sums], [values.x, way.probabilities, *sums]):
                target = before.get(job.linear.y)
                x, p = after.get(values.x), after.get(way.probabilities)
                x = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1) if inside else x
                fits &= (
                    p.ndim == 4
                    and p.shape[:2] == (len(x), heads)
                    and (p.shape[2], p.shape[3]) == (target.shape[1], x.shape[1])
                )
                if not fits:
                    continue
                chosen = spread(target.shape[1], limit)
                step = max(PIECE // (4 * heads * c * len(chosen)), 1)
                for start in range(0, len(x), step):
                    part = slice(start, start + step)
                    piece = features(p[part], x[part], chosen)[:, :, None, :]
                    wanted = self.target(job, job.linear.form, before, after, part, chosen)
                    rows.add(piece, wanted, part, before, target, chosen, job.linear.form)
            train, held = rows.result()
            if fits and train.rows:
                factors, lost_before, lost_after = fit_values(train, held, start_from, job.bias is not None)
                if lost_after < lost_before:
                    self.keep_values(job, way, factors, whole, stored)
        self.pruned.pinned -= way.needs | {values.x}
        for other in self.attention.values():
            self.pruned.pinned |= other.needs | {other.value.x}
        if self.repairs:
            self.repairs.pin()

    def keep_values(self, job: _Job, way: Values, factors: Factors, whole: Array, stored: Array) -> None:
        """New value projections, and a way on from there: what lies between runs again."""
        values = way.value
        changed = whole.copy()
        output = job.old.copy()
        for made, value in zip(way.made, factors.value, strict=True):
            changed[:, made] = value[: len(whole)]
        for read, own in zip(way.read, factors.output, strict=True):
            output[0][read] = own
        self.pruned.weights[values.weight] = values.stored(changed[None], stored)
        slot = follow(self.pruned.flow, values, (2,), 3, whole.shape[1]).slot
        if (
            slot is not None and slot.tensor
        ):  # probabilities sum to 1: a bias of values is one of the output, if that has one
            bias = self.weight(slot.tensor).copy()
            for made, value in zip(way.made, factors.value, strict=True):
                bias.reshape(-1)[made] = value[-1] if len(value) > len(whole) else 0
            self.pruned.weights[slot.tensor] = bias
        job.old[...] = output
        self.pruned.weights[job.linear.weight] = job.linear.stored(output, job.stored)
        self.pruned.redo(way.between)

    def target(self, job: _Job, form: Form, before: View, after: View, part: slice, chosen: Array) -> Array:
        """What the output of some samples should be `(n, P, G, M)`."""
        axes = job.linear.form.made_axes(self.values[job.linear.y].rank)
        dense = before.get(job.linear.y)

        def outputs(array: Array, kept: Array | None) -> Array:
            flat = form.flat(some(array, form.y_lead, part), chosen)
            return flat if kept is None else flat[..., kept]

        result = outputs(dense, job.kept)
        for name, factor in job.sums:
            kept = kept_places(self.values[name], axes, self.alive)
            if isinstance(kept, str) or before.get(name).shape != dense.shape:
                continue
            usable = np.abs(factor) > 1e-3 * np.abs(factor).max()
            inverse = np.divide(1.0, factor, out=np.zeros_like(factor), where=usable)
            result = result + (outputs(before.get(name), kept).astype(np.float64) - outputs(after.get(name), None)) * inverse
        return result.reshape(*result.shape[:2], len(job.old), -1)

    def keep(self, job: _Job, solution: Solution) -> None:
        """Puts the new weights where the nodes that follow read them."""
        if solution.kind == "none":
            return
        self.pruned.weights[job.linear.weight] = job.linear.stored(solution.matrix, job.stored)
        slot = job.chain.slot
        if slot is not None and solution.bias is not None:
            old = self.weight(slot.tensor)
            new = solution.bias.reshape(old.shape)
            if not slot.own:
                new = old + slot.factor.reshape(old.shape) * new
            new = new / slot.scale
            self.pruned.weights[slot.tensor] = new.astype(old.dtype)


class _Rows:
    """Rows of a fit: those it is fitted to, and those that judge."""

    def __init__(self, run: _Run, k: int, m: int, limit: int, groups: int = 1) -> None:
        self.run = run
        self.train, self.held = (Accumulator(groups, k, m, limit * run.samples.count) for _ in range(2))

    def add(self, rows: Array, wanted: Array, part: slice, view: View, target: Array, chosen: Array, form: Form) -> None:
        """Takes rows `(n, P, G, K)` of some samples, and what they should give `(n, P, G, M)`."""
        counted = counted_rows(view.batch, self.run.samples.mask, target, chosen, form)[part]
        judged = judging(self.run.judges[view.index], form.places(target)[0])[part]
        for which, moments in ((~judged, self.train), (judged, self.held)):
            use = counted & which[:, None]
            if use.any():
                moments.add(picked(rows, use), picked(wanted, use))

    def result(self) -> tuple[Moments, Moments]:
        """Moments for fitting and for judging; without rows for the former, the latter are taken for both."""
        train, held = self.train.result(), self.held.result()
        return (train, held) if train.rows else (held, train)


@dataclass
class _Job:
    linear: Linear
    stored: Array
    old: Array
    bias: Array | None
    chain: Chain
    sums: list[tuple[str, Array]]
    kept: Array | None
    weight: Array
    by_channel: bool


def held_out(batch: Batch) -> NDArray[np.bool_]:
    """Which samples judge, by their content: the same in any order and any batches `(N,)`."""
    return np.asarray(digests(batch) % _HELD == 0)
