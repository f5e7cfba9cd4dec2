"""What time groups save, and which of them save most for the error that they cost.

Times are those of the table of latencies (`onnxprune.latency`), one group narrower at a time. To say which groups pay, all
are taken to the same predicted error of the outputs, each at the width that saves most time there, of those that a latency
target chooses from. So a group that may go without a loss and saves nothing does not come first, nor does one whose half
saves much and ruins the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.budget.levels import levels_of
from onnxprune.latency.cost import Latency
from onnxprune.search.sensitivity import GroupCurve, Sensitivity, Worth
from onnxprune.search.study import Study

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_SHOWN = 16  # widths of a group


def add_latency(study: Study, found: Sensitivity, latency: Latency) -> None:
    """Fills in what groups save.

    Args:
        study: the model.
        found: result of `predicted`.
        latency: its table; see `Study.latency`.
    """
    whole = latency.total({})
    found.latency, found.latency_table = whole, latency.of_source()
    for curve in found.groups:
        for point in curve.points:
            point.latency = latency.total({curve.id: curve.units - point.removed})
            point.latency_share = point.latency / whole if whole else 1.0
    gone, errors, saved = _widths(study, latency, whole)
    found.worth_error = common_error({c.id: c.units for c in found.groups}, gone, errors, saved)
    for curve in found.groups:
        if curve.id in gone and found.worth_error is not None:
            front = paying(gone[curve.id], errors[curve.id], saved[curve.id])
            within = [width for width in front if width.predicted <= found.worth_error]
            curve.worth = within[-1] if within else Worth(0, 0.0, 0.0)
            curve.paying = _few(front)


def _widths(study: Study, latency: Latency, whole: float) -> tuple[dict[str, Counts], dict[str, Floats], dict[str, Floats]]:
    """By group id, at the widths that a latency target chooses from: units that go, rising, what that loses, and saves."""
    options = replace(study.options, steps=latency.of_table.steps)
    units = {c.group.id: c.group.units for c in study.choices}
    gone = {g: units[g] - kept[::-1] for g, kept in levels_of(study.choices, options).items() if g in study.known}
    gone = {g: own[own < study.losses[g].size] for g, own in gone.items()}
    errors = {g: np.sqrt(np.maximum(study.losses[g][own], 0.0)) for g, own in gone.items()}
    times = latency.table({}, {g: units[g] - own for g, own in gone.items()})
    return gone, errors, {g: 1 - ms / whole if whole else np.zeros(len(ms)) for g, ms in times.items()}


def paying(gone: Counts, errors: Floats, saved: Floats) -> list[Worth]:
    """Widths that save more time than any with less error, by rising error.

    Args:
        gone: units that go `(N,)`.
        errors: predicted there.
        saved: share of the source's time.
    """
    found, most = [], 0.0
    for k in np.lexsort((-saved, errors)):
        if saved[k] > most:
            most = float(saved[k])
            found.append(Worth(int(gone[k]), float(errors[k]), most))
    return found


def _few(front: Sequence[Worth]) -> list[Worth]:
    """Widths by even steps of the time that they save."""
    if len(front) <= _SHOWN:
        return list(front)
    saved = np.array([width.saved for width in front])
    places = {int(np.argmin(np.abs(saved - wanted))) for wanted in np.linspace(saved[0], saved[-1], _SHOWN)}
    return [front[k] for k in sorted(places)]


def common_error(
    units: Mapping[str, int], gone: Mapping[str, Counts], errors: Mapping[str, Floats], saved: Mapping[str, Floats]
) -> float | None:
    """A round error at which groups can be compared: half of the time that halves of groups save costs less, half more.

    Args:
        units: of each group, by its id.
        gone: units that go, of some widths.
        errors: predicted there.
        saved: share of the source's time there.
    """
    middles = {g: int(np.argmin(np.abs(own - units[g] / 2))) for g, own in gone.items() if own.size}
    halves = [(float(errors[g][k]), float(saved[g][k])) for g, k in middles.items()]
    paying = sorted((error, share) for error, share in halves if share > 0 and error > 0)
    if not paying:
        return None
    total = np.cumsum([share for _, share in paying])
    middle = paying[int(np.searchsorted(total, total[-1] / 2))][0]
    steps = [digit * 10.0**power for power in range(-6, 2) for digit in (1, 2, 5)]
    return min(steps, key=lambda step: abs(np.log(step / middle)))


def by_worth(found: Sensitivity) -> list[GroupCurve]:
    """The groups, those that save most time first; where no error is predicted, last."""
    return sorted(found.groups, key=lambda c: -1.0 if c.worth is None else c.worth.saved, reverse=True)
