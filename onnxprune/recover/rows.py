"""Rows of a fit: those it is fitted to, and those that judge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.recover.state import State
from onnxprune.statistics.accumulate import Accumulator, picked
from onnxprune.statistics.channels import counted_rows, judging
from onnxprune.statistics.forms import Form
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.stream import View

Array = NDArray[Any]


class Rows:
    """Moments of rows, added up batch by batch.

    Args:
        state: which samples judge, and which rows count.
        k: K.
        m: M.
        limit: positions of each sample.
        groups: G.
    """

    def __init__(self, state: State, k: int, m: int, limit: int, groups: int = 1) -> None:
        self.state = state
        self.train, self.held = (Accumulator(groups, k, m, limit * state.samples.count) for _ in range(2))

    def add(self, rows: Array, wanted: Array, part: slice, view: View, target: Array, chosen: Array, form: Form) -> None:
        """Takes rows `(n, P, G, K)` of some samples, and what they should give `(n, P, G, M)`."""
        for use, moments in zip(sides(self.state, view, target, chosen, form), (self.train, self.held), strict=True):
            own = use[part]
            if own.any():
                moments.add(picked(rows, own), picked(wanted, own))

    def result(self) -> tuple[Moments, Moments]:
        """Moments for fitting and for judging; without rows for the former, the latter are taken for both."""
        train, held = self.train.result(), self.held.result()
        return (train, held) if train.rows else (held, train)


def sides(state: State, view: View, target: Array, chosen: Array, form: Form) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows `(N, P)` of a batch fit, and which judge."""
    counted = counted_rows(view.batch, state.samples.mask, target, chosen, form)
    judged = judging(state.judges[view.index], form.places(target)[0])[:, None]
    return counted & ~judged, counted & judged
