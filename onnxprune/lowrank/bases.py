"""In which basis the outputs of a wide node are written as two: principal components of what samples show of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import splits
from onnxprune.groups.group import Groups
from onnxprune.io.journal import Journal
from onnxprune.lowrank.candidates import Wide
from onnxprune.lowrank.factor import directions
from onnxprune.recover.target import follow
from onnxprune.statistics.channels import tensor_moments
from onnxprune.statistics.stream import Stream

Bases = Mapping[str, NDArray[np.float64]]
"""By the output of a node, columns that are directions, see `onnxprune.lowrank.factor.directions`."""


def bases_of(
    stream: Stream, wides: Sequence[Wide], groups: Groups, journal: Journal | None, progress: Callable[[str, float], None]
) -> Bases:
    """Principal directions of the outputs of some nodes.

    Args:
        stream: of the model, before its run.
        wides: the nodes.
        groups: analysis of the model.
        journal: where finished moments lie.
        progress: called with the stage and the share that is done.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """
    values, flow = groups.trace.values, stream.flow
    keys = {}
    for wide in wides:
        rank = values[wide.linear.y].rank
        keys[wide.linear.y, wide.linear.form.made_axes(rank)] = wide, rank
    channels = {key: flow.initializers[wide.linear.weight].dims[wide.outputs] for key, (wide, _) in keys.items()}
    found = {}
    apart = splits(stream.samples)  # removals are measured on those that are held out
    for key, m in tensor_moments(stream, channels, groups, "outputs", journal, progress, apart=apart):
        wide, rank = keys[key]
        moments = m.covariance
        if follow(flow, wide.linear, key[1], rank, channels[key]).slot is None:  # the mean has no other place
            moments = moments + np.outer(m.mean, m.mean)
        stored = flow.constant(wide.linear.weight)
        assert stored is not None
        found[key[0]] = directions(wide.linear.matrix(stored)[0], moments)
    return found
