"""The time of a piece as a sum of what it has to do, and of the whole as a sum of its pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.latency.work import KINDS

Floats = NDArray[np.float64]

_LEAST_MS = 1e-4  # what a clock can tell
_LOOSE = 0.3  # weight of "all parts alike" against one sample of the whole
_USUAL = 0.05  # relative error beyond which a sample counts less
_REWEIGHTINGS = 6
_ANCHOR = 5.0  # weight of the source, with which everything is compared


def fit_piece(work: Floats, ms: Floats) -> Floats:
    """Milliseconds of each kind of work `(5,)`, none negative, so that less work never takes longer.

    Args:
        work: of each sample `(N, 5)`, as shares of the source's.
        ms: measured `(N,)`; without any, the piece takes no time.

    Source: Lawson & Hanson 1974, "Solving Least Squares Problems", chapter 23; errors are relative. A sample that was
    disturbed is far too slow, seldom too fast: it counts little, as its relative error is at most 1.
    """
    from scipy.optimize import nnls

    if not len(ms):
        return np.zeros(len(KINDS))
    scale = np.maximum(ms, _LEAST_MS)
    found, _ = nnls(work / scale[:, None], ms / scale)
    return np.asarray(found, np.float64)


def fit_whole(parts: Floats, whole: Floats) -> Floats:
    """What each kind of work counts in the whole model `(5,)`, against the same work in pieces.

    A piece has its own call of ONNX Runtime, brings its tensors into the layout that its kernels want and back, and finds
    its input where it left it. In the model these costs are smaller or gone.

    Args:
        parts: ms of each kind of work, summed over pieces `(N, 5)`; the first row is that of the source.
        whole: ms of the whole model `(N,)`.

    Source: iteratively reweighted least squares for the loss `sqrt(1 + (error / usual)^2)` (Holland & Welsch 1977).
    """
    from scipy.optimize import nnls

    sums = np.maximum(parts.sum(axis=1), _LEAST_MS)
    alike = float(np.median(whole / sums))
    tied = _LOOSE * parts.mean(axis=0) / sums.mean()
    relative = parts / whole[:, None]
    weights = np.ones(len(whole))
    weights[0] = _ANCHOR
    found = np.full(len(KINDS), alike)
    for _ in range(_REWEIGHTINGS):
        errors = relative @ found - 1
        trust = weights / (1 + (errors / _USUAL) ** 2) ** 0.25
        found, _ = nnls(np.vstack([relative * trust[:, None], np.diag(tied / alike)]), np.concatenate([trust, tied]))
    return np.asarray(found * (whole[0] / (parts[0] @ found)), np.float64)


def left_out_errors(parts: Floats, whole: Floats) -> Floats:
    """Relative error of each sample but the source when the others alone are fitted `(N - 1,)`."""
    found = []
    for k in range(1, len(whole)):
        rows = np.arange(len(whole)) != k
        found.append(parts[k] @ fit_whole(parts[rows], whole[rows]) / whole[k] - 1)
    return np.array(found)


@dataclass
class Penalties:
    """How much longer a piece takes at widths that are multiples of few slices only, by what it consists of.

    Attributes:
        seen: (operators of a piece, offset) -> ms measured, expected and at the multiple above, summed over pieces `(3,)`.
    """

    seen: dict[tuple[str, int], Floats] = field(default_factory=dict)

    def add(self, operators: str, offset: int, measured: float, expected: float, above: float) -> None:
        """A piece all of whose groups were so many slices below a multiple of many."""
        key = operators, offset
        self.seen[key] = self.seen.get(key, np.zeros(3)) + np.array([measured, expected, above])

    def factors(self, operators: str, offsets: Sequence[int]) -> Mapping[int, float]:
        """Factor by alignment, at least 1 and never less for a smaller one; what was not measured is as the next larger.

        Args:
            operators: of a piece.
            offsets: descending.
        """
        found: dict[int, float] = {}
        worst = 1.0
        for offset in offsets:
            measured, expected, _ = self.seen.get((operators, offset), np.zeros(3))
            worst = max(worst, measured / expected if expected > 0 else 1.0)
            found[offset] = worst
        return found

    def shares(self, operators: str, offset: int) -> Floats:
        """What is measured and what is expected, by the time at the multiple above `(2,)`; 1 where nothing was measured."""
        measured, expected, above = self.seen.get((operators, offset), np.zeros(3))
        return np.array([measured / above, expected / above]) if above > 0 else np.ones(2)
