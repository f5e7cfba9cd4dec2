"""Queries and keys of attention: where dimensions of heads went, logits are made again from what is left.

The dense model's queries and keys are predicted from what the pruned model feeds its projections (least squares, as for any
linear node, but for all dimensions), then mixed into fewer by `onnxprune.recover.bilinear`. A Softmax over keys does not
see what is added to all logits of a query: then keys are taken about their mean over the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.bilinear import mix
from onnxprune.recover.fit import Fit
from onnxprune.recover.kept import compared
from onnxprune.recover.run import Run, Sides, by_row
from onnxprune.recover.solve import solve
from onnxprune.recover.target import Slot, follow
from onnxprune.recover.wiring import Operand, Wiring, find_linear_of, find_wiring, in_order
from onnxprune.statistics.channels import counted_rows, positions_of_each, spread
from onnxprune.statistics.flow import Flow, attributes
from onnxprune.statistics.linear import Dense, Linear, find_linear
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.stream import Stream
from onnxprune.trace.value import Value

Array = NDArray[Any]
LARGEST = 4608  # channels that a projection reads
_AROUND = ("Identity", "Cast", "Where", "Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Side:
    """One factor of a product of two activations.

    Attributes:
        operand: in either model.
        linear: the node of the pruned model that makes it.
        source: the same node of the source.
        heads: which heads of the source stay `(h,)`.
    """

    operand: Operand
    linear: Linear
    source: Linear
    heads: Array


@dataclass(frozen=True)
class Logits:
    """A product of queries and keys that lost dimensions.

    Attributes:
        node: its index in the pruned model.
        query: left.
        key: right.
        judged: tensor by which new weights are judged.
        softmax: what is added to all logits of a query does not count.
        between: nodes that run again when the projections changed.
    """

    node: int
    query: Side
    key: Side
    judged: str
    softmax: bool
    between: frozenset[int]


def find_logits(pruned: Stream, dense: Stream, linears: Sequence[Linear], groups: Groups, alive: Mask) -> list[Logits]:
    """Products of queries and keys whose inner dimension shrank, in graph order.

    Args:
        pruned: the pruned model.
        dense: the source.
        linears: linear nodes of the pruned model.
        groups: analysis of the source.
        alive: for each label whether it stays.
    """
    flow, values, found = pruned.flow, groups.trace.values, []
    sources = find_linear(dense.flow)
    for k in range(len(flow.nodes)):
        operands = _operands(flow, k, values)
        if operands is None:
            continue
        sides = []
        for operand in operands:
            heads = _live_heads(operand, values.get(operand.name), alive)
            linear, source = find_linear_of(flow, linears, operand.name), find_linear_of(dense.flow, sources, operand.name)
            if heads is None or linear is None or source is None or linear.y != source.y:
                break
            sides.append(Side(operand, linear, source, heads))
        if len(sides) < 2:
            continue
        judged, softmax = _judged(flow, k)
        ways = [flow.between(s.linear.y, [judged]) for s in sides]
        if _read_elsewhere(flow, sides, k, groups):
            continue
        found.append(Logits(k, sides[0], sides[1], judged, softmax, ways[0] | ways[1] | {s.linear.node for s in sides}))
    return found


def _operands(flow: Flow, k: int, values: Mapping[str, Value]) -> tuple[Operand, Operand] | None:
    """Queries and keys of a product of two activations."""
    node = flow.nodes[k]
    names = list(node.input[:2])
    if len(names) < 2 or not all(n in flow.producer and flow.varying[flow.producer[n]] for n in names):
        return None
    if node.op_type == "MatMul" and all(n in values and values[n].shape is not None and values[n].rank == 4 for n in names):
        return Operand(names[0], (0, 2, 1, 3)), Operand(names[1], (0, 3, 1, 2))
    given = attributes(node)
    kind = node.domain, node.op_type
    plain = kind == ("com.microsoft", "MultiHeadAttention") and not (len(node.input) > 3 and node.input[3])
    if not plain and kind != ("", "Attention"):
        return None
    result = []
    for name, attribute in zip(names, ("q_num_heads", "kv_num_heads"), strict=True):
        value = values.get(name)
        if value is None or value.shape is None or value.rank not in (3, 4):
            return None
        heads = int(given.get("num_heads" if plain else attribute, 0))
        result.append(Operand(name, (0, 2, 1, 3)) if value.rank == 4 else Operand(name, None, heads))
    return result[0], result[1]


def _live_heads(operand: Operand, value: Value | None, alive: Mask) -> Array | None:
    """Which heads stay, where those that do lost dimensions; else None."""
    if value is None or value.shape is None:
        return None
    cells = np.ones(value.sizes, np.bool_)
    for f in value.fields:
        if set(f.axes) & {0, 1 if operand.order is None else operand.order[1]}:
            return None
        kept = alive[f.labels]
        cells &= kept.reshape([n if a in f.axes else 1 for a, n in enumerate(value.sizes)])
    stays = operand.rows(cells)[0, 0]
    heads = stays.any(axis=1)
    counts = stays[heads].sum(axis=1)
    return np.flatnonzero(heads) if counts.size and (counts == counts[0]).all() and counts[0] < stays.shape[1] else None


def _read_elsewhere(flow: Flow, sides: Sequence[Side], k: int, groups: Groups) -> bool:
    """Something else reads the dimensions that the product sums over."""
    values, of_label = groups.trace.values, groups.classes.of_label
    own = [of_label[f.labels].ravel() for s in sides for f in values[s.operand.name].fields]
    way = {b for s in sides for b in flow.between(s.linear.y, [s.operand.name])}
    made = {o for b in way for o in flow.nodes[b].output} | {s.linear.y for s in sides}
    readers = {r for name in made for r, _ in flow.readers.get(name, ())} - way - {k}
    others = [f for r in readers for o in flow.nodes[r].output if o in values for f in values[o].fields]
    return any(np.isin(of_label[f.labels], np.concatenate(own)).any() for f in others if own)


def _judged(flow: Flow, k: int) -> tuple[str, bool]:
    """The probabilities that logits become, or the logits themselves, and whether a Softmax over keys follows."""
    name = flow.nodes[k].output[0]
    if flow.nodes[k].op_type != "MatMul":
        return name, True
    end = name
    while len(readers := flow.readers.get(end, [])) == 1 and end not in flow.outputs:
        node = flow.nodes[readers[0][0]]
        if node.op_type == "Softmax" and attributes(node).get("axis", -1) in (-1, 3):
            return node.output[0], True
        others = [flow.constant(n) for n in node.input if n != end]
        if node.op_type not in _AROUND or (node.op_type in ("Mul", "Div") and any(c is None or c.size > 1 for c in others)):
            break
        end = node.output[0]
    return name, False


def pins(logits: Logits, flow: Flow) -> frozenset[str]:
    """Tensors of a model that are needed to look into what lies between projections and product, and to run it again."""
    sides = (logits.query, logits.key)
    between = {k for s in sides for y in [s.linear.y] for k in flow.between(y, [s.operand.name, logits.judged])}
    return flow.needs(between | {flow.producer[s.linear.y] for s in sides}) | {s.linear.y for s in sides}


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
    anyone = any(j.any() for j in run.judges)
    error, total = 0.0, 0.0
    for b, batch in enumerate(run.samples.batches):
        after = np.asarray(run.pruned.get(logits.judged, b, batch.feeds), np.float64)
        before = np.asarray(run.dense.get(logits.judged, b, batch.feeds), np.float64)
        before, after = compared(before, after, value, run.alive)
        judge = by_row(run.judges[b], batch, len(after)) if anyone else np.ones(len(after), np.bool_)
        judge &= by_row(np.arange(len(run.judges[b])) < batch.count, batch, len(after))
        before, after = before[judge], after[judge]
        error += float(((before - after) ** 2).sum())
        total += float(((before - before.mean(axis=1, keepdims=True)) ** 2).sum()) if before.size else 0.0
    return error / (total or 1.0) if np.isfinite(error) else np.inf


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
    sides = None
    for b, batch in enumerate(run.samples.batches):
        wanted = side.operand.rows(np.asarray(run.dense.get(side.operand.name, b, batch.feeds)))[:, :, side.heads]
        x = np.asarray(run.pruned.get(side.linear.x, b, batch.feeds))
        rows = in_order(side.linear, x, wanted.shape[:2], turned=wiring.turned, x=True)
        if rows is None:
            return None
        chosen = spread(rows.shape[1], positions_of_each(rows.shape[2], run.samples))
        counted = counted_rows(batch, run.samples.mask, rows, chosen, form)
        pair = [a[:, chosen].reshape(len(a), len(chosen), 1, -1).astype(np.float64) for a in (rows, wanted)]
        if centred:
            pair = [_about_mean(a, counted) for a in pair]
        sides = sides or Sides(run, 1, pair[0].shape[3], pair[1].shape[3])
        sides.add(b, batch, pair[0], pair[1], rows, chosen, form)
    return None if sides is None else sides.result()


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
