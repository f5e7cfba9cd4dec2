"""What recovery did to a node, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fit:
    """What became of one node; losses are shares of the variance of its output in the dense model.

    For logits of attention that is the variance of the probabilities, and the weights are those of queries and keys.

    Attributes:
        node: name.
        weight: name of the weight.
        kind: `lsq`, `affine`, `bias` or `none` (the old weights were best, or it was refused).
        lost_before: on held-out samples with the old weights.
        lost_after: the same with the new ones.
        lost_fitted: on the samples that were fitted.
        strength: of the ridge.
        reason: why it was left alone; empty otherwise.
    """

    node: str
    weight: str
    kind: str
    lost_before: float = 0.0
    lost_after: float = 0.0
    lost_fitted: float = 0.0
    strength: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Merge:
    """What became of one linear node that read removed channels.

    Attributes:
        node: name.
        weight: name of the weight.
        channels: how many of the channels it read went.
        kept: how many stayed.
        explained: share of their variance that the kept ones stand for, weighted as the node reads them.
        correlation: mean over removed channels of the largest magnitude of a correlation with a kept one.
        gain: mean factor by which outputs are scaled to the variance they had.
        reason: why it was left alone; empty otherwise.
    """

    node: str
    weight: str
    channels: int
    kept: int
    explained: float = 0.0
    correlation: float = 0.0
    gain: float = 1.0
    reason: str = ""
