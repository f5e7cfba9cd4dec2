"""The report of one pruning: figures of source and result side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.budget.choose import widths_of
from onnxprune.io.structure import model_size
from onnxprune.io.surgeon import import_graph
from onnxprune.latency.figures import LatencyFigures
from onnxprune.lossless.find import Lossless
from onnxprune.pipeline.attempt import Attempt
from onnxprune.report.fidelity import Fidelity, fidelity
from onnxprune.report.layers import layers
from onnxprune.report.losses import GroupLoss, group_losses, input_axes
from onnxprune.report.report import Report, count_params, rows, total_macs

if TYPE_CHECKING:
    from onnxprune.pipeline.pruning import Pruning


def report_of(pruning: Pruning, found: Attempt) -> Report:
    """The figures of one attempt.

    Raises:
        ModelError: ONNX Runtime can't run the result on the samples.
    """
    groups, repair, checker = pruning.groups, found.repair, pruning.checker
    pruning.tell("comparing outputs", pruning.shares["report"][0])
    likeness = likeness_of(pruning, found)
    result = import_graph(repair.model)
    report = Report(
        params_before=count_params(groups),
        params_after=count_params(groups, found.alive, repair.model),
        macs_before=total_macs(groups, pruning.prepared.graph),
        macs_after=total_macs(groups, result, found.alive),
        bytes_before=model_size(pruning.source),
        bytes_after=model_size(repair.model),
        groups=rows(groups, found.choices),
        frozen=groups.frozen,
        unknown_ops=groups.trace.unknown,
        failures=groups.trace.failures,
        put_back=checker.put_back,
        verification=found.verification,
        unverified=checker.unverified if pruning.request.check else "not asked for",
        shapes=dict(pruning.prepared.shapes),
        seconds=pruning.clock.seconds,
        calibration=_calibration(pruning),
        criterion=pruning.options.criterion,
        fits=[] if repair.fits is None else repair.fits.fits,
        fidelity=likeness,
        lossless=None if pruning.proven is None else _counts(pruning.proven),
        losses=_losses(pruning, found),
        merges=None if repair.merging is None else repair.merging.merges,
        shared=repair.shared,
        gradients="" if pruning.evidence.gradients is None else pruning.evidence.gradients.backend,
        resumed="" if pruning.journal is None else str(pruning.journal),
        layers=layers(groups, result, found.alive),
    )
    if found.budget is not None:
        report.blocks = found.blocks
        report.targets, report.unmet = list(found.budget.found.values()), found.budget.unmet
        report.latency = _latency(found)
    pruning.clock("report")
    return report


def likeness_of(pruning: Pruning, found: Attempt) -> list[Fidelity]:
    """How far the outputs are from the source's; the fit has compared them already, where there was one.

    Raises:
        ModelError: ONNX Runtime can't run the result on the samples.
    """
    repair = found.repair
    if pruning.samples is None:
        return []
    if repair.likeness is not None:
        return repair.likeness.result(pruning.samples)
    return fidelity(repair.before, repair.after, pruning.samples, providers=pruning.providers)


def _calibration(pruning: Pruning) -> str:
    texts = [] if pruning.samples is None else [pruning.samples.origin, "" if pruning.home is None else pruning.home.text]
    return "; ".join(t for t in texts if t)


def _counts(proven: Lossless) -> dict[str, dict[str, int]]:
    """Units that provably do nothing, by group and kind."""
    return {group: {str(kind): n for kind, n in kinds.items()} for group, kinds in proven.counts().items()}


def _losses(pruning: Pruning, found: Attempt) -> list[GroupLoss]:
    """What the fits did, by group."""
    fits = found.repair.fits
    if fits is None:
        return []
    members = {c.group.id: c.group.members for c in found.choices}
    return group_losses(fits.fits, members, input_axes(pruning.prepared.model, pruning.groups.trace.shape_of))


def _latency(found: Attempt) -> LatencyFigures | None:
    """What was measured for a latency target."""
    budget = found.budget
    reached = None if budget is None else budget.found.get("latency")
    if budget is None or reached is None:
        return None
    return budget.setting.latency.figures(widths_of(found.choices), reached.after)
