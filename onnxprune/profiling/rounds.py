"""How often one run of a model executes the bodies of its control flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.shapes.infer import Scope
from onnxprune.trace.value import Value


@dataclass
class Rounds:
    """Executions of each graph in one run of the model.

    Attributes:
        times: by `id(graph)`; 1 for the main graph.
        open: ids of bodies that stop on a condition which depends on data: they count once.
    """

    times: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)


def rounds(graph: gs.Graph, scopes: Mapping[int, Scope]) -> Rounds:
    """Rounds of all bodies.

    1. The body of a Scan runs once for each slice of what it scans.
    2. That of a Loop as often as its trip count says, where that is known and its condition never changes.
    3. Any other body of a Loop counts as one round, and so does each branch of an If.

    Args:
        graph: the main graph.
        scopes: result of shape inference, by `id(graph)`.
    """
    found = Rounds()
    _add(found, graph, scopes, 1)
    return found


def _add(found: Rounds, graph: gs.Graph, scopes: Mapping[int, Scope], times: int) -> None:
    found.times[id(graph)] = times
    scope = scopes.get(id(graph), {})
    for node in graph.nodes:
        for body in node.subgraphs():
            own: int | None = 1
            if node.op == "Scan":
                own = _scanned(node, scope)
            elif node.op == "Loop":
                own = _looped(node, body, scope, scopes.get(id(body), {}))
            if own is None:
                found.open.add(id(body))
            _add(found, body, scopes, times * (1 if own is None else own))


def _scanned(node: gs.Node, scope: Scope) -> int | None:
    """Length of the scanned axis of the first scanned input."""
    states = len(node.inputs) - int(node.attrs["num_scan_inputs"])
    value = scope.get(node.inputs[states].name) if states < len(node.inputs) else None
    if value is None or not value.shape:
        return None
    axes = node.attrs.get("scan_input_axes") or [0]
    return value.shape[int(axes[0]) % len(value.shape)]


def _looped(node: gs.Node, body: gs.Graph, scope: Scope, inner: Scope) -> int | None:
    """The trip count; None where the condition may end the loop earlier."""
    count = _number(scope.get(node.inputs[0].name)) if node.inputs and node.inputs[0].name else None
    given = len(node.inputs) > 1 and node.inputs[1].name
    starts = not given or _number(scope.get(node.inputs[1].name))
    goes_on = body.outputs[0]
    while goes_on.inputs and goes_on.inputs[0].op == "Identity":
        goes_on = goes_on.inputs[0].inputs[0]
    same = goes_on is body.inputs[1] or bool(_number(inner.get(goes_on.name)))
    return int(count) if count is not None and starts and same else None


def _number(value: Value | None) -> float | None:
    """A static scalar."""
    if value is None or value.static is None or value.static.size != 1:
        return None
    return float(np.asarray(value.static).ravel()[0])
