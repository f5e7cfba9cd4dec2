"""Where channels end: a sum over channels times weights, from which a term can be taken or moved to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Ids
from onnxprune.lossless.content import SINGLE, Content, Floats
from onnxprune.lossless.tensors import Array, View

Kind = Literal["unread", "zero", "constant", "duplicate", "multiple"]
KINDS: tuple[Kind, ...] = ("unread", "zero", "constant", "duplicate", "multiple")
Gone = Callable[[Ids], NDArray[np.bool_]]
_ULPS = 4.0


@dataclass
class Bias:
    """Numbers that are added to the rows of a sum.

    Attributes:
        view: of the stored tensor, one number for each row.
        factor: by which they are added.
    """

    view: View
    factor: float = 1.0


@dataclass
class Term:
    """What becomes of one term: `r` times term `to` and the constant `e` stand for it.

    Attributes:
        group: block of the sum.
        k: the term.
        kind: why it can go.
        to: the term that takes its weights; -1 for none.
        ratio: channel `k` = ratio * channel `to` + shift.
        shift: see `ratio`.
    """

    group: int
    k: int
    kind: Kind
    to: int = -1
    ratio: float = 0.0
    shift: float = 0.0


@dataclass
class Sink:
    """`y[g, o] = sum over k of weight[g, o, k] * x[g, k] + bias[g, o]`, with any number of taps for each weight.

    Attributes:
        what: the node, for reasons.
        weight: `(groups, rows, terms, taps)`.
        x: content of the channels `(groups, terms)`.
        terms: class of each channel `(groups, terms)`, -1 where it has none.
        rows: class of each row `(groups, rows)`, likewise.
        uniform: a constant channel adds the same to every position: nothing is padded.
        bias: None where there is nothing to fold a constant into.
    """

    what: str
    weight: View
    x: Content
    terms: Ids
    rows: Ids
    uniform: bool = True
    bias: Bias | None = None

    def cells(self) -> Iterable[tuple[int, int, int]]:
        """Class, block and term of each term that can go."""
        for g, k in zip(*np.nonzero(self.terms >= 0), strict=True):
            yield int(self.terms[g, k]), int(g), int(k)

    def column(self, g: int, k: int) -> Array:
        """Weights of one term `(rows, taps)`."""
        return self.weight.array[g, :, k, :]

    def judge(self, g: int, k: int, gone: Gone) -> Term | str:
        """What can become of a term, or why it has to stay; no text where it is just needed.

        Args:
            g: block.
            k: term.
            gone: which classes are removed, those of the unit in question included.
        """
        kept = ~gone(self.rows[g])
        column = self.column(g, k)[kept]
        if not column.any():
            return Term(g, k, "unread")
        shift = float(self.x.offset[g, k])
        if self.x.scale[g, k] == 0:
            refused = self.refuses(column, shift)
            return refused or Term(g, k, "constant" if shift else "zero", shift=shift)
        answer = ""
        same = (self.x.ids[g] == self.x.ids[g, k]) & ~self.x.constant[g] & ~gone(self.terms[g])
        same[k] = False
        for j in np.flatnonzero(same):
            ratio = float(self.x.scale[g, k] / self.x.scale[g, j])
            shift = float(self.x.offset[g, k] - ratio * self.x.offset[g, j])
            if abs(shift) <= _ULPS * SINGLE * abs(float(self.x.offset[g, k])):
                shift = 0.0
            answer = self.refuses(column, shift)
            if not answer and self.weight.stored is None:
                answer = f"the weights of {self.what} are shared or computed"
            if not answer and not np.isfinite(ratio):
                answer = f"the factor at {self.what} is not finite"
            if not answer:
                return Term(g, k, "duplicate" if ratio == 1 and not shift else "multiple", int(j), ratio, shift)
        return answer

    def refuses(self, column: Array, shift: float) -> str:
        """Why a constant can't be folded into the bias; empty where it can, or need not."""
        if not shift or not self.sums(column).any():
            return ""
        if not self.uniform:
            return f"{self.what} pads, so that a constant of {shift:g} is another one at the borders"
        if self.bias is None:
            return f"{self.what} has no bias of its own to take a constant of {shift:g}"
        return ""

    @staticmethod
    def sums(column: Array) -> Floats:
        """Weights of one term summed over the taps."""
        return np.asarray(column.astype(np.float64).sum(axis=-1))

    def fold(self, term: Term) -> None:
        """Moves a term to another one and to the bias."""
        if term.kind == "unread":
            return
        column = self.column(term.group, term.k).astype(np.float64)
        if term.to >= 0:
            target = self.column(term.group, term.to)
            target[...] = (target.astype(np.float64) + term.ratio * column).astype(target.dtype)
        if term.shift and self.bias is not None and self.uniform:
            target = self.bias.view.array[term.group]
            added = self.bias.factor * term.shift * self.sums(column)
            target[...] = (target.astype(np.float64) + added).astype(target.dtype)
