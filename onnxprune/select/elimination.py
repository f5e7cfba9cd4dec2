"""Greedy elimination: the elements of a group go one by one, and those that stay make up for what is lost.

For a tensor with channel covariance S, read by weights W (a row per channel), a removal of the channels g costs

    tr(W_g' (P_gg)^-1 W_g)        P = (S + l I)^-1,  l = 1e-2 * mean diag(S)

in output variance once the best linear compensation is in (and the mean is in the bias). Then

    P -= P_:g P_gg^-1 P_g:        W -= P_:g P_gg^-1 W_g

With R rows of C channels S is drawn towards its diagonal by (C / R)^2, at most all the way.

Only M = W W' is ever needed, so the width of the readers does not matter. Columns of P and M are brought up to date when
they are needed, the matrices themselves by one product per `_DELAY` channels: all of it is matrix products and O(C) steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, lapack

from onnxprune.groups.classes import Classes, Ids, Mask
from onnxprune.groups.group import Group
from onnxprune.select.context import Curve, Floats
from onnxprune.statistics.shrinkage import shrunk
from onnxprune.statistics.threads import for_factors

if TYPE_CHECKING:
    from onnxprune.statistics.channels import ChannelStatistics

DAMPING = 1e-2
_DELAY = 64
_TINY = 1e-30


@dataclass(frozen=True)
class Elimination:
    """The order in which the elements of a group go.

    Attributes:
        scores: per bucket the cost at which each element goes, made strictly ascending in the order in which they do.
        known: per bucket which elements have channels in any statistics; the scores of the others are 0.
        curve: None where nothing is known.
    """

    scores: list[Floats]
    known: list[Mask]
    curve: Curve | None


def eliminate(group: Group, statistics: Sequence[ChannelStatistics], classes: Classes) -> Elimination:
    """Removes elements by least cost, one of each bucket per round, until none is left.

    Args:
        group: whose elements compete, bucket by bucket.
        statistics: of tensors; those that carry none of the group's channels are passed over.
        classes: of the labels.
    """
    bounds = np.cumsum([0, *[len(bucket) for bucket in group.buckets]])
    owner = np.full(classes.count, -1, np.int64)
    for k, unit in enumerate(unit for bucket in group.buckets for unit in bucket):
        owner[unit] = k
    owners = [np.where(s.labels >= 0, owner[classes.of_label[s.labels]], -1) for s in statistics]
    seen = [(s, own) for s, own in zip(statistics, owners, strict=True) if (own >= 0).any()]
    with for_factors(max((s.labels.size for s, _ in seen), default=0)):
        tensors = [_Tensor(s, own, int(bounds[-1])) for s, own in seen]
        known = np.zeros(bounds[-1], np.bool_)
        for tensor in tensors:
            known[tensor.elements] = True
        scores, cost = _run([slice(a, b) for a, b in pairwise(bounds)], known, tensors)
    cost = np.pad(cost, (0, max(group.units - cost.size, 0)), mode="edge")[: group.units]
    curve = Curve(group.id, cost, sum(t.total for t in tensors), float(known.mean())) if tensors else None
    return Elimination(np.split(scores, bounds[1:-1]), np.split(known, bounds[1:-1]), curve)


def _run(buckets: Sequence[slice], known: Mask, tensors: Sequence[_Tensor]) -> tuple[Floats, Floats]:
    """Scores of all elements, and what is lost after 0, 1, 2 ... rounds."""
    left = known.copy()
    scores = np.zeros(known.size)
    last = [-np.inf] * len(buckets)
    lost = [0.0]
    while left.any():
        lost.append(lost[-1])
        for b, bucket in enumerate(buckets):
            if not left[bucket].any():
                continue
            costs = sum((t.costs() for t in tensors), np.zeros(known.size))
            costs[~left] = np.inf
            k = bucket.start + int(costs[bucket].argmin())
            cost = max(float(costs[k]), 0.0)
            last[b] = max(cost, float(np.nextafter(last[b], np.inf)))
            scores[k] = last[b]
            lost[-1] += cost
            left[k] = False
            for t in tensors:
                t.remove(k)
    return scores, np.array(lost)


class _Tensor:
    """P and M of one tensor, its channels in the order of the elements: `size` of them for each element.

    Elements with fewer channels are filled up with independent ones that nothing reads.

    Attributes:
        elements: those that are still there.
        total: output variance of the readers.
    """

    def __init__(self, s: ChannelStatistics, owner: Ids, count: int) -> None:
        channels = s.labels.size
        covariance = np.asarray(s.covariance, np.float64)
        gram = np.zeros((channels, channels))
        for w in s.weights:
            gram += w @ w.T
        self.total = float(max((covariance * gram).sum(), 0.0))
        covariance = shrunk(covariance, s.rows)
        scale = max(float(np.diagonal(covariance).mean()), _TINY)
        precision = _inverse(covariance / scale + DAMPING * np.eye(channels))
        self.elements, counts = np.unique(owner[owner >= 0], return_counts=True)
        self.count, self.size = count, int(counts.max())
        order = np.argsort(owner, kind="stable")[(owner < 0).sum() :]
        place = np.concatenate([k * self.size + np.arange(n) for k, n in enumerate(counts)])
        total = self.elements.size * self.size
        self.p, self.m = np.eye(total), np.zeros((total, total))
        self.p[np.ix_(place, place)] = precision[np.ix_(order, order)]
        self.m[np.ix_(place, place)] = gram[np.ix_(order, order)] * scale
        self.here = np.ones(self.elements.size, np.bool_)
        self._begin()

    def _begin(self) -> None:
        n, s = self.elements.size, self.size
        self.position = {int(e): k for k, e in enumerate(self.elements)}
        diagonal = np.arange(n)
        self.p_blocks = self.p.reshape(n, s, n, s)[diagonal, :, diagonal]
        self.m_blocks = self.m.reshape(n, s, n, s)[diagonal, :, diagonal]
        self.u, self.q, self.v = (np.empty((max(_DELAY, s), n * s)) for _ in range(3))
        self.pending = 0

    def costs(self) -> Floats:
        """What each element of the group would cost now."""
        if self.size == 1:
            own = self.m_blocks[:, 0, 0] / self.p_blocks[:, 0, 0]
        else:
            own = np.linalg.solve(self.p_blocks, self.m_blocks).trace(axis1=1, axis2=2)
        result = np.zeros(self.count)
        result[self.elements] = own
        return result

    def remove(self, element: int) -> None:
        """The element goes, the others make up for it."""
        k = self.position.get(element)
        if k is None:
            return
        s, b = self.size, self.pending
        if b + s > len(self.u):
            self._catch_up()
            k, b = self.position[element], 0
        rows = slice(k * s, (k + 1) * s)
        u, q, v = self.u[:b], self.q[:b], self.v[:b]
        p = self.p[rows] - u[:, rows].T @ u
        m = self.m[rows] - q[:, rows].T @ v - v[:, rows].T @ q
        root = np.linalg.inv(np.linalg.cholesky(p[:, rows]))  # (P_gg)^-1 = root' root: small, so that the rest is products
        new = slice(b, b + s)
        self.u[new] = root @ p
        self.q[new] = root.T @ self.u[new]
        self.v[new] = m - m[:, rows].T @ self.q[new] / 2
        self.pending = b + s
        self._update_blocks(self.u[new], self.q[new], self.v[new])
        self.p_blocks[k], self.m_blocks[k] = np.eye(s), 0
        self.here[k] = False

    def _update_blocks(self, u: Floats, q: Floats, v: Floats) -> None:
        """Blocks on the diagonal, of which costs are made, are always up to date."""
        if self.size == 1:
            self.p_blocks[:, 0, 0] -= u[0] * u[0]
            self.m_blocks[:, 0, 0] -= 2 * q[0] * v[0]
            return
        u, q, v = (x.T.reshape(self.elements.size, self.size, -1) for x in (u, q, v))
        both = q @ v.transpose(0, 2, 1)
        self.p_blocks -= u @ u.transpose(0, 2, 1)
        self.m_blocks -= both + both.transpose(0, 2, 1)

    def _catch_up(self) -> None:
        """Applies what is pending to what is left."""
        kept = np.repeat(self.here, self.size)
        u, q, v = (x[: self.pending, kept] for x in (self.u, self.q, self.v))
        both = q.T @ v
        self.p = self.p[np.ix_(kept, kept)] - u.T @ u
        self.m = self.m[np.ix_(kept, kept)] - both - both.T
        self.elements = self.elements[self.here]
        self.here = np.ones(self.elements.size, np.bool_)
        self._begin()


def _inverse(matrix: Floats) -> Floats:
    """Of a symmetric positive definite matrix."""
    factor = cholesky(matrix, lower=True, overwrite_a=True)
    lower, _ = lapack.dpotri(factor, lower=True)
    lower = np.tril(lower)
    return np.asarray(lower + np.tril(lower, -1).T)
