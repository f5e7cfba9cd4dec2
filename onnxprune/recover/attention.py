"""Values of attention: where heads or their dimensions went, what stays is fitted to the output of the whole.

For given probabilities P_h the output of attention is linear in X, and value and output projection are linear into each
other:

    y = sum_h (P_h X) V_h O_h + b

Features F_h = P_h X of the kept heads, block by block: B_h = H_hh^-1 (G_h - sum_{j != h} H_hj V_j O_j) is the best full map
of a head, its best approximation of rank d is the truncated SVD of L' B_h with H_hh = L L' (reduced-rank regression). A few
sweeps over the heads never make the fit worse.

Several query heads may read one head of values (grouped queries): V_g is then the leading part of all their maps side by
side, L' [B_1 .. B_n], and is improved by conjugate gradients for the outputs that follow from it.

Source: Izenman 1975, "Reduced-rank regression for the multivariate linear model", for one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, eigh, solve_triangular

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Dense, Linear
from onnxprune.statistics.moments import Moments

Array = NDArray[Any]
LARGEST = 4608  # features of all kept heads
_SWEEPS = 3
_STEPS = 3
_TURNS = 2  # of values and outputs, where several heads read the same values
_GRADIENTS = 4


@dataclass(frozen=True)
class Values:
    """The way of values through one attention, in terms of the pruned model.

    Attributes:
        value: the linear node that makes them.
        output: the linear node that reads what attention made of them.
        probabilities: tensor `(N, h, S, S')`.
        made: for each kept head of values the outputs of `value` that are its dimensions.
        read: for each kept head of queries the inputs of `output` that are its dimensions.
        owner: for each kept head of queries which head of values it reads.
        between: nodes behind `value` on the way to `output`.
        needs: tensors that those nodes read from elsewhere.
    """

    value: Linear
    output: Linear
    probabilities: str
    made: list[NDArray[np.intp]]
    read: list[NDArray[np.intp]]
    owner: tuple[int, ...]
    between: frozenset[int]
    needs: frozenset[str]


def find_values(flow: Flow, linears: list[Linear], groups: Groups, alive: Mask) -> list[Values]:
    """All attentions of the main graph that lost dimensions of their values.

    Args:
        flow: of the pruned model.
        linears: its linear nodes.
        groups: analysis of the source.
        alive: for each label whether it stays.
    """
    found = []
    values, of_label = groups.trace.values, groups.classes.of_label
    stays = np.zeros(groups.classes.count, np.bool_)
    stays[of_label[alive]] = True

    def last(name: str) -> NDArray[np.int32] | None:
        """Class of each channel on the last axis of a tensor."""
        value = values.get(name)
        f = value.field_on(2) if value is not None and value.shape is not None and value.rank == 3 else None
        return None if f is None or f.joint else of_label[f.labels]

    for k, node in enumerate(flow.nodes):
        if node.op_type != "MatMul" or not all(flow.varying[flow.producer[n]] for n in node.input if n in flow.producer):
            continue
        held = values.get(node.input[1])
        if held is None or held.shape is None or held.rank != 4 or node.input[0] not in flow.producer:
            continue
        f = held.field_on(1)
        if f is None or f.axes != (1, 3):
            continue
        cells = of_label[f.labels]
        rows, owner = np.unique(cells, axis=0, return_inverse=True)
        if stays[cells].all() or np.unique(rows).size < rows.size:
            continue
        value = next((x for x in linears if x.node < k and _covers(last(x.y), rows)), None)
        output = next((x for x in linears if x.node > k and _covers(last(x.x), cells, all_of_it=True)), None)
        if value is None or output is None or not _dense(value) or not _dense(output):
            continue
        made, read = _places(last(value.y), rows, stays), _in_order(last(output.x), cells, stays)
        if made is None or read is None:
            continue
        kept_rows = np.flatnonzero(stays[rows].any(axis=1))
        kept = stays[cells].any(axis=1)
        heads = tuple(int(i) for i in np.searchsorted(kept_rows, owner.ravel()[kept]))
        between = frozenset(flow.ancestors([output.x]) & _behind(flow, value.y))
        needs = frozenset(
            n
            for b in (*between, value.node)
            for n in flow.reads(b)
            if n in flow.inputs
            or (n in flow.producer and flow.varying[flow.producer[n]] and flow.producer[n] not in between)
        ) - {value.y}
        found.append(Values(value, output, node.input[0], made, read, heads, between | {value.node}, needs))
    return found


def _dense(linear: Linear) -> bool:
    return isinstance(linear.form, Dense) and linear.form.axis == -1


def _covers(own: NDArray[np.int32] | None, cells: Array, *, all_of_it: bool = False) -> bool:
    """Channels hold all cells, and nothing else if `all_of_it`."""
    return own is not None and bool(np.isin(cells, own).all()) and (not all_of_it or own.size == cells.size)


def _places(own: NDArray[np.int32] | None, cells: Array, stays: Mask) -> list[NDArray[np.intp]] | None:
    """Where the live dimensions of each live head are among the live channels; None where one is there twice."""
    if own is None or np.isin(own, cells).sum() != cells.size:
        return None
    order = {int(x): k for k, x in enumerate(own[stays[own]])}
    rows = [[order[int(x)] for x in row if stays[x]] for row in cells]
    return [np.array(row, np.intp) for row in rows if row]


def _in_order(own: NDArray[np.int32] | None, cells: Array, stays: Mask) -> list[NDArray[np.intp]] | None:
    """The same for channels that are the dimensions of all heads, of which several may be of the same labels."""
    if own is None or not np.array_equal(own, cells.ravel()):
        return _places(own, cells, stays)
    kept = stays[cells]
    places = np.where(kept, np.cumsum(kept.ravel()).reshape(kept.shape) - 1, -1)
    return [row[row >= 0].astype(np.intp) for row in places if (row >= 0).any()]


def _behind(flow: Flow, name: str) -> set[int]:
    found: set[int] = set()
    waiting = [name]
    while waiting:
        for k, _ in flow.readers.get(waiting.pop(), ()):
            if k not in found:
                found.add(k)
                waiting += flow.nodes[k].output
    return found


def features(probabilities: Array, x: Array, chosen: Array) -> Array:
    """`(N, P, h * C)` of probabilities `(N, h, S, S')` and inputs `(N, S', C)`, at chosen positions S."""
    made = probabilities[:, :, chosen] @ x[:, None]
    return np.ascontiguousarray(made.transpose(0, 2, 1, 3)).reshape(len(x), len(chosen), -1)


@dataclass
class Factors:
    """Projections: `(C, d)` of each head of values, `(d, M)` of each head of queries, and which of the former those read."""

    value: list[Array]
    output: list[Array]
    owner: Sequence[int]

    @property
    def each(self) -> list[Array]:
        """Values of each head of queries."""
        return [self.value[g] for g in self.owner]

    @property
    def products(self) -> list[Array]:
        """`(C, M)` of each head of queries."""
        return [v @ o for v, o in zip(self.each, self.output, strict=True)]

    @property
    def product(self) -> Array:
        """`(h * C, M)`."""
        return np.concatenate(self.products)


def fit_values(
    train: Moments, held: Moments, start: Factors, biased: bool, strength: float = 1e-2
) -> tuple[Factors, float, float]:
    """Better factors, and the loss on held-out rows with the old values and with the new ones (best outputs in both).

    Args:
        train: moments of features and target.
        held: the same of rows that judge.
        start: what is there.
        biased: the output has a bias, so that moments are taken about their means.
        strength: of the ridge, as in `onnxprune.recover.solve`.
    """
    h, g, judge_h, judge_g, yy = _raw(train, held, biased)
    ridge = strength * float(np.trace(h)) / len(h)
    h = h + ridge * np.eye(len(h))
    g = g + ridge * start.product
    c = start.value[0].shape[0]
    blocks = [slice(k * c, (k + 1) * c) for k in range(len(start.output))]
    groups = [[k for k, g in enumerate(start.owner) if g == v] for v in range(len(start.value))]

    def loss(f: Factors) -> float:
        p = f.product
        return float((yy - 2 * np.einsum("km,km->m", p, judge_g) + np.einsum("km,km->m", p, judge_h @ p)).sum() / yy.sum())

    best = _outputs(h, g, start, blocks)
    before = loss(best)
    roots = [cholesky(sum(h[blocks[k], blocks[k]] for k in heads), lower=True, check_finite=False) for heads in groups]
    current = best
    for sweep in range(_SWEEPS):
        value, output, products = list(current.value), list(current.output), current.products
        reached = h @ np.concatenate(products)
        for v, heads in enumerate(groups):
            rows = np.concatenate([np.arange(blocks[k].start, blocks[k].stop) for k in heads])
            own = h[np.ix_(rows, rows)]
            right = g[rows] - reached[rows] + own @ np.concatenate([products[k] for k in heads])
            if len(heads) == 1:
                k = heads[0]
                whitened = solve_triangular(roots[v], right, lower=True, check_finite=False)  # L' B = L^-1 R
                u = _leading(whitened, whitened @ output[k].T)
                value[v] = solve_triangular(roots[v], u, lower=True, trans="T", check_finite=False)
                output[k] = u.T @ whitened
            else:
                first = value[v] if sweep else _common(own, right, roots[v], value[v].shape[1])
                value[v], outs = _shared_value(own, right, first, roots[v])
                for k, o in zip(heads, outs, strict=True):
                    output[k] = o
            for k in heads:
                new = value[v] @ output[k]
                reached += h[:, blocks[k]] @ (new - products[k])
                products[k] = new
        current = _outputs(h, g, Factors(value, output, start.owner), blocks)
    after = loss(current)
    return (current, before, after) if after < before else (best, before, before)


def _leading(matrix: Array, start: Array) -> Array:
    """The leading left singular vectors `(C, d)` by subspace iteration from a guess of theirs."""
    for _ in range(_STEPS):
        start, _ = np.linalg.qr(matrix @ (matrix.T @ start))
    return start


def _common(h: Array, right: Array, root: Array, rank: int) -> Array:
    """Values `(C, d)` for several heads: the leading part of their best full maps, side by side."""
    maps = cho_solve(cho_factor(h, lower=True, check_finite=False), right, check_finite=False)
    c = len(root)
    side_by_side = np.concatenate([root.T @ maps[k : k + c] for k in range(0, len(maps), c)], axis=1)
    _, u = eigh(side_by_side @ side_by_side.T, subset_by_index=(c - rank, c - 1))
    return np.asarray(solve_triangular(root, u, lower=True, trans="T", check_finite=False))


def _shared_value(h: Array, right: Array, value: Array, root: Array) -> tuple[Array, list[Array]]:
    """Values that several heads read, and their outputs: the best ones in turn.

    For given outputs O_j the values solve sum_jk H_jk V O_k O_j' = sum_j R_j O_j', which conjugate gradients do with a few
    products, preconditioned by (sum_j H_jj)^-1 V (sum_j O_j O_j')^-1.
    """
    c = len(root)
    blocks = [slice(k, k + c) for k in range(0, len(h), c)]
    for _ in range(_TURNS):
        output = _outputs(h, right, Factors([value], [right] * len(blocks), [0] * len(blocks)), blocks).output
        squares = np.sum([o @ o.T for o in output], axis=0)
        squares += (1e-9 * np.trace(squares) / len(squares) + 1e-30) * np.eye(len(squares))

        def applied(v: Array, output: list[Array] = output) -> Array:
            reached = h @ np.concatenate([v @ o for o in output])
            return np.asarray(sum(reached[b] @ o.T for b, o in zip(blocks, output, strict=True)))

        def eased(r: Array, squares: Array = squares) -> Array:
            return np.asarray(np.linalg.solve(squares, cho_solve((root, True), r, check_finite=False).T).T)

        rest = sum(right[b] @ o.T for b, o in zip(blocks, output, strict=True)) - applied(value)
        step = ready = eased(rest)
        size = float((rest * ready).sum())
        for _ in range(_GRADIENTS):
            if size <= 0:
                break
            turned = applied(step)
            length = size / max(float((step * turned).sum()), 1e-300)
            value = value + length * step
            rest = rest - length * turned
            ready = eased(rest)
            size, last = float((rest * ready).sum()), size
            step = ready + size / last * step
    return value, _outputs(h, right, Factors([value], [right] * len(blocks), [0] * len(blocks)), blocks).output


def _outputs(h: Array, g: Array, factors: Factors, blocks: list[slice]) -> Factors:
    """The best outputs for given values."""
    value = factors.each
    hv = np.concatenate([h[:, b] @ v for b, v in zip(blocks, value, strict=True)], axis=1)
    inner = np.concatenate([v.T @ hv[b] for b, v in zip(blocks, value, strict=True)])
    right = np.concatenate([v.T @ g[b] for b, v in zip(blocks, value, strict=True)])
    inner[np.diag_indices(len(inner))] += 1e-9 * np.trace(inner) / len(inner) + 1e-30
    solved = cho_solve(cho_factor(inner, lower=True, check_finite=False), right)
    bounds = np.cumsum([0, *[v.shape[1] for v in value]])
    return Factors(factors.value, [solved[bounds[k] : bounds[k + 1]] for k in range(len(value))], factors.owner)


def _raw(train: Moments, held: Moments, biased: bool) -> tuple[Array, Array, Array, Array, Array]:
    judge = held if held.rows else train
    result = []
    for m in (train, judge):
        xx, xy, yy = m.xx[0], m.xy[0], m.yy[0]
        if not biased:
            xx = xx + m.rows * np.outer(m.x[0], m.x[0])
            xy = xy + m.rows * np.outer(m.x[0], m.y[0])
            yy = yy + m.rows * m.y[0] ** 2
        result.append((xx / m.rows, xy / m.rows, yy / m.rows))
    (h, g, _), (judge_h, judge_g, yy) = result
    return h, g, judge_h, judge_g, yy
