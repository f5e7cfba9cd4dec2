"""The closed form: ridge regression towards the weights that are there, its strength chosen on held-out rows.

    W' = (H + L)^-1 (G + L W),  b' = E[y] - W'^T E[x],  H = Cov(x),  G = Cov(x, y),  L = lam * mean diag(H) * I

Towards the old weights, not towards 0: with few rows or dead channels the result is what was there. Without a bias to put
b' into, the moments are taken about 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxprune.statistics.moments import Moments, add_outer
from onnxprune.statistics.threads import for_factors

Array = NDArray[np.float64]
Mode = Literal["none", "bias", "affine", "channel", "lsq"]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Solution:
    """Weights of one linear node.

    Attributes:
        kind: which candidate was best on held-out rows.
        matrix: `(G, K, M)`.
        bias: `(G, M)`; None where there is none.
        strength: of the ridge; 0 where there was none.
        before: share of the output's variance that is lost on held-out rows with the old weights.
        shifted: the same with the old weights and the best bias.
        after: the same with the new weights.
        fitted: the same on the rows they were fitted to.
    """

    kind: Mode
    matrix: Array
    bias: Array | None
    strength: float
    before: float
    shifted: float
    after: float
    fitted: float


def solve(train: Moments, held: Moments, old: Array, old_bias: Array | None, mode: Mode, weight: Array) -> Solution:
    """The best weights on held-out rows, fitted again to all rows.

    Args:
        train: moments to fit.
        held: moments to judge; no rows: those of `train` judge.
        old: weights that are there `(G, K, M)`.
        old_bias: their bias `(G, M)`; None where the node has no place for one.
        mode: how far to go; each mode includes the ones before.
        weight: what an output's squared error counts `(G, M)`.
    """
    biased = old_bias is not None
    judge = held if held.rows else train
    if not biased:
        train, judge = about_zero(train), about_zero(judge)
    parts = [train, judge] if held.rows else [train]
    scale = float((weight * judge.yy).sum()) / max(judge.rows, 1) or 1.0

    def loss(matrix: Array, bias: Array | None, moments: Moments) -> float:
        return float((weight * squared_error(moments, matrix, bias)).sum())

    def built(kind: Mode, strength: float) -> Array:  # one at a time: outputs can be many
        return _ridge(train, old, strength) if kind == "lsq" else _affine(train, old) if kind == "affine" else old

    candidates: list[tuple[Mode, float]] = [("none", 0.0)]
    if mode != "none" and biased:
        candidates.append(("bias", 0.0))
    if mode in ("affine", "lsq"):
        candidates.append(("affine", 0.0))

    def score(kind: Mode, strength: float) -> tuple[float, Mode, float]:
        matrix = built(kind, strength)
        bias = old_bias if kind == "none" else _shift(train, matrix) if biased else None
        value = loss(matrix, bias, judge)
        return (value if np.isfinite(value) else np.inf), kind, strength

    scored = [score(kind, strength) for kind, strength in candidates]
    if mode == "lsq":
        determined = train.rows >= 2 * old.shape[1]
        value, strength = lowest(lambda s: score("lsq", s)[0], STRENGTHS, one_valley=determined)
        scored.append((value, "lsq", strength))
    before = scored[0][0] / scale
    shifted = scored[1][0] / scale if len(scored) > 1 and scored[1][1] == "bias" else before
    best, kind, strength = min(scored, key=lambda s: s[0])
    if kind == "lsq":
        matrix = _ridge(train, old, strength, judge if held.rows else None)
    else:
        matrix = _affine(train.merged(judge) if held.rows else train, old) if kind == "affine" else old
    shares = [p.rows / max(sum(q.rows for q in parts), 1) for p in parts]
    new_bias = old_bias
    if kind != "none" and biased:
        new_bias = np.asarray(sum(share * _shift(p, matrix) for share, p in zip(shares, parts, strict=True)))
    variance = float((weight * _spread(parts)).sum()) / max(sum(p.rows for p in parts), 1) or 1.0
    fitted = sum(share * loss(matrix, new_bias, p) for share, p in zip(shares, parts, strict=True)) / variance
    return Solution(kind, matrix, new_bias, strength, before, shifted, best / scale, fitted)


def lowest(loss: Callable[[float], float], strengths: Sequence[float], *, one_valley: bool) -> tuple[float, float]:
    """The least loss and its strength.

    Args:
        loss: on held-out rows.
        strengths: to be tried.
        one_valley: go downhill from the second. With fewer rows than unknowns there can be another valley, where the fit
            interpolates; then all are tried.
    """
    known: dict[int, float] = {}

    def at(k: int) -> float:
        if not 0 <= k < len(strengths):
            return np.inf
        if k not in known:
            known[k] = loss(strengths[k])
        return known[k]

    if not one_valley:
        return min((at(k), s) for k, s in enumerate(strengths))
    best = min(1, len(strengths) - 1)
    step = -1 if at(best - 1) < at(best) else 1
    while at(best + step) < at(best):
        best += step
    return at(best), strengths[best]


def squared_error(m: Moments, matrix: Array, bias: Array | None) -> Array:
    """Mean squared error of each output `(G, M)`."""
    spread = m.yy - 2 * np.einsum("gkm,gkm->gm", matrix, m.xy) + np.einsum("gkm,gkm->gm", matrix, m.xx @ matrix)
    offset = m.y - np.einsum("gk,gkm->gm", m.x, matrix) - (0.0 if bias is None else bias)
    return np.asarray(np.maximum(spread / max(m.rows, 1), 0) + offset**2)


def _shift(m: Moments, matrix: Array) -> Array:
    return np.asarray(m.y - np.einsum("gk,gkm->gm", m.x, matrix))


def _affine(m: Moments, old: Array) -> Array:
    """The old weights, each output times the factor that fits best."""
    both = np.einsum("gkm,gkm->gm", old, m.xy)
    own = np.einsum("gkm,gkm->gm", old, m.xx @ old)
    factor = np.divide(both, own, out=np.ones_like(both), where=own > 1e-12 * np.maximum(m.yy, 1e-300))
    return np.asarray(old * factor[:, None])


def _ridge(m: Moments, old: Array, strength: float, more: Moments | None = None) -> Array:
    """Ridge regression on the rows of one or two moments; needs room for one more `(G, K, K)`."""
    left, right = m.xx.copy(), m.xy.copy()
    if more is not None:
        left += more.xx
        right += more.xy
        weight = m.rows * more.rows / (m.rows + more.rows)
        add_outer(left, weight, more.x - m.x, more.x - m.x)
        add_outer(right, weight, more.x - m.x, more.y - m.y)
    diagonal = np.einsum("gkk->gk", left)  # a view
    amount = strength * diagonal.mean(axis=1)
    amount = np.where(amount > 0, amount, 1.0)
    right += amount[:, None, None] * old
    diagonal += amount[:, None]
    with for_factors(left.shape[1]):
        if len(left) > 1:
            return np.asarray(np.linalg.solve(left, right))
        factor = cho_factor(left[0].T, lower=True, overwrite_a=True, check_finite=False)  # transposed: LAPACK's order
        return np.asarray(cho_solve(factor, right[0], check_finite=False)[None])


def _spread(parts: Sequence[Moments]) -> Array:
    """Sums of squared deviations of the outputs over all rows `(G, M)`."""
    rows, mean, result = 0, np.zeros_like(parts[0].y), np.zeros_like(parts[0].yy)
    for p in parts:
        share = p.rows / max(rows + p.rows, 1)
        result = result + p.yy + rows * share * (p.y - mean) ** 2
        mean = mean + share * (p.y - mean)
        rows += p.rows
    return result


def about_zero(m: Moments) -> Moments:
    """Moments about 0, as if all means were 0."""
    xx = m.xx + m.rows * m.x[:, :, None] * m.x[:, None, :]
    xy = m.xy + m.rows * m.x[:, :, None] * m.y[:, None, :]
    return Moments(m.rows, np.zeros_like(m.x), np.zeros_like(m.y), xx, xy, m.yy + m.rows * m.y**2)
