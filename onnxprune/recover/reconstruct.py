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

from onnxprune.calibrate.batch import Batch, Samples, digests
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.recover.attention import LARGEST as LARGEST_FEATURES
from onnxprune.recover.attention import Factors, Values, features, find_values, fit_values
from onnxprune.recover.fit import Fit
from onnxprune.recover.kept import kept_slices
from onnxprune.recover.repair import Repairs
from onnxprune.recover.run import by_row
from onnxprune.recover.slots import drop_zeros, give_slots, give_vectors, write_weights
from onnxprune.recover.solve import Mode, Solution, solve
from onnxprune.recover.target import Chain, follow
from onnxprune.statistics.accumulate import PIECE, Accumulator, picked, pieces
from onnxprune.statistics.channels import counted_rows, positions_of_each, spread
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Dense, Form, Linear, find_linear
from onnxprune.statistics.moments import Moments
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
    dense = Stream(lift(prepared.model), samples, budget)
    work = lift(result)
    behind = _behind_removal(Flow(work), dense.flow)
    added = give_slots(result, work, behind, groups)
    if mode != "none":
        give_vectors(result, prepared.model, groups, alive)
    sliced = Stream(lift(result), samples, budget)
    linears = find_linear(sliced.flow)
    order = [x for x in linears if x.y in {y.y for y in behind}]
    run = _Run(groups, alive, samples, mode, dense, sliced)
    for way in find_values(sliced.flow, linears, groups, alive) if mode == "lsq" else ():
        run.attention[way.output.y] = way
        run.pruned.pinned |= way.needs | {way.value.x}
    repairs = run.repairs = Repairs(run, linears, order)
    fits: list[Fit] = []
    pending = list(order)
    while pending:
        together = [x for x in pending if x.x == pending[0].x and x.form == pending[0].form]
        progress(f"reconstructing {together[0].name}", 1 - len(pending) / len(order))
        fits += repairs.before(min(x.node for x in together))
        for way in run.attention.values():
            run.pruned.pinned |= way.needs | {way.value.x}
        fits += run.fit(together, pending)
        pending = [x for x in pending if x not in together]
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
    attention: dict[str, Values] = field(default_factory=dict)
    repairs: Repairs | None = None

    @property
    def values(self) -> Mapping[str, Value]:
        return self.groups.trace.values

    @cached_property
    def judges(self) -> list[NDArray[np.bool_]]:
        """For each batch which of its samples judge."""
        return [held_out(batch) for batch in self.samples.batches]

    def fit(self, linears: list[Linear], pending: list[Linear]) -> list[Fit]:
        """Fits nodes that read the same tensor in the same way."""
        found: list[Fit] = []
        jobs: list[_Job] = []
        for linear in linears:
            job = self.job(linear, pending)
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
            if job.linear.y in self.attention:
                self.fit_attention(job, self.attention.pop(job.linear.y))
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

    def job(self, linear: Linear, pending: list[Linear]) -> _Job | str:
        """What there is to do for a node, or why nothing is done."""
        flow = self.pruned.flow
        value = self.values.get(linear.y)
        if value is None or value.shape is None:
            return "its shape is not known"
        if flow.users(linear.weight) > 1:
            return "its weight is read by several nodes"
        stored = self.weight(linear.weight)
        old = linear.matrix(stored)
        by_channel = self.mode == "channel" or old.shape[1] > LARGEST
        if by_channel and (len(old) > 1 or not self.channels(linear)):
            return f"{old.shape[1]} taps in {len(old)} groups can't be fitted by channels"
        axis = linear.form.channel_axis(value.rank)
        kept = kept_slices(value, self.alive)
        if kept is None or any(a != axis for a in kept):
            return "its output lost slices of more than its channels"
        chain = follow(flow, linear, axis, value.rank, old.shape[0] * old.shape[2])
        bias = None
        if chain.slot is not None:
            held = self.weight(chain.slot.tensor)
            bias = (held.astype(np.float64).ravel() if chain.slot.own else np.zeros(held.size)).reshape(old.shape[0], -1)
        sums = [(name, factor) for name, factor in chain.sums if self.settled(name, linear, pending)]
        weight = (chain.factor**2).reshape(old.shape[0], -1)
        return _Job(linear, stored, old, bias, chain, sums, kept.get(axis), weight, by_channel)

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

    def settled(self, name: str, linear: Linear, pending: Sequence[Linear]) -> bool:
        """A summand that will not change any more and has the output's shape."""
        flow = self.pruned.flow
        behind = flow.ancestors([name])
        shape, own = self.values.get(name), self.values[linear.y]
        same = shape is not None and shape.shape == own.shape
        waiting = {p.node for p in pending} | (self.repairs.nodes if self.repairs else set())
        return same and not waiting & behind

    def moments(self, jobs: list[_Job]) -> tuple[Moments, Moments]:
        """Moments of the rows that all jobs share, for fitting and for judging."""
        form, x = jobs[0].linear.form, jobs[0].linear.x
        groups, taps, _ = jobs[0].old.shape
        limit = positions_of_each(taps, self.samples, groups)
        rows = _Rows(self, taps, sum(j.old.shape[2] for j in jobs), limit, groups)
        sums = [n for j in jobs for n, _ in j.sums]
        for before, after in self.views([*[j.linear.y for j in jobs], *sums], [x, *sums]):
            target = before.get(jobs[0].linear.y)
            chosen = spread(form.positions(target), limit)
            for part, piece in pieces(form, after.get(x), chosen):
                wanted = [self.target(j, before, after, part, chosen) for j in jobs]
                joined = wanted[0] if len(wanted) == 1 else np.concatenate(wanted, axis=3)
                rows.add(piece, joined, part, before, target, chosen, form)
        return rows.result()

    def views(self, dense: Iterable[str], pruned: Iterable[str]) -> Iterator[tuple[View, View]]:
        """Both models, batch by batch, with the tensors that are asked for."""
        return zip(self.dense.walk(dense), self.pruned.walk(pruned), strict=True)

    def fit_attention(self, job: _Job, way: Values) -> None:
        """Fits the values of an attention together with the output projection, which is fitted once more afterwards."""
        values = way.value
        stored = self.weight(values.weight)
        whole = values.matrix(stored)[0]
        start_from = Factors([whole[:, m] for m in way.made], [job.old[0][r] for r in way.read])
        c, heads = whole.shape[0], len(way.made)
        if heads * c <= LARGEST_FEATURES:
            limit = positions_of_each(heads * c, self.samples)
            rows = _Rows(self, heads * c, job.old.shape[2], limit)
            fits = True
            sums = [n for n, _ in job.sums]
            for before, after in self.views([job.linear.y, *sums], [values.x, way.probabilities, *sums]):
                target = before.get(job.linear.y)
                x, p = after.get(values.x), after.get(way.probabilities)
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
                    wanted = self.target(job, before, after, part, chosen)
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
        for k, (made, read) in enumerate(zip(way.made, way.read, strict=True)):
            changed[:, made] = factors.value[k]
            output[0][read] = factors.output[k]
        self.pruned.weights[values.weight] = values.stored(changed[None], stored)
        slot = follow(self.pruned.flow, values, 2, 3, whole.shape[1]).slot
        if slot is not None and slot.tensor:  # probabilities sum to 1: a bias of values is one of the output
            bias = self.weight(slot.tensor).copy()
            bias.reshape(-1)[np.concatenate(way.made)] = 0
            self.pruned.weights[slot.tensor] = bias
        job.old[...] = output
        self.pruned.weights[job.linear.weight] = job.linear.stored(output, job.stored)
        self.pruned.redo(way.between)

    def target(self, job: _Job, before: View, after: View, part: slice, chosen: Array) -> Array:
        """What the output of some samples should be `(n, P, G, M)`."""
        form = job.linear.form
        axis = form.channel_axis(self.values[job.linear.y].rank)
        result = form.outputs(_take(before.get(job.linear.y)[part], job.kept, axis), chosen)
        for name, factor in job.sums:
            kept = (kept_slices(self.values[name], self.alive) or {}).get(axis)
            one, two = _take(before.get(name)[part], kept, axis), after.get(name)[part]
            if one.shape != two.shape or form.outputs(two, chosen).shape != result.shape:
                continue
            usable = np.abs(factor) > 1e-3 * np.abs(factor).max()
            inverse = np.divide(1.0, factor, out=np.zeros_like(factor), where=usable).reshape(result.shape[2:])
            result = result + (form.outputs(one, chosen).astype(np.float64) - form.outputs(two, chosen)) * inverse
        return result

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
            self.pruned.weights[slot.tensor] = new.astype(old.dtype)


