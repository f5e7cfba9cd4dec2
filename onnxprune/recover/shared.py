"""Weights that several linear nodes read: one regression over the rows of all of them.

Each reader is centred about its own mean, where it has a bias of its own; the sums of products add up. A reader whose input
still waits for other fits (a layer that is applied again and again) gives the rows of the dense model, sliced to what
stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.recover.fit import Fit
from onnxprune.recover.job import Job, keep
from onnxprune.recover.regression import moments_of
from onnxprune.recover.solve import about_zero, solve
from onnxprune.recover.state import State
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Convolution, Dense, Form, Linear
from onnxprune.statistics.moments import Moments

_PASSED = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


def readers_of(flow: Flow, weight: str, linears: Sequence[Linear]) -> list[Linear] | str:
    """All nodes that read a stored weight, in graph order; a reason where one of them can't be fitted along.

    Args:
        flow: of the model.
        weight: name of the initializer.
        linears: its linear nodes.
    """
    found = [x for x in linears if x.weight == weight]
    known = {x.node for x in found}
    waiting = [weight]
    while waiting:
        name = waiting.pop()
        if name in flow.outputs:
            return "its weight is a graph output"
        for k, i in flow.readers.get(name, ()):
            node = flow.nodes[k]
            if i == 0 and node.op_type in _PASSED and not flow.varying[k]:
                waiting += node.output
            elif k not in known or i < 0:
                return f"its weight is read by {node.op_type} too"
    if len({(x.reading, _layout(x.form), x.factor) for x in found}) > 1:
        return "its weight is read by several nodes in different ways"
    return found


def _layout(form: Form) -> tuple[Any, ...]:
    """What the order of a weight's elements in its matrix depends on."""
    if isinstance(form, Convolution):
        return form.kernel, form.groups, form.transposed
    return (form.flipped,) if isinstance(form, Dense) else (form.x, form.w, form.y)


def fit_shared(state: State, jobs: list[Job], settled: list[bool]) -> list[Fit]:
    """Fits the weight that all jobs share.

    Args:
        state: of the reconstruction.
        jobs: one for each reader.
        settled: for each whether its input will not change any more.
    """
    moments = [moments_of(state, [job], forced=not ready) for job, ready in zip(jobs, settled, strict=True)]
    old = jobs[0].old
    weight = np.mean([job.weight for job in jobs], axis=0)
    train, held = (_together([m[k] for m in moments], jobs) for k in range(2))
    found = solve(train, held, old, None, state.mode, weight)
    fits = []
    for job, (own, judge) in zip(jobs, moments, strict=True):
        before = solve(own, judge, old, job.bias, "none", job.weight)
        shifted = solve(own, judge, found.matrix, job.bias, "bias", job.weight)
        kind = shifted.kind if found.kind == "none" else found.kind
        keep(state, job, replace(shifted, kind=kind))
        linear = job.linear
        fits.append(Fit(linear.name, linear.weight, kind, before.before, shifted.after, shifted.fitted, found.strength))
    return fits


def _together(parts: list[Moments], jobs: list[Job]) -> Moments:
    """Sums over readers, about the mean of each that has a bias."""
    result = Moments.empty(*parts[0].xy.shape)
    for m, job in zip(parts, jobs, strict=True):
        m = m if job.bias is not None else about_zero(m)
        result.rows += m.rows
        result.xx += m.xx
        result.xy += m.xy
        result.yy += m.yy
    return result
