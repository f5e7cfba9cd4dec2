"""LSTM, GRU and RNN: back through time, direction by direction.

Source: ONNX operator specification, LSTM, GRU and RNN (equations of the default activations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from scipy.special import expit

from onnxprune.gradient.registry import Array, Gradients, Step, derivative

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _plain(node: onnx.NodeProto, attrs: Mapping[str, Any]) -> bool:
    """Default activations, all steps, time first, no clipping, no peepholes, no coupled gates."""
    if any(attrs.get(name) for name in ("activations", "clip", "input_forget", "layout")):
        return False
    return not any(node.input[k] for k in (4, 7) if k < len(node.input))


@dataclass
class _Run:
    """One direction, with time in the order in which it runs.

    Attributes:
        read: what W makes of the inputs, biases of W included `(T, N, gates * H)`.
        r: `(gates, H, H)`.
        rb: biases of R `(gates, H)`.
        h0: initial state `(N, H)`.
        c0: initial cell of an LSTM.
        dh: gradients of the states `(T, N, H)`.
        dc: of the last cell `(N, H)`.
        reset_first: a GRU resets the state before R reads it.
    """

    read: Array
    r: Array
    rb: Array
    h0: Array
    c0: Array
    dh: Array
    dc: Array
    reset_first: bool

    def gate(self, t: int, k: int) -> Array:
        """What gate k gets from the input of step t."""
        hidden = self.h0.shape[1]
        return np.asarray(self.read[t, :, k * hidden : (k + 1) * hidden])

    @property
    def steps(self) -> int:
        """T."""
        return len(self.read)


@dataclass
class _Back:
    """Gradients of one direction.

    Attributes:
        read: `(T, N, gates * H)`.
        h0: `(N, H)`.
        c0: `(N, H)`.
        product: gradient of each column of R times the column, by sample `(N, H)`.
    """

    read: Array
    h0: Array
    c0: Array
    product: Array


@derivative("LSTM", "GRU", "RNN", inputs=[0, 2, 5, 6], when=_plain)
def recurrent(step: Step) -> Gradients:
    """Gradients of X `(T, N, I)` and of the initial states; for R the products of each sample, see `Step.products`."""
    x, w, r = step.need(0), step.need(1), step.need(2)
    count, (directions, _, hidden), n = _GATES[step.node.op_type], r.shape, x.shape[1]
    bias = step.given(3)
    bias = np.zeros((directions, 2 * count * hidden), x.dtype) if bias is None else bias
    empty = np.zeros((directions, n, hidden), x.dtype)
    h0, c0 = (empty if s is None else s for s in (step.given(5), step.given(6)))
    dy, dh_last, dc_last = (step.dy[k] if k < len(step.dy) else None for k in range(3))
    dx, starts, products = np.zeros_like(x), (np.zeros_like(empty), np.zeros_like(empty)), np.zeros((n, directions, hidden))
    for d in range(directions):
        turn = slice(None, None, -1 if d == 1 or step.attrs.get("direction") == "reverse" else 1)
        wb, rb = np.split(bias[d], 2)
        dh = np.zeros((len(x), n, hidden), x.dtype) if dy is None else dy[turn, d].copy()
        if dh_last is not None:
            dh[-1] += dh_last[d]
        dc = np.zeros_like(empty[d]) if dc_last is None else dc_last[d]
        first = not step.attrs.get("linear_before_reset", 0)
        parts = r[d].reshape(count, hidden, hidden), rb.reshape(count, hidden)
        back = _BACK[step.node.op_type](_Run(x[turn] @ w[d].T + wb, *parts, h0[d], c0[d], dh, dc, first))
        dx[turn] += back.read @ w[d]
        starts[0][d], starts[1][d], products[:, d] = back.h0, back.c0, back.product
    step.products[2] = products
    return {0: dx, 5: starts[0], 6: starts[1]}


def _rnn(run: _Run) -> _Back:
    h = [run.h0]
    for t in range(run.steps):
        h.append(np.tanh(run.gate(t, 0) + h[-1] @ run.r[0].T + run.rb[0]))
    read, product, d = np.zeros_like(run.read), np.zeros_like(run.h0), np.zeros_like(run.h0)
    for t in reversed(range(run.steps)):
        read[t] = (d + run.dh[t]) * (1 - h[t + 1] ** 2)
        d = read[t] @ run.r[0]
        product += h[t] * d
    return _Back(read, d, np.zeros_like(d), product)


def _gru(run: _Run) -> _Back:
    h, seen = [run.h0], []
    for t in range(run.steps):
        z, r = (expit(run.gate(t, k) + h[-1] @ run.r[k].T + run.rb[k]) for k in (0, 1))
        own = (r * h[-1] if run.reset_first else h[-1]) @ run.r[2].T + run.rb[2]
        new = np.tanh(run.gate(t, 2) + (own if run.reset_first else r * own))
        seen.append((z, r, own, new))
        h.append((1 - z) * new + z * h[-1])
    read, product, d = np.zeros_like(run.read), np.zeros_like(run.h0), np.zeros_like(run.h0)
    for t in reversed(range(run.steps)):
        z, r, own, new = seen[t]
        d = d + run.dh[t]
        dnew = d * (1 - z) * (1 - new**2)
        dz = d * (h[t] - new) * z * (1 - z)
        back = (dnew if run.reset_first else dnew * r) @ run.r[2]
        dr = (back * h[t] if run.reset_first else dnew * own) * r * (1 - r)
        through = dz @ run.r[0] + dr @ run.r[1] + (back * r if run.reset_first else back)
        read[t] = np.concatenate([dz, dr, dnew], axis=1)
        product += h[t] * through
        d = d * z + through
    return _Back(read, d, np.zeros_like(d), product)


def _lstm(run: _Run) -> _Back:
    h, c, seen = [run.h0], [run.c0], []
    for t in range(run.steps):
        i, o, f = (expit(run.gate(t, k) + h[-1] @ run.r[k].T + run.rb[k]) for k in range(3))
        new = np.tanh(run.gate(t, 3) + h[-1] @ run.r[3].T + run.rb[3])
        c.append(f * c[-1] + i * new)
        seen.append((i, o, f, new, np.tanh(c[-1])))
        h.append(o * seen[-1][-1])
    read, product, d, dc = np.zeros_like(run.read), np.zeros_like(run.h0), np.zeros_like(run.h0), run.dc
    for t in reversed(range(run.steps)):
        i, o, f, new, bent = seen[t]
        d = d + run.dh[t]
        dc = dc + d * o * (1 - bent**2)
        parts = [dc * new * i * (1 - i), d * bent * o * (1 - o), dc * c[t] * f * (1 - f), dc * i * (1 - new**2)]
        read[t] = np.concatenate(parts, axis=1)
        d = np.asarray(sum(p @ run.r[k] for k, p in enumerate(parts)))
        product += h[t] * d
        dc = dc * f
    return _Back(read, d, dc, product)


_BACK: dict[str, Callable[[_Run], _Back]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
