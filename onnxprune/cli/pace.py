"""How long a run still takes, by how it went on so far."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

_EARLIEST = 2.0  # seconds before anything is said


@dataclass
class Pace:
    """Shares of the work that were done at points in time.

    The pace is taken from the later half of the time so far: what was done at once in the beginning, such as results that
    were there already, says nothing about the rest.
    """

    times: list[float] = field(default_factory=lambda: [0.0])
    shares: list[float] = field(default_factory=lambda: [0.0])

    def __call__(self, time: float, share: float) -> float:
        """Takes note of a share (0..1) that is done after some seconds; the share to show, which never goes back."""
        share = min(max(share, self.shares[-1]), 1.0)
        self.times.append(time)
        self.shares.append(share)
        return share

    def left(self, now: float) -> float | None:
        """Seconds that are left at a point in time; None where that can't be told yet."""
        last, done = self.times[-1], self.shares[-1]
        k = bisect_right(self.times, last / 2) - 1
        if last < _EARLIEST or done <= self.shares[k]:
            return None
        speed = (done - self.shares[k]) / (last - self.times[k])
        return max((1 - done) / speed - (now - last), 0.0)
