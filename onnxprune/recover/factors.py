"""Without data: factors that make normalizations over a pruned width what they would be with zeros in place of what went.

A mean of squares over fewer channels is another one than over all of them with zeros in between, so a removal does more than
to silence channels: what stays shrinks by about sqrt(kept / all). The factor is measured, not assumed: the source with zeros
(`onnxprune.surgery.inflate`) and the pruned model run on the same random inputs, and one number for each normalization makes
the latter the former. Under RMSNorm that is exact, and the pruned model becomes what an exact removal would have left.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.recover.run import Run
from onnxprune.recover.scales import Scale, find_scales, moments_of, scaled
from onnxprune.recover.slots import give_vectors, write_weights
from onnxprune.statistics.flow import lift
from onnxprune.statistics.stream import Stream
from onnxprune.surgery.inflate import inflate


def match_zeros(
    prepared: Prepared, groups: Groups, alive: Mask, pruned: onnx.ModelProto, samples: Samples, *, budget: int = 1 << 30
) -> onnx.ModelProto:
    """The pruned model with a factor in the scale of each normalization whose width shrank.

    Args:
        prepared: the source as it was traced.
        groups: its analysis.
        alive: for each label whether it stays.
        pruned: result of the removal; not changed.
        samples: random inputs.
        budget: bytes of activations held in memory, for each of the two models.

    Raises:
        ModelError: ONNX Runtime can't run a model on the samples.
    """
    result = onnx.ModelProto()
    result.CopyFrom(pruned)
    give_vectors(result, prepared.model, groups, alive)
    small = Stream(lift(result), samples, budget)
    scales = [s for s in find_scales(small.flow, groups, alive, set()) if s.scale]
    if not scales:
        return result
    zeros = lift(inflate(prepared.model, pruned, groups, alive))
    run = Run(groups, alive, samples, "affine", Stream(zeros, samples, budget), small)
    for scale in scales:
        _match(run, scale)
    write_weights(result, small.weights)
    return result


def _match(run: Run, scale: Scale) -> None:
    nodes = frozenset(scale.nodes)
    pins = run.pruned.flow.needs(nodes) - run.pruned.pinned
    run.pruned.pinned |= pins
    run.pruned.compute([scale.y])
    run.dense.compute([scale.y])
    train, held = moments_of(run, scale)
    total = train.merged(held)
    both, own = float(total.xy.sum()), float(total.xx.sum())
    if both > 0 and own > 0:
        ones = np.ones(len(total.x))
        vectors = {scale.scale: run.weight(scale.scale)}
        alone = Scale(scale.name, scale.nodes, scale.y, scale.axis, scale.scale, scale.divides)
        run.pruned.weights |= scaled(alone, vectors, ones * (both / own), 0 * ones)
        run.pruned.redo(nodes)
    run.pruned.pinned -= pins
