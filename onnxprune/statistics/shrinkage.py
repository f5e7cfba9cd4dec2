"""Covariances that are known from few rows, and what they let one guess of channels that go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float64]


def shrunk(covariance: Floats, rows: int) -> Floats:
    """Fewer correlations where there are few rows: C channels seen in less than C rows seem to make up for each other."""
    share = min(1.0, (len(covariance) / max(rows, 1)) ** 2)
    return (1 - share) * covariance + share * np.diag(np.diagonal(covariance))


def damped(covariance: Floats, rows: int) -> Floats:
    """Correlations drawn towards 0 as far as so many rows of these channels ask for: the oracle approximating shrinkage.

    It looks at how far correlated the channels are: a few strong directions are known from few rows.

    Source: Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", eq. 23, of the correlation matrix.
    """
    p = len(covariance)
    scale = np.sqrt(np.maximum(np.diagonal(covariance), 1e-30))
    squares = float(np.square(covariance / np.outer(scale, scale)).sum())
    above = (1 - 2 / p) * squares + p * p
    below = (rows + 1 - 2 / p) * (squares - p)
    share = min(above / below, 1.0) if below > above else 1.0
    return (1 - share) * covariance + share * np.diag(np.diagonal(covariance))


def best_guess(mean: Floats, covariance: Floats, rows: int, gone: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The best linear guess of the channels that go, `x_kept @ matrix + shift`: `(kept, gone)` and `(gone,)`.

    Args:
        mean: of C channels.
        covariance: of them `(C, C)`; moments about 0 together with a mean of 0 give a guess without a shift.
        rows: that both are known from.
        gone: for each channel whether it goes.
    """
    kept = ~gone
    if not kept.any():
        return np.zeros((0, int(gone.sum()))), mean[gone]
    diagonal = np.diagonal(covariance)
    ridge = 1e-3 * diagonal + 1e-6 * max(float(diagonal.mean()), 1e-30)
    known = damped(covariance, rows) + np.diag(ridge)
    matrix = cho_solve(cho_factor(known[np.ix_(kept, kept)]), known[np.ix_(kept, gone)])
    return matrix, mean[gone] - mean[kept] @ matrix
