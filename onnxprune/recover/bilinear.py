"""Products of two projections, such as logits of attention: the best ones of a smaller inner dimension, in closed form.

    L_ij = q_i' k_j,   q, k of D dimensions    ~    (A' q_i)' (B' k_j),   A, B (D, r)

Over all pairs of a query and a key, the squared error is |T_q (A B' - I) T_k'|^2 with second moments T_q' T_q of queries and
T_k' T_k of keys; its minimum is the truncated SVD of T_q T_k'. No dimension is picked: those that stay are mixtures of all.
Several queries that share their keys are stacked.

Source: Eckart, Young 1936, "The approximation of one matrix by another of lower rank", in the metric of the moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_RELATIVE = 1e-10  # singular values below this share of the largest are 0


def mix(queries: Sequence[Array], keys: Array, rank: int) -> tuple[Array, Array]:
    """Mixtures of dimensions, of queries and of keys, both `(D, rank)`.

    Args:
        queries: second moments `(D, D)` of each head's queries; heads that share their keys.
        keys: second moments `(D, D)` of the keys.
        rank: dimensions that stay.
    """
    left = np.concatenate([_root(q) for q in queries])
    right = _root(keys)
    u, s, vt = np.linalg.svd(left @ right.T, full_matrices=False)
    u, s, v = u[:, :rank], s[:rank], vt[:rank].T
    inverse = np.divide(1.0, np.sqrt(s), out=np.zeros_like(s), where=s > _RELATIVE * max(float(s[0]), 1e-300))
    return right.T @ v * inverse, left.T @ u * inverse


def _root(moments: Array) -> Array:
    """T with T' T = moments."""
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    return np.asarray(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)
