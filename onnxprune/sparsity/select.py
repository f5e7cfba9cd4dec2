"""Which elements of a weight become 0, and how the others make up for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lapack

from onnxprune.sparsity.patterns import Pattern

Array = NDArray[np.float64]
_DAMPING = 1e-2
_BLOCK = 128


def by_magnitude(weight: Array, pattern: Pattern) -> Array:
    """The weight `(K, M)` with its smallest elements 0; the others stay as they are."""
    return np.where(_least(np.square(weight), pattern), 0.0, weight)


def by_reconstruction(weight: Array, moments: Array, pattern: Pattern) -> Array:
    """The weight with zeros for which the inputs that come later make up, one input after the other.

    With H = second moments of the inputs and U'U = H^-1, U upper triangular: zero w_k costs w_k^2 / U_kk^2, and the inputs
    behind it take over U_k: w_k / U_kk.

    Args:
        weight: `(K, M)`.
        moments: second moments of the inputs `(K, K)`.
        pattern: of the zeros.

    Source: Frantar and Alistarh 2023, "SparseGPT", algorithm 1, with masks chosen for a block of inputs at a time.
    """
    size = len(weight)
    left, result = weight.copy(), np.zeros_like(weight)
    dead = np.diagonal(moments) <= 0
    left[dead] = 0
    scale = max(float(np.diagonal(moments).mean()), 1e-30)
    inverse, _ = lapack.dpotri(cholesky(moments / scale + _DAMPING * np.eye(size), lower=True), lower=True)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    upper = cholesky(inverse)
    block = max(_BLOCK // pattern.of * pattern.of, pattern.of) if pattern.of else _BLOCK
    for start in range(0, size, block):
        stop = min(start + block, size)
        u, rows = upper[start:stop, start:stop], left[start:stop]
        worth = np.square(np.diagonal(u))[:, None]
        gone = np.zeros(rows.shape, np.bool_) if pattern.of else _least(np.square(rows) / worth, pattern)
        errors = np.zeros_like(rows)
        for k in range(stop - start):
            if pattern.of and k % pattern.of == 0:
                run = slice(k, k + pattern.of)
                gone[run] = _least(np.square(rows[run]) / worth[run], pattern)
            result[start + k] = np.where(gone[k], 0.0, rows[k])
            errors[k] = np.where(gone[k], rows[k], 0.0) / u[k, k]
            rows[k + 1 :] -= u[k, k + 1 :, None] * errors[k]
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return result


def lost(weight: Array, sparse: Array, moments: Array) -> float:
    """Share of the outputs' second moment that the difference of two weights makes."""
    whole = float(np.einsum("km,km->", weight, moments @ weight))
    rest = weight - sparse
    return max(float(np.einsum("km,km->", rest, moments @ rest)), 0.0) / whole if whole > 0 else 0.0


def _least(costs: Array, pattern: Pattern) -> NDArray[np.bool_]:
    """Which elements are the cheapest, as many as the pattern asks for."""
    gone = np.zeros(costs.shape, np.bool_)
    if not pattern.of:
        order = np.argsort(costs, axis=None, kind="stable")[: pattern.count(costs.size)]
        gone.ravel()[order] = True
        return gone
    for start in range(0, len(costs), pattern.of):
        run = costs[start : start + pattern.of]
        order = np.argsort(run, axis=0, kind="stable")[: pattern.count(len(run))]
        np.put_along_axis(gone[start : start + pattern.of], order, values=True, axis=0)
    return gone
