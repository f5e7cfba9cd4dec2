"""Stored vectors that act on each channel alone: scale and shift of a normalization, written as one operator or as several.

Where a statistic runs over channels of which some went (`--width`), what it makes of the others is not what it was:

    y_c = gamma_c * n_c + beta_c        gamma' = a * gamma,   beta' = a * beta + b      with y_dense ~ a * y + b

Each channel is a regression of one variable, so `onnxprune.recover.solve` fits all of them as groups of one tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.fit import Fit
from onnxprune.recover.kept import kept_slices
from onnxprune.recover.rows import Rows, sides
from onnxprune.recover.run import Run
from onnxprune.recover.solve import solve
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Dense
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.positions import positions_of_each, spread

Array = NDArray[Any]
_LEAST = 1e-3  # of a factor that becomes a divisor
_MICROSOFT = "com.microsoft"
_NORMS = {  # inputs that multiply and that are added, per channel
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1, None),
    ("", "SimplifiedLayerNormalization"): (1, None),
    (_MICROSOFT, "LayerNormalization"): (1, 2),
    (_MICROSOFT, "SimplifiedLayerNormalization"): (1, None),
    (_MICROSOFT, "SkipLayerNormalization"): (2, 3),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): (2, None),
    ("", "InstanceNormalization"): (1, 2),
    ("", "GroupNormalization"): (1, 2),
    ("", "BatchNormalization"): (1, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Steps on each channel alone, with vectors of their own.

    Attributes:
        name: of the first node.
        nodes: the steps.
        y: what the last one makes.
        axis: of channels in y.
        scale: vector that multiplies; empty where there is none.
        divides: the vector divides.
        shift: vector that is added last; empty where there is none.
        sign: -1 where the shift is subtracted.
    """

    name: str
    nodes: tuple[int, ...]
    y: str
    axis: int
    scale: str
    divides: bool = False
    shift: str = ""
    sign: int = 1


def find_scales(flow: Flow, groups: Groups, alive: Mask, absorbed: set[int], *, shared: bool = False) -> list[Scale]:
    """Scales and shifts of channels behind a statistic that lost some, in graph order.

    Args:
        flow: of the pruned model.
        groups: analysis of the source.
        alive: for each label whether it stays.
        absorbed: nodes that a linear node makes up for.
        shared: those too whose vectors are read by several nodes.
    """
    found: list[Scale] = []
    taken = set(absorbed)
    for k in range(len(flow.nodes)):
        if k in taken or not flow.varying[k]:
            continue
        start = _norm(flow, k) or _step(flow, k)
        axis = None if start is None else _axis(flow, start, groups, alive)
        if start is None or axis is None:
            continue
        scale = _with_shift(flow, replace(start, axis=axis), groups)
        if not shared and any(len(flow.readers[v]) > 1 for v in (scale.scale, scale.shift) if v):
            continue
        taken |= set(scale.nodes)
        found.append(scale)
    return found


def _norm(flow: Flow, k: int) -> Scale | None:
    node = flow.nodes[k]
    inputs = _NORMS.get((node.domain, node.op_type))
    if inputs is None:
        return None
    scale, shift = (node.input[i] if i is not None and i < len(node.input) else "" for i in inputs)
    if any(v and v not in flow.initializers for v in (scale, shift)) or not scale:
        return None
    return Scale(node.name or node.output[0], (k,), node.output[0], 0, scale, False, shift)


def _step(flow: Flow, k: int) -> Scale | None:
    """A product or a sum with a stored vector."""
    node = flow.nodes[k]
    if node.domain or node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    stored = [i for i in (0, 1) if node.input[i] in flow.initializers]
    if len(stored) != 1 or (stored == [0] and node.op_type in ("Div", "Sub")):
        return None
    vector, name = node.input[stored[0]], node.name or node.output[0]
    if node.op_type in ("Mul", "Div"):
        return Scale(name, (k,), node.output[0], 0, vector, node.op_type == "Div")
    return Scale(name, (k,), node.output[0], 0, "", False, vector, -1 if node.op_type == "Sub" else 1)


def _axis(flow: Flow, scale: Scale, groups: Groups, alive: Mask) -> int | None:
    """The axis of channels, where it is one that lost some and that a statistic runs over."""
    value = groups.trace.values.get(scale.y)
    kept = None if value is None or value.shape is None else kept_slices(value, alive)
    if value is None or kept is None or len(kept) != 1:
        return None
    (axis,) = kept
    f = value.field_on(axis)
    if f is None or not (groups.classes.inexact[groups.classes.of_label[f.labels]] >= 0).any():
        return None
    vectors = [flow.initializers[v] for v in (scale.scale, scale.shift) if v]
    fits = all(_runs_along(tuple(t.dims), axis, value.rank, kept[axis].size, flow, scale) for t in vectors)
    return axis if fits else None


