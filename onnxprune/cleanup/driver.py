"""Runs passes until none of them changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxprune.cleanup.registry import Declined, Pass
from onnxprune.cleanup.result import PassRecord
from onnxprune.cleanup.shapes import infer_shapes
from onnxprune.cleanup.work import Work

_MOST_ROUNDS = 64


def run_passes(work: Work, passes: Sequence[Pass], tell: Callable[[str], None] = lambda name: None) -> dict[str, PassRecord]:
    """Simplifies the model to the fixed point of the passes; returns what each of them did.

    Raises:
        RuntimeError: passes undo each other's work, which is a bug of ours.
    """
    records = {p.name: PassRecord(needs_opset=p.since if p.since > work.opset else 0) for p in passes}
    possible = [p for p in passes if p.since <= work.opset]
    for _ in range(_MOST_ROUNDS):
        infer_shapes(work)
        changes = 0
        for entry in possible:
            tell(entry.name)
            changes += _run(work, entry, records[entry.name])
        if not changes:
            return records
    busy = [name for name, record in records.items() if record.changes]
    raise RuntimeError(f"no fixed point after {_MOST_ROUNDS} rounds of {', '.join(busy)}")


def _run(work: Work, entry: Pass, record: PassRecord) -> int:
    start = time.perf_counter()
    work.declined = {}
    changes = entry.model(work) if entry.model is not None else _run_on_nodes(work, entry)
    record.declined = work.declined
    if changes:
        sweep(work.model)
    record.changes += changes
    record.seconds += time.perf_counter() - start
    return changes


def _run_on_nodes(work: Work, entry: Pass) -> int:
    assert entry.node is not None
    changes = 0
    for node in work.nodes(entry.ops):
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue  # dead since a change of this very pass
        try:
            changes += bool(entry.node(work, node))
        except Declined as reason:
            work.decline(node, reason)
    return changes


def sweep(model: ir.Model) -> int:
    """Removes nodes and initializers that nothing reads; returns how many."""
    count = 0
    for root in (model.graph, *(f.graph for f in model.functions.values())):
        count += _sweep_graph(root)
    return count


def _sweep_graph(graph: ir.Graph) -> int:
    count = 0
    for node in reversed(graph):
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)
            count += 1
            continue
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                count += _sweep_graph(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                count += sum(_sweep_graph(g) for g in attribute.as_graphs())
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]
            count += 1
    return count
