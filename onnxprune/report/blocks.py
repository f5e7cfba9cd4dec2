"""Blocks that went as a whole, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.proof.oracle import Verification


@dataclass(frozen=True)
class Block:
    """A branch of a sum that is a constant now.

    Attributes:
        tensor: the summand.
        reader: the sum.
        nodes: linear nodes that went with it.
        loss: relative squared error of the outputs without this branch alone, measured before any repair.
        macs: multiply-accumulates of what went with it alone.
        params: its parameters.
    """

    tensor: str
    reader: str
    nodes: tuple[str, ...]
    loss: float
    macs: float
    params: float


@dataclass(frozen=True)
class Foretold:
    """What some number of blocks, and the widths that meet the targets then, lose.

    Attributes:
        blocks: how many go.
        branches_lose: relative squared error of the outputs without them, measured together.
        loss: the same without them and at the widths of the rest that meet the targets, measured before any repair; None
            where no widths do.
    """

    blocks: int
    branches_lose: float
    loss: float | None


@dataclass
class Blocks:
    """What became of the question which blocks go.

    Attributes:
        gone: those that went, in the order in which they were chosen.
        candidates: how many could go.
        foretold: by number of blocks.
        repaired: by number of blocks, of those that were tried to the end: norm of the outputs' error on the samples over
            that of the source's outputs, the mean over outputs.
        verification: that zeros in their last weights do the same; None where it was not asked for, or can't be had.
        put_back: summands of blocks that stay as their check failed, with the reason.
        refused: summands that can't go, with the reason.
    """

    gone: list[Block] = field(default_factory=list)
    candidates: int = 0
    foretold: list[Foretold] = field(default_factory=list)
    repaired: dict[int, float] = field(default_factory=dict)
    verification: Verification | None = None
    put_back: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
