"""Recurrent networks: a hidden unit is one slice of every gate, of the recurrence and of the state."""

from __future__ import annotations

import numpy as np

from onnxprune.trace.labels import Field, Labels
from onnxprune.trace.op import Op
from onnxprune.trace.registry import layout, rule
from onnxprune.trace.value import Value

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_WEIGHT_AXES = {1: (1,), 2: (1, 2), 3: (1,), 7: (1,)}


@layout("LSTM", "GRU", "RNN")
def per_direction(attrs: dict[str, object], i: int, shape: tuple[int, ...]) -> dict[int, int]:
    """Each direction has hidden units of its own."""
    return {axis: shape[0] for axis in _WEIGHT_AXES.get(i, ()) if shape[0] > 1}


def _units(op: Op, value: Value, axis: int) -> Labels | None:
    """Labels `(directions, size)` of a weight's axis."""
    if axis in value.blocked:
        return value.blocked[axis]
    f = value.field_on(axis)
    if f is not None and f.axes == (0, axis):
        return f.labels
    labels = op.alone(value, axis)
    return None if labels is None else np.broadcast_to(labels, (value.sizes[0], labels.size))


@rule("LSTM", "GRU", "RNN")
def recurrent(op: Op) -> None:
    """X (T, B, I), W (D, gates * H, I), R (D, gates * H, H), B (D, 2 * gates * H), states (D, B, H), P (D, 3 * H)."""
    x, w, r = op.need(0), op.need(1), op.need(2)
    gates = _GATES[op.node.op]
    for axis in (0, 1):
        op.freeze_axis(x, axis)
    read, own = op.alone(x, 2), op.alone(w, 2)
    if own is not None:
        op.tie_axis(x, 2, own, "")
    elif read is not None:
        op.freeze_axis(x, 2, f"{op.what} reads it with weights that can't shrink")
    cells = [_units(op, w, 1), _units(op, r, 1), _units(op, r, 2)]
    counts = [gates, gates, 1]
    for i, count in ((3, 2 * gates), (7, 3)):
        value = op.given(i)
        if value is not None:
            cells.append(_units(op, value, 1))
            counts.append(count)
    if any(c is None for c in cells):
        for i in (1, 2, 3, 5, 6, 7):
            op.freeze(op.given(i), f"{op.what} has weights that can't shrink")
        return
    directions = w.sizes[0]
    split = [c.reshape(directions, n, -1) for c, n in zip(cells, counts, strict=True) if c is not None]
    hidden = np.ascontiguousarray(split[2][:, 0])
    for part in split:
        op.space.tie(part, hidden[:, None])
    zero = _states(op, hidden) and "activations" not in op.node.attrs
    op.count("hidden_size", None, hidden, 1)
    _outputs(op, hidden, zero)


def _states(op: Op, hidden: Labels) -> bool:
    """Ties the initial states; True where they are 0 for a removed unit."""
    zero = True
    batch_first = bool(op.attr("layout", 0))
    for i in (5, 6):
        state = op.given(i)
        if state is None or (i == 6 and op.node.op != "LSTM"):
            continue
        direction = 1 if batch_first else 0
        op.freeze_axis(state, 1 - direction)
        f = state.field_on(2)
        if f is None:
            op.space.freeze(hidden, f"{op.what} starts from {state.reason(2)}")
        elif f.axes == (direction, 2):
            op.space.tie(f.labels, hidden)
        else:
            op.space.tie(np.broadcast_to(op.space.separate(f, 2), hidden.shape), hidden)
        constant_zero = state.constant and f is not None and f.zero
        zero = zero and (constant_zero or bool(f and f.zero))
    return zero


def _outputs(op: Op, hidden: Labels, zero: bool) -> None:
    """Y (T, D, B, H), Y_h and Y_c (D, B, H); batch first with layout 1."""
    batch_first = bool(op.attr("layout", 0))
    directions = hidden.shape[0]
    for k, out in enumerate(op.outs):
        if not out.name:
            continue
        direction, last = (1, 3) if k == 0 else (0, 2)
        if batch_first:
            direction = 2 if k == 0 else 1
        if directions == 1:
            out.fields = [Field((last,), hidden[0], zero)]
            continue
        f = Field((direction, last), hidden, zero)
        op.space.freeze(op.space.separate(f, direction), f"{op.what} runs in both directions")
        out.fields = [f]
