"""Reconstruction by group: how much of the outputs behind each group was lost, and how much of it came back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.recover.fit import Fit
from onnxprune.statistics.convolution import Convolution
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Contraction, Form, ShapeOf, find_linear
from onnxprune.statistics.recurrent import Recurrent, find_recurrent


@dataclass(frozen=True)
class GroupLoss:
    """The linear nodes that read what went of one group; losses are shares of the variance of their outputs.

    Attributes:
        group: its id; empty for nodes that lie behind a removal, but read no group that lost units.
        nodes: how many were judged.
        fitted: how many of them got new weights.
        lost_before: mean over the nodes, on held-out samples with the old weights.
        lost_after: the same with the new ones.
        worst: the node that lost most after reconstruction.
        worst_after: what it lost.
    """

    group: str
    nodes: int
    fitted: int
    lost_before: float
    lost_after: float
    worst: str
    worst_after: float


def input_axes(model: onnx.ModelProto, shape_of: ShapeOf = lambda name: None) -> dict[str, tuple[int, ...]]:
    """Axes of each weight along which its linear node reads channels, as it is stored: two for a grouped convolution.

    Args:
        model: the source.
        shape_of: shapes of its activations, as far as they are known.
    """
    flow = Flow(lift(model))
    found = {x.weight: x.reading.stored_axes(_axes(x.form)) for x in find_linear(flow, shape_of)}
    for node in find_recurrent(flow):
        if isinstance(node, Recurrent):  # its units, and what it reads
            held = node.held[node.w]
            found[node.weight] = (1, 2) if held.shapes == (held.index.shape,) else tuple(range(len(held.shapes[0])))
    return found


def _axes(form: Form) -> tuple[int, ...]:
    if isinstance(form, Convolution):
        return (0,) if form.transposed else (1,) if form.groups == 1 else (1, 0)
    if isinstance(form, Contraction):
        return tuple(form.w.index(c) for c in form.summed + form.groups)
    return (1,) if form.flipped else (0,)


def group_losses(
    fits: Sequence[Fit], members: Mapping[str, Iterable[tuple[str, int]]], axes: Mapping[str, tuple[int, ...]]
) -> list[GroupLoss]:
    """Sums up fits by the group whose units the node reads, the worst group after reconstruction first.

    Args:
        fits: of the linear nodes behind a removal.
        members: group that lost units -> (weight, axis) that its units touch.
        axes: result of `input_axes` for the source.
    """
    groups = {member: group for group, touched in members.items() for member in touched}
    found: dict[str, list[Fit]] = {}
    for fit in fits:
        if fit.reason:  # nothing was measured
            continue
        read = [groups[fit.weight, axis] for axis in axes.get(fit.weight, ()) if (fit.weight, axis) in groups]
        found.setdefault(read[0] if read else "", []).append(fit)
    return sorted((_loss(group, own) for group, own in found.items()), key=lambda loss: -loss.lost_after)


def _loss(group: str, fits: Sequence[Fit]) -> GroupLoss:
    worst = max(fits, key=lambda f: f.lost_after)
    before, after = (sum(getattr(f, name) for f in fits) / len(fits) for name in ("lost_before", "lost_after"))
    return GroupLoss(group, len(fits), sum(f.kind != "none" for f in fits), before, after, worst.node, worst.lost_after)
