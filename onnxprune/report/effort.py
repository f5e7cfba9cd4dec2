"""What the stages of a pruning with data will take, by the arithmetic they do: for shares of progress."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.calibrate.batch import Samples
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.statistics.effort import elimination_seconds, fit_seconds, gram_seconds, matrix_size, run_seconds
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import find_linear

_BACK = 8  # runs of the model that one run forth and back takes
_REPORT = 1.0  # seconds
_SURGERY = 3e-3  # seconds for a node, about


@dataclass(frozen=True)
class Effort:
    """Seconds of each stage.

    Attributes:
        gradients: of gates, for the criterion.
        statistics: moments for the criterion.
        sensitivity: of the output to each group.
        select: ranking.
        surgery: with its proof.
        reconstruction: least squares.
        report: comparison of outputs.
    """

    gradients: float
    statistics: float
    sensitivity: float
    select: float
    surgery: float
    reconstruction: float
    report: float

    def bounds(self, spent: float) -> dict[str, tuple[float, float]]:
        """Stage -> shares of the whole at which it starts and ends, after some seconds that were spent already."""
        total = spent + sum(vars(self).values())
        result = {}
        for name, seconds in vars(self).items():
            result[name] = (spent / total, (spent + seconds) / total)
            spent += seconds
        return result


def effort(
    prepared: Prepared,
    groups: Groups,
    samples: Samples,
    *,
    statistics: bool,
    gradients: bool,
    passes: int,
    reconstruction: bool,
) -> Effort:
    """Estimates what is to be done for a model and its samples.

    Args:
        prepared: the model.
        groups: its analysis.
        samples: calibration samples.
        statistics: the criterion needs them.
        gradients: the criterion needs them.
        passes: samples that run through the model for each group, to see what errors there do to the output.
        reconstruction: weights are fitted.
    """
    flow = Flow(prepared.model)
    linears = find_linear(flow, groups.trace.shape_of)
    forward = sum(run_seconds(flow, groups, x, samples) for x in linears)
    widths = {x.x: matrix_size(x)[1] // x.form.taps * matrix_size(x)[0] for x in linears}
    grams = sum(gram_seconds((1, c, 0), samples) for c in widths.values())
    return Effort(
        _BACK * forward * gradients,
        (forward / 2 + grams) * statistics,
        forward / 2 * passes / max(samples.count, 1) * len(groups.groups),
        sum(elimination_seconds(c) for c in widths.values()),
        len(flow.nodes) * _SURGERY + 8 * forward / max(samples.count, 1),
        (2 * forward + sum(fit_seconds(matrix_size(x), samples) for x in linears)) * reconstruction,
        forward + _REPORT,
    )
