"""What was written as two, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxprune.lowrank.candidates import LEAST, Left
from onnxprune.proof.oracle import Verification

if TYPE_CHECKING:
    from onnxprune.report.tables import Note

_NAMED = 3


@dataclass(frozen=True)
class Factored:
    """A node that is two in the result.

    Attributes:
        node: its name, which the second node has.
        weight: its name in the source.
        op: the operator.
        inputs: rows of the weight in the source, taps of a kernel included.
        outputs: columns of it in the source.
        rank: channels between both nodes.
        params_before: elements of the weight in the source.
        params_after: elements of both weights in the result.
    """

    node: str
    weight: str
    op: str
    inputs: int
    outputs: int
    rank: int
    params_before: int
    params_after: int


@dataclass(frozen=True)
class LowRank:
    """What became of the wide nodes.

    Attributes:
        tried: how many nodes could be two.
        factored: those that are.
        left: wide nodes that can't be.
        verification: that the source computes the same with these nodes as two, at full rank; None where there are none, or
            ONNX Runtime can't run the source.
    """

    tried: int
    factored: list[Factored] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    verification: Verification | None = None


def low_rank_notes(found: LowRank, *, verbose: bool) -> list[Note]:
    """Which nodes are two, and why others are not."""
    from onnxprune.report.tables import Note, plural

    rows = found.factored
    shown = rows if verbose else sorted(rows, key=lambda f: f.params_after - f.params_before)[:_NAMED]
    names = [f"{f.node!r} {f.inputs:,}x{f.outputs:,} at rank {f.rank:,}" for f in shown]
    rest = f", and {plural(len(rows) - len(shown), 'other')}" if len(rows) > len(shown) else ""
    which = f": {', '.join(names)}{rest}" if rows else ""
    text = f"{len(rows):,} of {plural(found.tried, 'wide node')} became two{which}"
    notes = [Note("low rank", text if found.tried else f"no node with a weight of {LEAST}x{LEAST} or more can become two")]
    if rows:
        text = "the plan can't be replayed: it does not hold the weights of nodes that became two"
        proof = found.verification
        if proof is not None:
            text = f"at whole rank the largest relative error is {proof.error:.1e}, tolerance {proof.tolerance:.0e}; {text}"
        notes.append(Note("", text))
    for reason, count in Counter(left.reason for left in found.left).most_common(None if verbose else 1):
        notes.append(Note("", f"{plural(count, 'wide node')} stayed one: {reason}"))
    return notes