class _Rows:
    """Rows of a fit: those it is fitted to, and those that judge."""

    def __init__(self, run: _Run, k: int, m: int, limit: int, groups: int = 1) -> None:
        self.run = run
        self.train, self.held = (Accumulator(groups, k, m, limit * run.samples.count) for _ in range(2))

    def add(self, rows: Array, wanted: Array, part: slice, view: View, target: Array, chosen: Array, form: Form) -> None:
        """Takes rows `(n, P, G, K)` of some samples, and what they should give `(n, P, G, M)`."""
        counted = counted_rows(view.batch, self.run.samples.mask, target, chosen, form)[part]
        judged = by_row(self.run.judges[view.index], view.batch, len(target))[part]
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


def _take(array: Array, kept: Array | None, axis: int) -> Array:
    return array if kept is None else np.take(array, kept, axis=axis)


def held_out(batch: Batch) -> NDArray[np.bool_]:
    """Which samples judge, by their content: the same in any order and any batches `(N,)`."""
    return np.asarray(digests(batch) % _HELD == 0)


def _behind_removal(flow: Flow, source: Flow) -> list[Linear]:
    """Linear nodes of the pruned model whose input is not what it was in the source."""
    changed = {
        n for n, t in flow.initializers.items() if n not in source.initializers or t.dims != source.initializers[n].dims
    }
    dirty: set[str] = set()
    for k, node in enumerate(flow.nodes):
        if any(n in changed or n in dirty for n in flow.reads(k)):
            dirty |= set(node.output)
    return [x for x in find_linear(flow) if x.x in dirty]
