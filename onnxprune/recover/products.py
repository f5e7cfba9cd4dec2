"""Finds products of queries and keys that lost dimensions: a MatMul of two activations, or an attention operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.wiring import Operand, find_linear_of
from onnxprune.statistics.flow import Flow, attributes
from onnxprune.statistics.linear import Linear, plain_linear
from onnxprune.statistics.stream import Stream
from onnxprune.trace.value import Value

Array = NDArray[Any]
_AROUND = ("Identity", "Cast", "Where", "Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Side:
    """One factor of a product of two activations.

    Attributes:
        operand: in either model.
        linear: the node of the pruned model that makes it.
        source: the same node of the source.
        heads: which heads of the source stay `(h,)`.
    """

    operand: Operand
    linear: Linear
    source: Linear
    heads: Array


@dataclass(frozen=True)
class Logits:
    """A product of queries and keys that lost dimensions.

    Attributes:
        node: its index in the pruned model.
        query: left.
        key: right.
        judged: tensor by which new weights are judged.
        softmax: what is added to all logits of a query does not count.
        between: nodes that run again when the projections changed.
    """

    node: int
    query: Side
    key: Side
    judged: str
    softmax: bool
    between: frozenset[int]


def find_logits(pruned: Stream, dense: Stream, linears: Sequence[Linear], groups: Groups, alive: Mask) -> list[Logits]:
    """Products of queries and keys whose inner dimension shrank, in graph order.

    Args:
        pruned: the pruned model.
        dense: the source.
        linears: linear nodes of the pruned model.
        groups: analysis of the source.
        alive: for each label whether it stays.
    """
    flow, values, found = pruned.flow, groups.trace.values, []
    sources = plain_linear(dense.flow)
    for k in range(len(flow.nodes)):
        operands = _operands(flow, k, values)
        if operands is None:
            continue
        sides = []
        for operand in operands:
            heads = _live_heads(operand, values.get(operand.name), alive)
            linear, source = find_linear_of(flow, linears, operand.name), find_linear_of(dense.flow, sources, operand.name)
            if heads is None or linear is None or source is None or linear.y != source.y:
                break
            sides.append(Side(operand, linear, source, heads))
        if len(sides) < 2:
            continue
        judged, softmax = _judged(flow, k)
        ways = [flow.between(s.linear.y, [judged]) for s in sides]
        if _read_elsewhere(flow, sides, k, groups):
            continue
        found.append(Logits(k, sides[0], sides[1], judged, softmax, ways[0] | ways[1] | {s.linear.node for s in sides}))
    return found


def _operands(flow: Flow, k: int, values: Mapping[str, Value]) -> tuple[Operand, Operand] | None:
    """Queries and keys of a product of two activations."""
    node = flow.nodes[k]
    names = list(node.input[:2])
    if len(names) < 2 or not all(n in flow.producer and flow.varying[flow.producer[n]] for n in names):
        return None
    if node.op_type == "MatMul" and all(n in values and values[n].shape is not None and values[n].rank == 4 for n in names):
        return Operand(names[0], (0, 2, 1, 3)), Operand(names[1], (0, 3, 1, 2))
    given = attributes(node)
    kind = node.domain, node.op_type
    plain = kind == ("com.microsoft", "MultiHeadAttention") and not (len(node.input) > 3 and node.input[3])
    if not plain and kind != ("", "Attention"):
        return None
    result = []
    for name, attribute in zip(names, ("q_num_heads", "kv_num_heads"), strict=True):
        value = values.get(name)
        if value is None or value.shape is None or value.rank not in (3, 4):
            return None
        heads = int(given.get("num_heads" if plain else attribute, 0))
        result.append(Operand(name, (0, 2, 1, 3)) if value.rank == 4 else Operand(name, None, heads))
    return result[0], result[1]


def _live_heads(operand: Operand, value: Value | None, alive: Mask) -> Array | None:
    """Which heads stay, where those that do lost dimensions; else None."""
    if value is None or value.shape is None:
        return None
    cells = np.ones(value.sizes, np.bool_)
    for f in value.fields:
        if set(f.axes) & {0, 1 if operand.order is None else operand.order[1]}:
            return None
        kept = alive[f.labels]
        cells &= kept.reshape([n if a in f.axes else 1 for a, n in enumerate(value.sizes)])
    stays = operand.rows(cells)[0, 0]
    heads = stays.any(axis=1)
    counts = stays[heads].sum(axis=1)
    return np.flatnonzero(heads) if counts.size and (counts == counts[0]).all() and counts[0] < stays.shape[1] else None


def _read_elsewhere(flow: Flow, sides: Sequence[Side], k: int, groups: Groups) -> bool:
    """Something else reads the dimensions that the product sums over."""
    values, of_label = groups.trace.values, groups.classes.of_label
    own = [of_label[f.labels].ravel() for s in sides for f in values[s.operand.name].fields]
    way = {b for s in sides for b in flow.between(s.linear.y, [s.operand.name])}
    made = {o for b in way for o in flow.nodes[b].output} | {s.linear.y for s in sides}
    readers = {r for name in made for r, _ in flow.readers.get(name, ())} - way - {k}
    others = [f for r in readers for o in flow.nodes[r].output if o in values for f in values[o].fields]
    return any(np.isin(of_label[f.labels], np.concatenate(own)).any() for f in others if own)


def _judged(flow: Flow, k: int) -> tuple[str, bool]:
    """The probabilities that logits become, or the logits themselves, and whether a Softmax over keys follows."""
    name = flow.nodes[k].output[0]
    if flow.nodes[k].op_type != "MatMul":
        return name, True
    end = name
    while len(readers := flow.readers.get(end, [])) == 1 and end not in flow.outputs:
        node = flow.nodes[readers[0][0]]
        if node.op_type == "Softmax" and attributes(node).get("axis", -1) in (-1, 3):
            return node.output[0], True
        others = [flow.constant(n) for n in node.input if n != end]
        if node.op_type not in _AROUND or (node.op_type in ("Mul", "Div") and any(c is None or c.size > 1 for c in others)):
            break
        end = node.output[0]
    return name, False


def pins(logits: Logits, flow: Flow) -> frozenset[str]:
    """Tensors of a model that are needed to look into what lies between projections and product, and to run it again."""
    sides = (logits.query, logits.key)
    between = {k for s in sides for y in [s.linear.y] for k in flow.between(y, [s.operand.name, logits.judged])}
    return flow.needs(between | {flow.producer[s.linear.y] for s in sides}) | {s.linear.y for s in sides}
