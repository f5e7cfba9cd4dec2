"""What is to be fitted, in which order."""

from __future__ import annotations

from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Declined, Linear, ShapeOf, find_declined, find_linear
from onnxprune.statistics.recurrent import GATES, Recurrent, find_recurrent

Step = Linear | Recurrent | Declined


def steps(flow: Flow, shape_of: ShapeOf) -> list[Step]:
    """What could be fitted, and what could not although it multiplies with stored weights, in graph order."""
    return sorted(
        [*find_linear(flow, shape_of), *find_declined(flow, shape_of), *find_recurrent(flow)], key=lambda x: x.node
    )


def steps_behind(flow: Flow, source: Flow, shape_of: ShapeOf) -> list[Step]:
    """Nodes of the pruned model whose input is not what it was in the source, or whose hidden units went.

    Nodes that read a weight of one of them go along.
    """
    changed = {
        n for n, t in flow.initializers.items() if n not in source.initializers or t.dims != source.initializers[n].dims
    }
    dirty: set[str] = set()
    for k, node in enumerate(flow.nodes):
        if any(n in changed or n in dirty for n in flow.reads(k)):
            dirty |= set(node.output)
    every = steps(flow, shape_of)
    behind = [
        x
        for x in every
        if x.x in dirty
        or (flow.nodes[x.node].op_type in GATES and any(n in changed or n in dirty for n in flow.nodes[x.node].input[1:3]))
    ]
    nodes, weights = {x.node for x in behind}, {x.weight for x in behind if isinstance(x, Linear)}
    return [x for x in every if x.node in nodes or (isinstance(x, Linear) and x.weight in weights)]
