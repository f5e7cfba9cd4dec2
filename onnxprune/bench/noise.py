"""What disturbed a measurement, so that nobody takes a bad figure for a good one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.bench.timing import Times

_OTHERS = 0.1  # share of the cores that other programs may take
_STOLEN = 0.02  # share of the time that a hypervisor may take
_TAIL = 1.5  # p90 by p50
_APART = 1.15  # slowest by fastest process
_CPU_STAT = Path("/sys/fs/cgroup/cpu.stat")


@dataclass(frozen=True)
class Usage:
    """What happened on the machine meanwhile.

    Attributes:
        seconds: that passed.
        cores: logical ones.
        others: seconds of core time that programs other than those of the measurement took.
        stolen: seconds of core time that the hypervisor gave to somebody else.
        throttled: times that a container had used up its share of time.
    """

    seconds: float
    cores: int
    others: float
    stolen: float
    throttled: int

    def __add__(self, other: Usage) -> Usage:
        sums = (self.seconds + other.seconds, self.others + other.others, self.stolen + other.stolen)
        return Usage(sums[0], self.cores, sums[1], sums[2], self.throttled + other.throttled)


class Watch:
    """Watches the machine from its creation on.

    Args:
        processes: ids of the processes that are measured; this one counts among them.
    """

    def __init__(self, processes: Iterable[int]) -> None:
        import psutil

        self._own = [psutil.Process(), *(psutil.Process(pid) for pid in processes)]
        self._start = self._now()

    def usage(self) -> Usage:
        """Since the creation; the processes have to be alive still."""
        import psutil

        seconds, busy, stolen, own, throttled = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return Usage(seconds, psutil.cpu_count() or 1, max(busy - own, 0.0), stolen, int(throttled))

    def _now(self) -> tuple[float, float, float, float, float]:
        import psutil

        times = psutil.cpu_times()
        stolen = float(getattr(times, "steal", 0.0))
        busy = float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "irq", 0.0))
        own = sum(float(t.user + t.system) for t in (process.cpu_times() for process in self._own))
        return time.perf_counter(), busy, stolen, own, float(_throttled())


def _throttled() -> int:
    try:
        lines = _CPU_STAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("nr_throttled ")), 0)


def noise(usage: Usage, times: Mapping[str, Sequence[Times]]) -> list[str]:
    """Reasons to doubt figures, one line each; none where there are none.

    Args:
        usage: of the machine while they were taken.
        times: of each model, one for each process.
    """
    found = []
    others, stolen = (part / (usage.seconds * usage.cores) for part in (usage.others, usage.stolen))
    if others > _OTHERS:
        found.append(f"other programs took {others:.0%} of the CPU time")
    if stolen > _STOLEN:
        found.append(f"the hypervisor took {stolen:.0%} of the CPU time for other machines")
    if usage.throttled:
        found.append(f"the container ran out of its share of CPU time {usage.throttled} times")
    for name, processes in times.items():
        whole = Times(tuple(r for each in processes for r in each.rounds))
        if whole.p90 > _TAIL * whole.p50:
            found.append(f"{name}: a tenth of the runs took {whole.p90 / whole.p50:.1f} times the median or longer")
        medians = np.array([each.p50 for each in processes])
        if medians.max() > _APART * medians.min():
            found.append(f"{name}: medians of processes differ by {medians.max() / medians.min() - 1:.0%}")
    return found
