"""What is fitted besides linear nodes, at its place in graph order: scales behind a statistic, queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.recover.fit import Fit
from onnxprune.recover.logits import fit_logits
from onnxprune.recover.products import find_logits, pins
from onnxprune.recover.run import Run
from onnxprune.recover.scales import find_scales, fit_scale
from onnxprune.recover.target import follow
from onnxprune.statistics.linear import Linear


class Repairs:
    """Scales and logits that are still to be fitted.

    Args:
        run: both models in mid-run.
        linears: linear nodes of the pruned model.
        fitted: those of them that are fitted themselves.
    """

    def __init__(self, run: Run, linears: Sequence[Linear], fitted: Sequence[Linear]) -> None:
        self.run = run
        groups, alive, flow = run.groups, run.alive, run.pruned.flow
        self.scales = find_scales(flow, groups, alive, _absorbed(run, fitted)) if run.mode != "none" else []
        self.logits = find_logits(run.pruned, run.dense, linears, groups, alive) if run.mode == "lsq" else []
        self.pin()

    def pin(self) -> None:
        """Keeps what fits look at that are still to come."""
        for one in self.logits:
            for stream in (self.run.pruned, self.run.dense):
                stream.pinned |= pins(one, stream.flow)

    def before(self, node: int) -> list[Fit]:
        """Fits everything that comes before a node."""
        found = []
        while self.scales and self.scales[0].nodes[-1] < node:
            found.append(fit_scale(self.run, self.scales.pop(0)))
        while self.logits and self.logits[0].node < node:
            logits = self.logits.pop(0)
            found.append(fit_logits(self.run, logits))
            for stream in (self.run.pruned, self.run.dense):
                stream.pinned -= pins(logits, stream.flow)
            self.pin()
        return found

    def left(self) -> list[int]:
        """How many scales and logits are still to be fitted."""
        return [len(self.scales), len(self.logits)]

    def take_up(self, left: Sequence[int]) -> None:
        """Goes to a point of an earlier run, where so many were left; pins are those of the streams."""
        scales, logits = left
        del self.scales[: len(self.scales) - scales], self.logits[: len(self.logits) - logits]

    @property
    def nodes(self) -> set[int]:
        """Nodes whose output will change."""
        return {k for s in self.scales for k in s.nodes}


def _absorbed(run: Run, linears: Sequence[Linear]) -> set[int]:
    """Nodes that only act on each output channel of a linear node alone: its fit makes up for them."""
    found: set[int] = set()
    for linear in linears:
        value = run.values.get(linear.y)
        if value is not None and value.shape is not None:
            matrix = linear.matrix(run.weight(linear.weight))
            axis = linear.form.channel_axis(value.rank)
            found |= set(follow(run.pruned.flow, linear, axis, value.rank, matrix.shape[0] * matrix.shape[2]).nodes)
    return found