def _runs_along(dims: tuple[int, ...], axis: int, rank: int, size: int, flow: Flow, scale: Scale) -> bool:
    """A tensor holds one number for each channel."""
    node = flow.nodes[scale.nodes[0]]
    if (node.domain, node.op_type) in _NORMS:
        return dims == (size,)
    aligned = (1,) * (rank - len(dims)) + dims
    return aligned == tuple(size if a == axis else 1 for a in range(rank))


def _with_shift(flow: Flow, scale: Scale, groups: Groups) -> Scale:
    """A scale that is followed by a shift takes it in."""
    value = groups.trace.values[scale.y]
    y, nodes = scale.y, scale.nodes
    while not scale.shift and y not in flow.outputs and len(readers := flow.readers.get(y, [])) == 1:
        k, _ = readers[0]
        node = flow.nodes[k]
        nodes = (*nodes, k)
        y = node.output[0]
        if node.op_type in ("Identity", "Cast", "Dropout"):
            continue
        step = _step(flow, k)
        size = int(np.prod(flow.initializers[scale.scale].dims))
        if step is None or step.scale:
            break
        dims = tuple(flow.initializers[step.shift].dims)
        if groups.trace.values[y].rank == value.rank and _runs_along(dims, scale.axis, value.rank, size, flow, step):
            return Scale(scale.name, nodes, y, scale.axis, scale.scale, scale.divides, step.shift, step.sign)
        break
    return scale


def fit_scale(run: Run, scale: Scale) -> Fit:
    """New vectors, fitted channel by channel to what the dense model has there."""
    flow = run.pruned.flow
    nodes = frozenset(scale.nodes)
    pins = flow.needs(nodes) - run.pruned.pinned
    run.pruned.pinned |= pins
    run.pruned.compute([scale.y])
    run.dense.compute([scale.y])
    train, held = moments_of(run, scale)
    channels = train.x.shape[0]
    old = np.ones((channels, 1, 1))
    shift = np.zeros((channels, 1)) if scale.shift else None
    mode = run.mode if scale.scale else "bias"
    solution = solve(train, held, old, shift, "lsq" if mode == "channel" else mode, np.ones((channels, 1)))
    if solution.kind != "none":
        b = np.zeros(channels) if solution.bias is None else solution.bias[:, 0]
        vectors = {n: run.weight(n) for n in (scale.scale, scale.shift) if n}
        run.pruned.weights |= scaled(scale, vectors, solution.matrix[:, 0, 0], b)
        run.pruned.redo(nodes)
    run.pruned.pinned -= pins
    name = scale.scale or scale.shift
    return Fit(scale.name, name, solution.kind, solution.before, solution.after, solution.fitted, solution.strength)


def scaled(scale: Scale, vectors: Mapping[str, Array], a: Array, b: Array) -> dict[str, Array]:
    """Vectors that make a * y + b of y; a and b `(C,)`."""
    if scale.divides:
        a = np.copysign(np.maximum(np.abs(a), _LEAST), a)
    result = {}
    if scale.scale:
        old = vectors[scale.scale]
        factor = (1 / a if scale.divides else a).reshape(old.shape)
        result[scale.scale] = (old * factor).astype(old.dtype)
    if scale.shift:
        old = vectors[scale.shift]
        result[scale.shift] = (old * a.reshape(old.shape) + scale.sign * b.reshape(old.shape)).astype(old.dtype)
    return result


def moments_of(run: Run, scale: Scale) -> tuple[Moments, Moments]:
    """Moments of each channel before and after the removal, as groups of one tap."""
    kept = (kept_slices(run.values[scale.y], run.alive) or {}).get(scale.axis)
    form = Dense(scale.axis, False)
    channels = len(kept) if kept is not None else run.values[scale.y].sizes[scale.axis]
    limit = positions_of_each(channels, run.samples)
    rows = Rows(1, 1, groups=channels)
    for dense, pruned in run.computed():
        before, after = dense.get(scale.y), pruned.get(scale.y)
        before = before if kept is None else np.take(before, kept, axis=scale.axis)
        chosen = spread(form.positions(after), limit)
        own, wanted = (np.moveaxis(form.rows(t, chosen), 2, 3) for t in (after, before))
        rows.add(own, wanted, sides(run, pruned, after, chosen, form), whole=True)
    return rows.result()
