"""Making up for what went: channels are folded into others, what stays is fitted, equal tensors become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.errors import ModelError
from onnxprune.groups.classes import Mask
from onnxprune.io.share import share_initializers
from onnxprune.pipeline.attempt import Repair
from onnxprune.pipeline.request import read
from onnxprune.pipeline.stages import part
from onnxprune.recover.factors import match_zeros
from onnxprune.recover.merge import merge_channels
from onnxprune.recover.normalization import brought_back
from onnxprune.recover.reconstruct import reconstruct
from onnxprune.report.fidelity import Likeness
from onnxprune.surgery.apply import apply_alive

if TYPE_CHECKING:
    from onnxprune.pipeline.pruning import Pruning

_DRAWN = 4  # random inputs for normalizations


def compensate(pruning: Pruning, repair: Repair, alive: Mask, *, exact: bool) -> None:
    """Changes the weights that stay, as the request says.

    Args:
        pruning: with the evidence for it.
        repair: the model after the surgery; takes what is done to it.
        alive: labels that are left.
        exact: all groups that lost units are exact.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    request, expected = pruning.request, pruning.evidence.expected
    if not request.target:
        pruning.evidence.expected = None  # there is no other attempt
    if request.merge and expected is not None:
        repair.merging = merge_channels(
            pruning.prepared, pruning.groups, alive, repair.model, expected.statistics, unknown=expected.unknown
        )
        repair.model = repair.after = repair.merging.model
        pruning.clock("merging")
    if pruning.samples is not None and request.fits:
        _fit(pruning, repair, alive, pruning.samples)
    elif pruning.samples is None and request.reconstruct is None and not exact:
        repair.model = _match_zeros(pruning, repair.model, alive)
        pruning.clock("factors of normalizations")
    if request.merge:
        known = {t.name for t in pruning.prepared.model.graph.initializer}
        fresh = {t.name for t in repair.model.graph.initializer} - known
        repair.model, repair.shared = share_initializers(repair.model, keep=fresh)


def _fit(pruning: Pruning, repair: Repair, alive: Mask, samples: Samples) -> None:
    start = repair.model if pruning.home is None else apply_alive(pruning.reference.model, pruning.groups, alive)
    repair.likeness = Likeness()
    repair.fits = reconstruct(
        pruning.teacher,
        pruning.groups,
        alive,
        start,
        samples,
        mode=pruning.request.reconstruct or "lsq",
        budget=pruning.request.memory // 4,
        providers=pruning.providers,
        journal=pruning.journal,
        progress=part(pruning.tell, pruning.shares["reconstruction"]),
        watch=repair.likeness.add,
    )
    repair.before, repair.after = pruning.teacher.model, repair.fits.model
    repair.model = repair.after if pruning.home is None else brought_back(repair.after, repair.model)
    pruning.clock("reconstruction")


def _match_zeros(pruning: Pruning, pruned: onnx.ModelProto, alive: Mask) -> onnx.ModelProto:
    """Normalizations over a pruned width, without data; as they were where the model can't be run."""
    try:
        drawn = read("synthetic", pruning.source, _DRAWN, None, pruning.request.shapes, pruning.request.seed)
        return match_zeros(pruning.prepared, pruning.groups, alive, pruned, drawn)
    except ModelError:
        return pruned
