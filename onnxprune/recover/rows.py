"""Rows of a fit: those it is fitted to, and those that judge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.recover.run import Run
from onnxprune.statistics.accumulate import Accumulator, picked
from onnxprune.statistics.forms import Form
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.positions import counted_rows, judging
from onnxprune.statistics.stream import View

Array = NDArray[Any]


class Rows:
    """Moments of rows that fit and of rows that judge, added up in any pieces.

    Args:
        k: K.
        m: M.
        expected: rows that will come in pieces, all in all.
        groups: G.
        name: of the tensor that the rows are of, for errors.
    """

    def __init__(self, k: int, m: int, expected: int = 0, groups: int = 1, name: str = "") -> None:
        self.train, self.held = (Accumulator(groups, k, m, expected, name) for _ in range(2))

    def add(self, rows: Array, wanted: Array, sides: NDArray[np.bool_], *, whole: bool = False) -> None:
        """Takes rows `(n, P, G, K)` of some samples, and what they should give `(n, P, G, M)`.

        Args:
            rows: the rows; must not change afterwards.
            wanted: the same of these.
            sides: which of them fit, and which judge `(2, n, P)`.
            whole: they are all rows of a batch.
        """
        for use, moments in zip(sides, (self.train, self.held), strict=True):
            if use.any():
                take = moments.add_whole if whole else moments.add
                take(picked(rows, use), picked(wanted, use))

    def result(self) -> tuple[Moments, Moments]:
        """Moments for fitting and for judging; without rows for the former, the latter are taken for both.

        Raises:
            ModelError: a row held NaN or infinity.
        """
        train, held = self.train.result(), self.held.result()
        return (train, held) if train.rows else (held, train)


def sides(run: Run, view: View, target: Array, chosen: Array, form: Form) -> NDArray[np.bool_]:
    """Which rows of a batch fit, and which judge `(2, N, P)`.

    Args:
        run: which samples judge.
        view: of the batch.
        target: a tensor with the samples and positions of the rows.
        chosen: positions that the rows are taken at `(P,)`.
        form: how rows are taken from it.
    """
    counted = counted_rows(view.batch, run.samples.mask, target, chosen, form)
    judged = judging(run.judges[view.index], form.places(target)[0])[:, None]
    return np.stack([counted & ~judged, counted & judged])
