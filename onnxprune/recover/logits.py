"""Queries and keys of attention: where dimensions of heads went, logits are made again from what is left.

The dense model's queries and keys are predicted from what the pruned model feeds its projections (least squares, as for any
linear node, but for all dimensions), then mixed into fewer by `onnxprune.recover.bilinear`. A Softmax over keys does not
see what is added to all logits of a query: then keys are taken about their mean over the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibrate.batch import batch_size
from onnxprune.recover.bilinear import mix
from onnxprune.recover.fit import Fit
from onnxprune.recover.kept import compared
from onnxprune.recover.products import Logits, Side, pins
from onnxprune.recover.rows import Rows, sides
from onnxprune.recover.run import Run
from onnxprune.recover.solve import solve
from onnxprune.recover.target import Slot, follow
from onnxprune.recover.wiring import Wiring, find_wiring, in_order
from onnxprune.statistics.linear import Dense, Linear
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.positions import judging, positions_of_each, spread

Array = NDArray[Any]
LARGEST = 4608  # channels that a projection reads


def fit_logits(run: Run, logits: Logits) -> Fit:
    """New query and key projections, where they bring the probabilities nearer to those of the dense model."""
    query, key = logits.query, logits.key
    name = run.pruned.flow.nodes[logits.node].name or run.pruned.flow.nodes[logits.node].output[0]
    weight = ", ".join(dict.fromkeys(s.linear.weight for s in (query, key)))
    run.pruned.compute([*pins(logits, run.pruned.flow), query.linear.x, key.linear.x])
    run.dense.compute([*pins(logits, run.dense.flow), query.operand.name, key.operand.name])
    made = _new_weights(run, logits)
    if isinstance(made, str):
        return Fit(name, weight, "none", reason=made)
    run.dense.compute([logits.judged])
    before = _lost(run, logits)
    old = {n: run.pruned.weights.get(n) for n in made}
    run.pruned.weights |= made
    run.pruned.redo(logits.between)
    after = _lost(run, logits)
    if after < before:
        return Fit(name, weight, "lsq", before, after, after)
    for n, array in old.items():
        if array is None:
            del run.pruned.weights[n]
        else:
            run.pruned.weights[n] = array
    run.pruned.redo(logits.between)
    return Fit(name, weight, "none", before, before, before)


def _lost(run: Run, logits: Logits) -> float:
    """Share of the variance of the judged tensor that is lost, on samples that judge where there are any."""
    run.pruned.compute([logits.judged])
    value = run.values[logits.judged]
    error, total = np.zeros(2), np.zeros(2)  # where samples judge, and everywhere
    for dense, pruned in run.computed():
        wide, narrow = (np.asarray(v.get(logits.judged), np.float64) for v in (dense, pruned))
        before, after = compared(wide, narrow, value, run.alive)
        real = np.arange(len(after)) < dense.batch.count * max(len(after) // batch_size(dense.batch), 1)
        for k, use in enumerate((real & judging(run.judges[dense.index], len(after)), real)):
            error[k] += ((before[use] - after[use]) ** 2).sum()
            total[k] += ((before[use] - before[use].mean(axis=1, keepdims=True)) ** 2).sum() if before[use].size else 0.0
    own = 0 if total[0] else 1
    return float(error[own] / (total[own] or 1.0)) if np.isfinite(error[own]) else np.inf


@dataclass(frozen=True)
class _Predicted:
    """Queries or keys of the dense model as they follow from what the pruned one has.

    Attributes:
        matrix: `(C, h, D)`.
        bias: `(h, D)`; None where there is no place for one.
        moments: second moments `(h, D, D)` of the predictions.
        wiring: of the pruned model.
    """

    matrix: Array
    bias: Array | None
    moments: Array
    wiring: Wiring


def _new_weights(run: Run, logits: Logits) -> dict[str, Array] | str:
    query = _predict(run, logits.query, centred=False)
    key = query if isinstance(query, str) else _predict(run, logits.key, centred=logits.softmax)
    if isinstance(query, str) or isinstance(key, str):
        return query if isinstance(query, str) else str(key)
    heads, rank = query.wiring.channels.shape
    shared: dict[tuple[int, ...], list[int]] = {}
    for h, channels in enumerate(key.wiring.channels):
        shared.setdefault(tuple(channels), []).append(h)
    if len({*query.wiring.channels.ravel()}) < heads * rank or len({c for row in shared for c in row}) < len(shared) * rank:
        return "heads share some of their dimensions"
    mixtures = {h: mix(list(query.moments[own]), key.moments[own[0]], rank) for own in shared.values() for h in own}
    arrays: dict[str, Array] = {}
    for side, predicted, one in ((logits.query, query, 0), (logits.key, key, 1)):
        arrays |= _stored(run, side, predicted, [mixtures[h][one] for h in range(heads)], arrays)
    return arrays


def _predict(run: Run, side: Side, *, centred: bool) -> _Predicted | str:
    """Regression of all dimensions of the dense operand on the pruned model's input."""
    batch = next(iter(run.samples.batches))
    wirings = []
    for stream, linear in ((run.pruned, side.linear), (run.dense, side.source)):
        found = find_wiring(stream, linear, side.operand, batch)
        if isinstance(found, str):
            return found
        wirings.append(found)
    now, dense = wirings
    stored = run.weight(side.linear.weight)
    if len(side.linear.matrix(stored)) > 1 or side.linear.matrix(stored).shape[1] > LARGEST:
        return "its projection has groups or too many channels"
    if sum(i >= 0 for _, i in run.pruned.flow.readers[side.linear.weight]) > 1:
        return "its weight is read by several nodes"
    slot = _slot(run, side.linear)
    constants = 0 if slot is None or slot.own else _through(run, slot, now)
    if np.abs(now.constants - constants).max() > 1e-3 * max(np.abs(now.constants).max(), 1e-6):
        return "a constant is added that can't be changed"
    moments = _moments(run, side, now, centred)
    if moments is None:
        return "its positions are arranged anew"
    train, held = moments
    old, old_bias = _dense_projection(run, side, dense)
    heads, dims = len(side.heads), dense.channels.shape[1]
    biased = slot is not None and not centred
    start = (np.zeros(heads * dims) if old_bias is None else old_bias)[None] if biased else None
    solved = solve(train, held, old[None], start, "lsq", np.ones((1, heads * dims)))
    matrix = solved.matrix[0]
    total = train.merged(held) if held.rows else train
    bias = None if solved.bias is None else solved.bias[0]
    mean = total.x[0] @ matrix + (0 if bias is None else bias)
    second = matrix.T @ (total.xx[0] / total.rows) @ matrix + np.outer(mean, mean)
    blocks = np.stack([second[h * dims : (h + 1) * dims, h * dims : (h + 1) * dims] for h in range(heads)])
    if centred and slot is not None:
        bias = np.zeros(heads * dims)  # added to all keys alike
    return _Predicted(matrix.reshape(-1, heads, dims), None if bias is None else bias.reshape(heads, dims), blocks, now)


