"""Input channels of the dense model, rebuilt from those that are left, and multiplied with the dense weights.

One matrix for all taps: cheaper than least squares over taps, and worse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from onnxprune.recover.fit import Fit
from onnxprune.recover.job import Job, keep
from onnxprune.recover.kept import kept_slices
from onnxprune.recover.rows import Rows, sides
from onnxprune.recover.solve import solve
from onnxprune.recover.state import State
from onnxprune.statistics.accumulate import pieces
from onnxprune.statistics.forms import Dense
from onnxprune.statistics.positions import positions_of_each, spread


def fit_channels(state: State, job: Job) -> Fit:
    """Fits a node by its channels. Losses are shares of the input's variance."""
    linear = job.linear
    value = state.values[linear.x]
    axis = linear.form.channel_axis(value.rank)
    kept = (kept_slices(value, state.alive) or {}).get(axis, np.arange(value.sizes[axis]))
    form = Dense(axis, False)
    limit = positions_of_each(kept.size, state.samples)
    rows = Rows(kept.size, value.sizes[axis], limit * state.samples.count)
    for before, after in state.views([linear.x], [linear.x]):
        x, y = after.get(linear.x), before.get(linear.x)
        chosen = spread(form.positions(y), limit)
        both = sides(state, before, y, chosen, form)
        for part, piece in pieces(form, x, chosen):
            rows.add(piece, form.rows(y[part], chosen), both[:, part])
    train, held = rows.result()
    old = np.zeros((1, kept.size, value.sizes[axis]))
    old[0, np.arange(kept.size), kept] = 1
    bias = None if job.bias is None else np.zeros((1, value.sizes[axis]))
    found = solve(train, held, old, bias, "lsq", np.ones((1, value.sizes[axis])))
    dense = linear.matrix(numpy_helper.to_array(state.dense.flow.initializers[linear.weight]))[0]
    dense = dense if job.kept is None else dense[:, job.kept]
    taps = dense.reshape(value.sizes[axis], -1, dense.shape[1])
    matrix = np.einsum("pc,ctm->ptm", found.matrix[0], taps).reshape(1, -1, dense.shape[1])
    shift = None if job.bias is None or found.bias is None else job.bias + np.einsum("c,ctm->m", found.bias[0], taps)
    keep(state, job, replace(found, kind="channel" if found.kind != "none" else "none", matrix=matrix, bias=shift))
    return Fit(linear.name, linear.weight, "channel", found.before, found.after, found.fitted, found.strength)
