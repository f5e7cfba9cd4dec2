"""Where two models part: nodes whose inputs agree and whose output does not.

Errors spread through a graph, not along a line, so the bisection is one of a set. Suspects are the tensors that a differing
output depends on, but not by way of tensors that are known to agree, and that lie behind no tensor known to differ. A few
of them, evenly spaced, are measured in one run; whatever the answer, it clears those before or behind. On a chain of n
tensors, with k measured at once, that takes log(n) / log(k + 1) runs. When no suspect is left, all first differing tensors
are known.

Whether they are the *cause* is then tried: the second model is given what the first computes there. If its outputs agree
now, the cause is proven; if not, the search goes on behind them.

What counts as a difference: first, any at all. Models from one exporter agree to the last bit before the first cause,
however small it is. Where what is found so explains nothing (another exporter, other kernels: rounding everywhere), once
more with the geometric mean of rounding and of the error of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxprune.comparison.probe import Probe
from onnxprune.statistics.flow import Flow

_ROUNDS = 6
_HELPS = 0.5  # the error of the outputs has to shrink to that share, or what was found explains nothing
_ROUNDING = 1e-6


@dataclass
class Origin:
    """A first differing tensor.

    Attributes:
        tensor: its name in the first model.
        error: relative error there.
        inputs: largest relative error of the matched tensors that it is computed from; 0 where there are none.
        explained: share of the outputs' error that was gone when this tensor, and those found together with it, were
            replaced by those of the first model.
        group: number of the round in which it was found.
    """

    tensor: str
    error: float
    inputs: float
    explained: float = 0.0
    group: int = 0


@dataclass
class Search:
    """What was found.

    Attributes:
        origins: first differing tensors; of later rounds those that differ when the earlier ones are replaced.
        error: largest relative error of the outputs, of the graphs as they are written.
        left: the same when all origins are replaced by tensors of the first model.
        bound: relative error from which on a tensor counted as different.
        tolerance: error of the outputs that counts as none.
        path: relative error of every tensor that was measured first, in the order of the graph.
        runs: how often both models were run.
    """

    origins: list[Origin] = field(default_factory=list)
    error: float = 0.0
    left: float = 0.0
    bound: float = 0.0
    tolerance: float = 0.0
    path: list[tuple[str, float]] = field(default_factory=list)
    runs: int = 0


def search(probe: Probe, outputs: Sequence[str], tolerance: float) -> Search:
    """Finds where the models part.

    Args:
        probe: of both models.
        outputs: matched tensors that should agree.
        tolerance: relative error of outputs that counts as none.

    Raises:
        ModelError: the first model can't be run.
    """
    upstream = _Upstream(probe.first.flow, list(probe.matching.pairs))
    outputs = [n for n in outputs if n in upstream.place]
    probe.measure(outputs)
    error = max((probe.errors[n] for n in outputs), default=0.0)
    found = Search(error=error, left=error, tolerance=tolerance)
    best = found
    path: dict[str, float] = {}
    if error > tolerance:
        for bound in (0.0, math.sqrt(_ROUNDING * min(error, 1.0))):
            probe.restore()
            tried = _rounds(
                probe, upstream, outputs, Search(error=error, left=error, tolerance=tolerance, bound=bound), path
            )
            if not best.origins or tried.left < _HELPS * best.left:
                best = tried
            if best.left <= tolerance:
                break
    best.path = [(n, path[n]) for n in upstream.names if n in path]
    best.runs = probe.runs
    return best


def _rounds(probe: Probe, upstream: _Upstream, outputs: Sequence[str], found: Search, path: dict[str, float]) -> Search:
    """Origins, then those behind them, until the outputs agree or nothing helps."""
    for group in range(_ROUNDS):
        probe.measure(outputs)
        apart = [n for n in outputs if probe.errors[n] > found.tolerance]
        first = _first(probe, upstream, apart, found.bound) if apart else []
        if not group:
            for name, error in probe.errors.items():
                path.setdefault(name, error)
        origins = [Origin(n, probe.errors[n], upstream.error_before(n, probe), group=group) for n in first]
        if not origins:
            break
        before = found.left
        # an output that is replaced agrees, whatever made it wrong: that proves something only if what it reads agreed
        kept = {o.tensor: o.error for o in origins if o.tensor in outputs and (o.inputs > 0 or upstream.unmatched(o.tensor))}
        declined = probe.replace(first, upstream.behind(first))
        probe.measure(outputs)
        found.left = max((kept.get(n, probe.errors[n]) for n in outputs), default=0.0)
        share = 1.0 if math.isinf(before) and math.isfinite(found.left) else _gone(before, found.left)
        for origin in origins:
            origin.explained = 0.0 if origin.tensor in declined else share
        found.origins += origins
        if found.left <= found.tolerance or not found.left < before:
            break
    return found


def _gone(before: float, after: float) -> float:
    if math.isinf(before) or not before:
        return 0.0
    return max(1 - after / before, 0.0)


def _first(probe: Probe, upstream: _Upstream, starts: Sequence[str], bound: float) -> list[str]:
    """All first differing tensors that some differing ones depend on."""
    while True:
        suspects = upstream.suspects(starts, probe, bound)
        if not suspects:
            return upstream.origins(starts, probe, bound)
        probe.measure(probe.batch(suspects))


class _Upstream:
    """Which matched tensors each matched tensor depends on; sets are bits of an integer.

    Attributes:
        names: matched tensors in the order of the graph.
        place: name -> position among them.
    """

    def __init__(self, flow: Flow, names: Sequence[str]) -> None:
        self.flow = flow
        self.names, self.place = list(names), {n: k for k, n in enumerate(names)}
        self.parents = [0] * len(self.names)  # nearest matched tensors before it
        self.ancestors = [0] * len(self.names)
        nearest: dict[str, int] = {}
        for k, node in enumerate(flow.nodes):
            if not flow.varying[k]:
                continue
            before = 0
            for name in flow.reads(k):
                before |= nearest.get(name, 0)
            every = before
            for j in _bits(before):
                every |= self.ancestors[j]
            for name in node.output:
                own = self.place.get(name)
                if own is None:
                    nearest[name] = before
                else:
                    nearest[name], self.parents[own], self.ancestors[own] = 1 << own, before, every

    def _state(self, probe: Probe, bound: float) -> tuple[int, int]:
        """Tensors that are known to differ, and to agree."""
        apart = same = 0
        for name, error in probe.errors.items():
            if name in self.place:
                if error > bound:
                    apart |= 1 << self.place[name]
                else:
                    same |= 1 << self.place[name]
        return apart, same

    def _reached(self, starts: Sequence[str], same: int) -> int:
        """What the starts depend on, but not by way of what agrees."""
        found = 0
        waiting = [self.place[n] for n in starts]
        for k in waiting:
            found |= 1 << k
        while waiting:
            new = self.parents[waiting.pop()] & ~same & ~found
            found |= new
            waiting += _bits(new)
        return found

    def suspects(self, starts: Sequence[str], probe: Probe, bound: float) -> list[str]:
        """Tensors of which it is open whether they differ first, in the order of the graph."""
        apart, same = self._state(probe, bound)
        open_ones = self._reached(starts, same) & ~apart
        return [self.names[k] for k in _bits(open_ones) if not self.ancestors[k] & apart]

    def origins(self, starts: Sequence[str], probe: Probe, bound: float) -> list[str]:
        """Differing tensors with no differing one before them."""
        apart, same = self._state(probe, bound)
        reached = self._reached(starts, same) & apart
        return [self.names[k] for k in _bits(reached) if not self.ancestors[k] & reached]

    def behind(self, names: Sequence[str]) -> list[str]:
        """Matched tensors that depend on some."""
        mask = sum(1 << self.place[n] for n in names)
        return [n for k, n in enumerate(self.names) if self.ancestors[k] & mask]

    def unmatched(self, name: str) -> bool:
        """Several nodes make a tensor from the inputs of the model, and none of what lies between has a partner."""
        return not self.parents[self.place[name]] and self.varying_nodes(name) > 1

    def varying_nodes(self, name: str) -> int:
        """Nodes that a tensor depends on, and that depend on what is fed."""
        return sum(self.flow.varying[k] for k in self.flow.ancestors([name]))

    def error_before(self, name: str, probe: Probe) -> float:
        """Largest known error of the tensors right before one."""
        before = [probe.errors.get(self.names[k], 0.0) for k in _bits(self.parents[self.place[name]])]
        return max(before, default=0.0)


def _bits(mask: int) -> list[int]:
    """Positions of the ones."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