def _slot(run: Run, linear: Linear) -> Slot | None:
    matrix = linear.matrix(run.weight(linear.weight))
    rank = run.values[linear.y].rank
    flow = run.pruned.flow
    slot = follow(flow, linear, linear.form.channel_axis(rank), rank, matrix.shape[0] * matrix.shape[2]).slot
    return slot if slot is not None and slot.tensor and len(flow.readers[slot.tensor]) == 1 else None


def _through(run: Run, slot: Slot, wiring: Wiring) -> Array:
    """What a bias that is added behind the node becomes at the operand `(h, D)`."""
    added = run.weight(slot.tensor).astype(np.float64).ravel() / slot.factor
    return np.asarray(added[wiring.channels] * wiring.factors)


def _dense_projection(run: Run, side: Side, wiring: Wiring) -> tuple[Array, Array | None]:
    """Weights `(C, h * D)` of the source's operand, of channels and heads that stay, and its bias."""
    flow = run.dense.flow
    linear = side.source
    whole = linear.matrix(numpy_helper.to_array(flow.initializers[linear.weight]))[0]
    channels, factors = wiring.channels[side.heads].ravel(), wiring.factors[side.heads].ravel()
    taps = _kept_taps(run, side, len(whole))
    bias = wiring.constants[side.heads].ravel().copy()
    rank = run.values[linear.y].rank
    slot = follow(flow, linear, linear.form.channel_axis(rank), rank, whole.shape[1]).slot
    if slot is not None and slot.own and slot.tensor:
        bias += numpy_helper.to_array(flow.initializers[slot.tensor]).astype(np.float64).ravel()[channels] * factors
    return whole[taps][:, channels] * factors, bias


