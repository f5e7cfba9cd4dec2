"""Gradients of gates by central differences: for units that reverse mode does not reach.

Each takes two runs of the model, which are exact up to the third derivative along the gate. In single precision outputs have
an error of some 1e-7, so a step of 1/16 gives three digits at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Samples
from onnxprune.gradient.sample_loss import SampleLoss
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.statistics.gates import GatedModel

STEP = 1 / 16
Floats = NDArray[np.float64]


def gate_differences(
    model: onnx.ModelProto,
    groups: Groups,
    samples: Samples,
    loss: SampleLoss,
    wanted: Mapping[str, Mask],
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Floats]:
    """Gradient of each sample's loss with respect to the gates of some elements.

    Args:
        model: that `groups` analyses.
        groups: its analysis.
        samples: calibration samples.
        loss: of a sample.
        wanted: group id -> elements.
        progress: called with the stage and the share that is done.

    Returns:
        group id -> `(samples, elements)`, NaN where an element is not wanted or has no gate.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    gated = GatedModel(model, groups)
    chosen = {g: np.flatnonzero(mask & gated.known[g]).tolist() for g, mask in wanted.items()}
    rows: dict[str, list[Floats]] = {g: [] for g in wanted}
    run = gated.open()
    start = 0
    for b, batch in enumerate(samples.batches):
        progress("differences", b / len(samples.batches))
        targets = loss.targets(run(batch.feeds, {}), batch, start)
        for group, elements in chosen.items():
            found = np.full((len(targets), gated.known[group].size), np.nan)
            for e in elements:
                above, below = (
                    loss.values(run(batch.feeds, gated.with_element(group, e, 1 + h)), targets) for h in (STEP, -STEP)
                )
                found[:, e] = (above - below) / (2 * STEP)
            rows[group].append(found)
        start += batch.count
    return {g: np.concatenate(found) for g, found in rows.items()}
