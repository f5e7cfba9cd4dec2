"""What stages have in common: the analysis they start from, progress and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnxprune.groups.build import build
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared, prepare
from onnxprune.trace.tracer import trace

Progress = Callable[[str, float], None]
Shapes = Mapping[str, Sequence[int]]


def analysed(source: onnx.ModelProto, *, width: bool, shapes: Shapes | None) -> tuple[Prepared, Groups]:
    """The model as it is traced, and its groups.

    Raises:
        ModelError: the model is not valid.
    """
    prepared = prepare(source, shapes)
    traced = trace(prepared.graph, prepared.shapes, prepared.inferred)
    traced.clones = prepared.clones
    return prepared, build(traced, width=width)


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str) -> None:
        """What came since the last call was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def rising(tell: Progress) -> Progress:
    """Progress of work of which some is done again: the share never goes back."""
    most = 0.0

    def told(stage: str, done: float) -> None:
        nonlocal most
        most = max(most, done)
        tell(stage, most)

    return told


def part(tell: Progress, bounds: tuple[float, float]) -> Progress:
    """Progress of a part of the whole."""
    start, stop = bounds
    return lambda stage, done: tell(stage, min(start + (stop - start) * done, stop))