def _kept_taps(run: Run, side: Side, taps: int) -> Array:
    """Rows of the source's matrix that the pruned model still has."""
    value = run.values[side.linear.x]
    axis = side.linear.form.channel_axis(value.rank)
    f = value.field_on(axis)
    each = taps // value.sizes[axis]
    kept = np.ones(value.sizes[axis], np.bool_) if f is None or f.joint else run.alive[f.labels]
    return np.flatnonzero(np.repeat(kept, each))


def _moments(run: Run, side: Side, wiring: Wiring, centred: bool) -> tuple[Moments, Moments] | None:
    """Moments of the pruned model's input and the dense operand; about each sample's mean where `centred`."""
    form = Dense(-1, False)
    rows = None
    for dense, pruned in run.computed():
        wanted = side.operand.rows(dense.get(side.operand.name))[:, :, side.heads]
        x = in_order(side.linear, pruned.get(side.linear.x), wanted.shape[:2], turned=wiring.turned, x=True)
        if x is None:
            return None
        chosen = spread(x.shape[1], positions_of_each(x.shape[2], run.samples))
        both = sides(run, pruned, x, chosen, form)
        pair = [a[:, chosen].reshape(len(a), len(chosen), 1, -1).astype(np.float64) for a in (x, wanted)]
        if centred:
            pair = [_about_mean(a, both[0] | both[1]) for a in pair]
        rows = rows or Rows(pair[0].shape[3], pair[1].shape[3])
        rows.add(pair[0], pair[1], both, whole=True)
    return None if rows is None else rows.result()


def _about_mean(rows: Array, counted: Array) -> Array:
    """Rows `(N, P, 1, K)` without the mean of each sample over positions that count."""
    weight = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    return np.asarray(rows - np.einsum("np,npgk->ngk", weight, rows)[:, None])


def _stored(
    run: Run, side: Side, predicted: _Predicted, mixtures: Sequence[Array], made: dict[str, Array]
) -> dict[str, Array]:
    """Weight and bias of a projection with mixed dimensions in place of those that are there."""
    linear, wiring = side.linear, predicted.wiring
    stored = made.get(linear.weight, run.weight(linear.weight))
    matrix = linear.matrix(stored).copy()
    slot = _slot(run, linear)
    result = {}
    bias = None
    if slot is not None and predicted.bias is not None:
        bias = made.get(slot.tensor, run.weight(slot.tensor)).copy()
    for h, mixture in enumerate(mixtures):
        channels, factors = wiring.channels[h], wiring.factors[h]
        matrix[0][:, channels] = predicted.matrix[:, h] @ mixture / factors
        if bias is not None and slot is not None and predicted.bias is not None:
            added = predicted.bias[h] @ mixture / factors
            bias.reshape(-1)[channels] = added if slot.own else added * slot.factor[channels]
    if bias is not None and slot is not None:
        result[slot.tensor] = bias
    return result | {linear.weight: linear.stored(matrix, stored)}
