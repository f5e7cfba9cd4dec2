"""What targets came to, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reached:
    """One target and what the result has.

    Attributes:
        quantity: `macs`, `latency` ...
        target: as it was asked for.
        unit: of the figures.
        before: of the source.
        limit: the most that was allowed.
        after: what the result has: counted or measured on the pruned model.
        met: it is within the limit, and the tolerance of a measurement.
        rounds: how often widths were chosen until it was.
    """

    quantity: str
    target: str
    unit: str
    before: float
    limit: float
    after: float
    met: bool
    rounds: int


@dataclass(frozen=True)
class Trial:
    """One pruned model and what it scores.

    Attributes:
        target: its cost target.
        figure: of the metric.
        lost: of it, as against the source; below 0 where it gained.
        allowed: it may lose.
    """

    target: str
    figure: float
    lost: float
    allowed: float

    @property
    def met(self) -> bool:
        """It lost no more."""
        return self.lost <= self.allowed
