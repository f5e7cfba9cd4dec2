"""What a pruning did, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxprune.budget.reached import Reached, Trial
from onnxprune.cleanup.result import SimplifyReport
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Frozen, Groups
from onnxprune.latency.figures import LatencyFigures
from onnxprune.lowrank.figures import LowRank
from onnxprune.profiling.macs import node_macs
from onnxprune.profiling.rounds import rounds
from onnxprune.proof.oracle import Verification
from onnxprune.recover.fit import Fit, Merge
from onnxprune.report.blocks import Blocks
from onnxprune.report.fidelity import Fidelity
from onnxprune.report.layers import Layer
from onnxprune.report.losses import GroupLoss
from onnxprune.select.allocate import Choice
from onnxprune.surgery.follow import pruned_shape
from onnxprune.surgery.weights import cut_shape, keep_of


@dataclass
class GroupRow:
    """One group and what went of it; `unit_params` in elements, `unit_macs` in multiply-accumulates."""

    id: str
    kind: str
    units: int
    removed: int
    exact: bool
    members: list[tuple[str, int]]
    unit_params: float
    unit_macs: float


@dataclass
class PutBack:
    """A group whose surgery failed its check. That is a bug of this program."""

    group: str
    reason: str


@dataclass
class Report:
    """Figures of a pruning.

    Attributes:
        params_before: elements of the float tensors of the graph.
        params_after: the same of the result.
        macs_before: multiply-accumulates of one run at the traced shapes.
        macs_after: the same of the result.
        bytes_before: size of the model as a protobuf, in bytes.
        bytes_after: the same of the result.
        groups: all groups that could go, and how much of each went.
        frozen: axes of weights that can't shrink, with reasons.
        unknown_ops: operators without a rule -> nodes.
        failures: rules that raised: bugs of this program.
        put_back: groups that were not pruned because their check failed: likewise.
        verification: of the result; None where it was not asked for or the source can't be run.
        unverified: why there is no verification.
        shapes: input shapes of the trace.
        seconds: by stage.
        calibration: where the samples came from, random ones too; empty, or why, where there were none.
        criterion: what the units were ranked by.
        fits: what reconstruction did to each node behind a removal that it knows.
        fidelity: how far the outputs are from the source's on the calibration samples.
        losses: what reconstruction did by group, the worst group first.
        lossless: group -> kind -> units that provably did nothing; None where that was not asked for.
        merges: what merging did to each linear node that read removed channels; None where that was not asked for.
        shared: names of tensors that are gone -> those of equal ones.
        gradients: how those that the criterion judges by were made; empty where it judges by others.
        targets: what was asked for and what the result has.
        trials: models that were evaluated for what a metric may lose.
        latency: what was measured for a latency target; None without one.
        unmet: why the targets can't be met, where the closest model was asked for.
        blocks: which blocks went as a whole, and which could; None where that was not asked for.
        layers: what each node costs before and after.
        resumed: what was taken over from an earlier run, and where it lies; empty where there was no folder for it.
        simplified: what the last stage did to the graph; None where it was not asked for.
        low_rank: nodes that became two; None where that was not asked for.
    """

    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    groups: list[GroupRow]
    frozen: list[Frozen]
    unknown_ops: dict[str, list[str]]
    failures: list[str]
    put_back: list[PutBack] = field(default_factory=list)
    verification: Verification | None = None
    unverified: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    calibration: str = ""
    criterion: str = ""
    fits: list[Fit] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)
    lossless: dict[str, dict[str, int]] | None = None
    losses: list[GroupLoss] = field(default_factory=list)
    merges: list[Merge] | None = None
    shared: dict[str, str] = field(default_factory=dict)
    gradients: str = ""
    resumed: str = ""
    targets: list[Reached] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    unmet: str = ""
    simplified: SimplifyReport | None = None
    latency: LatencyFigures | None = None
    layers: list[Layer] = field(default_factory=list)
    blocks: Blocks | None = None
    low_rank: LowRank | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def rows(groups: Groups, choices: list[Choice]) -> list[GroupRow]:
    """One row for each group."""
    gone = {c.group.id: c.count for c in choices}
    return [
        GroupRow(g.id, g.kind, g.units, gone.get(g.id, 0), g.exact, g.members, g.unit_params, g.unit_macs)
        for g in groups.groups
    ]


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def count_params(groups: Groups, alive: Mask | None = None, result: onnx.ModelProto | None = None) -> int:
    """Elements of all labelled tensors, of those that stay where `alive` is given.

    Args:
        groups: analysis of the source.
        alive: which labels stay; None for all.
        result: a model made from it, whose further tensors of floats count too: biases that were fitted.
    """
    total = 0
    if result is not None:
        graphs = [groups.trace.graph, *groups.trace.graph.subgraphs(recursive=True)]
        known = {name for graph in graphs for name in graph.tensors()}
        new = [t for t in result.graph.initializer if t.name not in known and t.data_type in _FLOATS]
        total = sum(math.prod(t.dims) for t in new)
    for weight in groups.trace.weights.values():
        shape = weight.shape if alive is None else cut_shape(weight.shape, keep_of(weight, alive))
        total += math.prod(shape)
    return total


def total_macs(groups: Groups, graph: gs.Graph, alive: Mask | None = None) -> int:
    """Multiply-accumulates at the traced shapes.

    An If counts its dearer branch, the body of a Loop or Scan as often as it runs, once where data decides.

    Args:
        groups: analysis of the source.
        graph: the graph whose nodes are counted, of the source or the result.
        alive: which labels stay; None for all.
    """
    scopes = groups.trace.inferred.scopes
    times = rounds(groups.trace.graph, scopes).times

    def shapes_of(source: gs.Graph) -> dict[str, tuple[int, ...] | None]:
        values = scopes.get(id(source), {}).items()
        return {name: v.shape if alive is None else pruned_shape(v, alive) for name, v in values}

    def count(source: gs.Graph, counted: gs.Graph) -> int:
        shapes = shapes_of(source)
        bodies = iter([b for n in source.nodes for b in n.subgraphs()])
        total = 0
        for node in counted.nodes:
            ins, outs = ([shapes.get(t.name) for t in ts] for ts in (node.inputs, node.outputs))
            own = [count(next(bodies), body) for body in node.subgraphs()]
            attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}
            macs = node_macs(node.op, node.domain or "", attrs, ins, outs)
            total += macs * times.get(id(source), 1) + max(own, default=0)
        return total

    return count(groups.trace.graph, graph)
