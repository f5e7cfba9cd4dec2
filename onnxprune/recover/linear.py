"""Fits of linear nodes that read the same tensor in the same way: one regression for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.recover.channels import fit_channels
from onnxprune.recover.fit import Fit
from onnxprune.recover.job import Job, job_of, keep
from onnxprune.recover.kept import kept_slices
from onnxprune.recover.order import Step
from onnxprune.recover.regression import moments_of
from onnxprune.recover.shared import fit_shared, readers_of
from onnxprune.recover.solve import solve
from onnxprune.recover.state import State
from onnxprune.recover.values import fit_attention
from onnxprune.statistics.linear import Linear


def fit_linear(state: State, linears: Sequence[Linear], pending: Sequence[Step]) -> list[Fit]:
    """Fits nodes that read the same tensor in the same way, while others are pending."""
    found: list[Fit] = []
    jobs: list[Job] = []
    for linear in linears:
        if linear.node in state.fitted:
            continue
        readers = readers_of(state.pruned.flow, linear.weight, state.linears)
        if len(readers) > 1 and not isinstance(readers, str):
            found += _fit_readers(state, readers, pending)
            continue
        job = readers if isinstance(readers, str) else job_of(state, linear, pending)
        if isinstance(job, str):
            found.append(Fit(linear.name, linear.weight, "none", reason=job))
        else:
            jobs.append(job)
    found += [fit_channels(state, job) for job in jobs if job.by_channel]
    jobs = [job for job in jobs if not job.by_channel]
    for job in jobs:
        way = state.attention.pop(job.linear.y, None)
        if way is not None and len(readers_of(state.pruned.flow, way.value.weight, state.linears)) == 1:
            fit_attention(state, job, way)
    return [*found, *_solve(state, jobs)] if jobs else found


def _solve(state: State, jobs: list[Job]) -> list[Fit]:
    """Least squares for all jobs at once."""
    train, held = moments_of(state, jobs)
    fits, start = [], 0
    for job in jobs:
        stop = start + job.old.shape[2]
        x, y = train.columns(start, stop), held.columns(start, stop)
        solution = solve(x, y, job.old, job.bias, state.mode, job.weight)
        keep(state, job, solution)
        losses = solution.before, solution.after, solution.fitted, solution.strength
        fits.append(Fit(job.linear.name, job.linear.weight, solution.kind, *losses))
        start = stop
    return fits


def _fit_readers(state: State, readers: list[Linear], pending: Sequence[Step]) -> list[Fit]:
    """Fits a weight that several nodes read, all of them at once."""
    state.fitted |= {x.node for x in readers}
    jobs: list[Job] = []
    for linear in readers:
        job = job_of(state, linear, pending)
        value = state.values.get(linear.x)
        if not isinstance(job, str) and job.by_channel:
            job = f"{job.old.shape[1]} taps are too many for a weight that several nodes read"
        if value is None or value.shape is None or kept_slices(value, state.alive) is None:
            job = "its input lost slices of several axes together"
        if isinstance(job, str):
            return [Fit(x.name, x.weight, "none", reason=job) for x in readers]
        jobs.append(job)
    flow = state.pruned.flow
    waiting = {p.node for p in pending}
    return fit_shared(state, jobs, [not waiting & flow.ancestors([j.linear.x]) for j in jobs])
