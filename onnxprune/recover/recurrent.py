"""Recurrent nodes: weights of input and recurrence are fitted to what went into the gates of the dense model.

What goes into a gate is linear in x_t and h_{t-1}, so the rows of all steps and samples make one regression for each
direction, without any recurrence. The first fit reads the hidden states of the dense model, sliced to the units that stay
(teacher forcing); the next ones those of the pruned model as it runs with the weights so far, so that errors which build up
over time are made up for. The judge is the node itself: its hidden states on held-out samples, run with the new weights.

The candidate gate of a GRU reads r * h_{t-1}, or it has the reset gate behind R (`linear_before_reset`): then R is fitted to
R h first, and W to what is missing behind the reset gate.

Source: Williams & Zipser 1989, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks" (teacher
forcing); Ross et al. 2011, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning"
(states of the model's own run).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.special import expit

from onnxprune.calibrate.batch import Batch, batch_size
from onnxprune.recover.fit import Fit
from onnxprune.recover.rows import Rows
from onnxprune.recover.run import Run
from onnxprune.recover.solve import Mode, solve
from onnxprune.statistics.positions import judging, positions_of_each, spread
from onnxprune.statistics.recurrent import GATES, Recurrent, before, find_recurrent, hidden_labels
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]
LARGEST = 4608  # inputs and hidden units
_ROUNDS = 5


@dataclass(frozen=True)
class _Part:
    """Gates that read the same rows: x, h or both; `reset`: h times the reset gate."""

    gates: tuple[int, ...]
    x: bool = True
    h: bool = True
    reset: bool = False


_PARTS = {
    "RNN": [_Part((0,))],
    "LSTM": [_Part((0, 1, 2, 3))],
    "GRU": [_Part((0, 1)), _Part((2,), reset=True)],
    "GRU inside": [_Part((0, 1)), _Part((2,), x=False), _Part((2,), h=False)],
}


@dataclass
class _Weights:
    """W `(D, gates, H, I)`, R `(D, gates, H, H')`, B `(D, 2, gates, H)` or None, in float64."""

    w: Array
    r: Array
    b: Array | None

    def copy(self) -> _Weights:
        """Arrays of its own."""
        return _Weights(self.w.copy(), self.r.copy(), None if self.b is None else self.b.copy())

    def matrix(self, part: _Part) -> Array:
        """`(D, K, M)` of some gates."""
        held = [a for a, used in ((self.w, part.x), (self.r, part.h)) if used]
        rows = np.concatenate(held, axis=3)[:, list(part.gates)]
        return np.ascontiguousarray(rows.reshape(len(rows), -1, rows.shape[3]).transpose(0, 2, 1))

    def put(self, part: _Part, matrix: Array, shift: Array | None) -> None:
        """Changes some gates: `(D, K, M)`, and what is added to their biases `(D, M)`."""
        d, _, hidden, inputs = self.w.shape
        rows = matrix.transpose(0, 2, 1).reshape(d, len(part.gates), hidden, -1)
        if part.x:
            self.w[:, list(part.gates)] = rows[..., :inputs]
        if part.h:
            self.r[:, list(part.gates)] = rows[..., inputs if part.x else 0 :]
        if self.b is not None and shift is not None:
            self.b[:, 0 if part.x else 1, list(part.gates)] += shift.reshape(d, -1, hidden)

    def reset(self, x: Array, h: Array) -> Array:
        """The reset gate `(T, N, D, H)` of a GRU."""
        into = np.einsum("tni,dhi->tndh", x, self.w[:, 1], optimize=True)
        into += np.einsum("tndk,dhk->tndh", h, self.r[:, 1], optimize=True)
        return np.asarray(expit(into if self.b is None else into + self.b[:, :, 1].sum(axis=1)))

    def inside(self, x: Array, h: Array) -> Array:
        """What the candidate gets through the reset gate `(T, N, D, H)`."""
        into = np.einsum("tndk,dhk->tndh", h, self.r[:, 2], optimize=True)
        return np.asarray(self.reset(x, h) * (into if self.b is None else into + self.b[:, 1, 2]))


def _stored(stream: Stream, name: str) -> Array:
    """A stored tensor as it is by now."""
    changed = stream.weights.get(name)
    return numpy_helper.to_array(stream.flow.initializers[name]) if changed is None else changed


@dataclass
class _Step:
    """Rows of one batch of both models: inputs `(T, N, I)`, states before `(T, N, D, H)`; which fit, and which judge."""

    x: tuple[Array, Array]
    h: tuple[Array, Array]
    sides: NDArray[np.bool_]


def fit_recurrent(run: Run, node: Recurrent) -> Fit:
    """Fits W, R and B of a recurrent node; keeps them where held-out hidden states come closer to the dense ones."""
    fitting = _Fitting(run, node)
    reason = fitting.refused()
    return Fit(node.name, node.weight, "none", reason=reason) if reason else fitting.fit()


class _Fitting:
    def __init__(self, run: Run, node: Recurrent) -> None:
        self.run, self.node = run, node
        self.parts = _PARTS["GRU inside" if node.op == "GRU" and node.inside else node.op]
        found = (x for x in find_recurrent(run.dense.flow) if isinstance(x, Recurrent) and x.y == node.y)
        self.whole = next(found, None)
        self.names = [n for n in (node.x, node.y, node.state, node.lengths) if n]

    def refused(self) -> str:
        """Why it can't be fitted; empty where it can."""
        inputs, hidden = (self.node.held[n].index.shape[2] for n in (self.node.w, self.node.r))
        if self.whole is None:
            return "its weights are put together in another way in the whole model"
        return f"{inputs + hidden} inputs and hidden units are too many" if inputs + hidden > LARGEST else ""

    def fit(self) -> Fit:
        """Rounds of regression; the best by the node's own output stays."""
        run, node = self.run, self.node
        new_pins = {n for n in self.names if n != node.y} - run.pruned.pinned
        run.pruned.pinned |= new_pins
        run.dense.compute(self.names)
        run.pruned.compute(self.names)
        assert self.whole is not None
        self.dense = self.read(run.dense, self.whole)
        self.kept = self.kept_units()
        old = self.read(run.pruned, node)
        best, first = old, self.losses()
        lost = first
        current, kind, strength = old.copy(), "none", 0.0
        for k in range(_ROUNDS):
            found = self.regress(old, current, forced=k == 0)
            self.write(current)
            now = self.losses()
            if not now[0] < lost[0]:
                break
            done = now[0] > 0.99 * lost[0]
            best, lost, kind, strength = current.copy(), now, *found
            if done:
                break
        self.write(best)
        run.pruned.pinned -= new_pins
        run.pruned.compute([node.y])
        return Fit(node.name, node.weight, kind, first[0], lost[0], lost[1], strength)

    def read(self, stream: Stream, node: Recurrent) -> _Weights:
        """The weights of a model."""

        def get(name: str) -> Array:
            return np.asarray(node.held[name].read(partial(_stored, stream)), np.float64)

        w, r = get(node.w), get(node.r)
        gates = GATES[node.op]
        b = get(node.b).reshape(len(w), 2, gates, -1) if node.b in self.node.held and node.b in node.held else None
        return _Weights(w.reshape(len(w), gates, -1, w.shape[2]), r.reshape(len(r), gates, -1, r.shape[2]), b)

    def write(self, weights: _Weights) -> None:
        """Runs the node of the pruned model with other weights."""
        stream, node = self.run.pruned, self.node
        for name, array in ((node.w, weights.w), (node.r, weights.r), (node.b, weights.b)):
            if array is not None and name:
                stream.weights |= node.held[name].write(array, partial(_stored, stream))
        stream.redo({node.node, *stream.flow.ancestors([node.w, node.r, *([node.b] if node.b else [])])})
        stream.compute(self.names)

    def kept_units(self) -> list[Array]:
        """Hidden units that stay, of each direction."""
        labels = hidden_labels(self.node, self.run.groups.trace)
        if labels is None:
            return [np.arange(self.dense.r.shape[3])] * len(self.node.backward)
        return [np.flatnonzero(self.run.alive[row]) for row in labels]

    def sliced(self, array: Array) -> Array:
        """Units that stay, of `(..., D, N, H)`."""
        return np.stack([array[..., d, :, :][..., kept] for d, kept in enumerate(self.kept)], axis=-3)

    def batches(self, forced: bool) -> Iterator[_Step]:
        """Rows of all batches; `forced`: the pruned model's hidden states are those of the dense one."""
        run, node = self.run, self.node
        limit = positions_of_each(self.dense.w.shape[3] + self.dense.r.shape[3], run.samples)
        for b, batch in enumerate(run.samples.batches):
            whole, cut = ({n: s.get(n, b, batch.feeds) for n in self.names} for s in (run.dense, run.pruned))
            lengths = whole.get(node.lengths)
            state = whole.get(node.state)
            y = whole[node.y]
            h = before(y, state, lengths, node.backward)
            if forced:
                start = None if state is None else self.sliced(state)
                own = before(self.sliced(y), start, lengths, node.backward)
            else:
                own = before(cut[node.y], cut.get(node.state), lengths, node.backward)
            chosen = spread(len(y), limit)
            sides = self.sides(batch, b, y.shape[0], y.shape[2], lengths)
            yield _Step((whole[node.x][chosen], cut[node.x][chosen]), (h[chosen], own[chosen]), sides[:, chosen])

    def sides(self, batch: Batch, b: int, steps: int, n: int, lengths: Array | None) -> NDArray[np.bool_]:
        """Which rows fit, and which judge `(2, T, N)`."""
        size = batch_size(batch)
        judged = judging(self.run.judges[b], n)
        counted = np.ones((steps, n), np.bool_)
        if n % size == 0:
            counted[:, batch.count * (n // size) :] = False
        if lengths is not None:
            counted &= np.arange(steps)[:, None] < lengths
        mask = batch.feeds.get(self.run.samples.mask or "")
        if mask is not None and mask.shape == (n, steps):
            counted &= mask.T != 0
        return np.stack([counted & ~judged, counted & judged])

    def regress(self, old: _Weights, current: _Weights, *, forced: bool) -> tuple[str, float]:
        """Fits all gates, part by part, into `current`; returns how."""
        mode: Mode = "lsq" if self.run.mode == "channel" else self.run.mode
        kind: Mode = "none"
        strength = 0.0
        fresh = old.copy()
        for part in self.parts:
            whole = self.dense.matrix(part)
            target = self.columns(whole, len(part.gates))
            matrix = old.matrix(part)
            rows = Rows(matrix.shape[1], matrix.shape[2], groups=len(matrix), name=self.node.x)
            for step in self.batches(forced):
                own = self.rows(part, step.x[1], step.h[1], fresh if forced else current)
                into = self.rows(part, step.x[0], step.h[0], self.dense)
                wanted = np.einsum("tndk,dkm->tndm", into, target, optimize=True)
                if not part.h:  # what comes through the reset gate is fitted already: the input makes up for the rest
                    inner = self.sliced(self.dense.inside(step.x[0], step.h[0]).swapaxes(1, 2)).swapaxes(1, 2)
                    wanted = wanted + (inner - fresh.inside(step.x[1], step.h[1]))
                rows.add(own, wanted, step.sides, whole=True)
            train, held = rows.result()
            bias = None if old.b is None else np.zeros((len(matrix), matrix.shape[2]))
            found = solve(train, held, matrix, bias, mode, np.ones((len(matrix), matrix.shape[2])))
            fresh.put(part, found.matrix, found.bias)
            kind, strength = max(kind, found.kind, key=get_args(Mode).index), max(strength, found.strength)
        current.w, current.r, current.b = fresh.w, fresh.r, fresh.b
        return kind, strength

    def rows(self, part: _Part, x: Array, h: Array, weights: _Weights) -> Array:
        """What the gates of a part read `(T, N, D, K)`."""
        x, h = x.astype(np.float64), h.astype(np.float64)
        if part.reset:
            h = h * weights.reset(x, h)
        wide = np.broadcast_to(x[:, :, None], (*h.shape[:3], x.shape[2]))
        return np.concatenate([a for a, used in ((wide, part.x), (h, part.h)) if used], axis=3)

    def columns(self, matrix: Array, gates: int) -> Array:
        """Outputs of the units that stay, of `(D, K, gates * H)`."""
        d, k, _ = matrix.shape
        split = matrix.reshape(d, k, gates, -1)
        return np.stack([part[:, :, kept].reshape(k, -1) for part, kept in zip(split, self.kept, strict=True)])

    def losses(self) -> tuple[float, float]:
        """Share of the variance of the dense hidden states that is lost: on held-out samples, and on all."""
        run, node = self.run, self.node
        lost, total = np.zeros(2), np.zeros(2)
        rows, mean = 0, 0.0
        for b, batch in enumerate(run.samples.batches):
            whole = self.sliced(np.asarray(run.dense.get(node.y, b, batch.feeds), np.float64)).transpose(0, 2, 1, 3)
            cut = np.asarray(run.pruned.get(node.y, b, batch.feeds), np.float64).transpose(0, 2, 1, 3)
            lengths = run.dense.get(node.lengths, b, batch.feeds) if node.lengths else None
            train, held = self.sides(batch, b, len(cut), cut.shape[1], lengths)
            for k, use in enumerate((held, train | held)):
                lost[k] += ((whole - cut)[use] ** 2).sum()
                total[k] += (whole[use] ** 2).sum()
            use = train | held
            mean = mean + whole[use].sum(axis=0)
            rows += int(use.sum())
        if rows:  # variance, not power: taken about the mean of all rows
            total = total * (1 - (np.square(mean / rows).sum() * rows) / max(total[1], 1e-300))
        if not lost[0] and not total[0]:
            lost[0], total[0] = lost[1], total[1]
        share = np.divide(lost, total, out=np.zeros(2), where=total > 0)
        return (float(share[0]) if np.isfinite(share[0]) else np.inf, float(share[1]))
