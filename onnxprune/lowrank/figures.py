"""What was written as two, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.lowrank.candidates import Left
from onnxprune.proof.oracle import Verification


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
