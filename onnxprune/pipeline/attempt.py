"""One removal: what went, the model that is left, and what was done to its weights; or why nothing can go."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.pipeline.budget import Budget
from onnxprune.proof.oracle import Verification
from onnxprune.recover.merge import Merging
from onnxprune.recover.reconstruct import Reconstruction
from onnxprune.report.blocks import Blocks
from onnxprune.report.fidelity import Likeness
from onnxprune.select.allocate import Choice, Options

if TYPE_CHECKING:
    from onnxprune.pipeline.depth import Shorter
    from onnxprune.pipeline.low_rank import LowRankPruning


@dataclass
class Repair:
    """What was done to the weights that stay.

    Attributes:
        before: the source as samples saw it.
        after: the pruned model as samples saw it.
        likeness: of both on the samples, where the fit has compared them.
    """

    model: onnx.ModelProto
    before: onnx.ModelProto
    after: onnx.ModelProto
    merging: Merging | None = None
    fits: Reconstruction | None = None
    likeness: Likeness | None = None
    shared: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Weights are not slices of the source's any more."""
        return self.merging is not None or self.fits is not None


@dataclass
class Attempt:
    """A pruned model.

    Attributes:
        choices: groups that lost units.
        alive: labels that are left.
        verification: of the surgery, later of the repaired model; None where it was not asked for or can't be had.
        repair: the model and what was done to it.
        budget: that it was chosen within; None for a ratio.
        blocks: what became of the question which blocks go; None where it was not asked.
        shorter: the model without some blocks that it was pruned from; None where all are there.
        pairs: the model with nodes written as two that it was pruned from; None where that was not asked for.
    """

    choices: list[Choice]
    alive: Mask
    verification: Verification | None
    repair: Repair
    budget: Budget | None = None
    blocks: Blocks | None = None
    shorter: Shorter | None = None
    pairs: LowRankPruning | None = None


def nothing(groups: Groups, options: Options) -> str:
    """Why no unit goes."""
    if groups.groups:
        return f"at ratio {options.ratio:g} with these options no group loses a unit ({len(groups.groups)} groups could)"
    if not groups.frozen:
        return "the model has no weights"
    sizes = {name: math.prod(weight.shape) for name, weight in groups.trace.weights.items()}
    channels = [f for f in groups.frozen if f.axis < 2] or groups.frozen  # not the taps of a kernel
    held = max(channels, key=lambda f: (f.inexact, sizes[f.weight]))
    hint = "; `width` prunes such axes too" if held.inexact else ""
    return f"no group can be pruned; for example axis {held.axis} of {held.weight!r}: {held.reason}{hint}"
