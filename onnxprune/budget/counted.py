"""Costs that are counted from shapes: multiply-accumulates, parameters, bytes of the file.

Each is a sum of terms, one for each node or weight, and a term depends on the few groups that touch it. So the table of a
group needs its own terms only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxprune.budget.axes import Axes
from onnxprune.budget.costs import Floats, Levels, Widths
from onnxprune.budget.pairs import Cheaper, Twin
from onnxprune.budget.terms import Term, as_product
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.structure import model_size
from onnxprune.io.surgeon import import_graph
from onnxprune.profiling.macs import node_macs
from onnxprune.profiling.rounds import rounds
from onnxprune.report.report import count_params, total_macs
from onnxprune.trace.tracer import Weight
from onnxprune.trace.value import Value

Part = Term | Cheaper


class Counted:
    """A sum of terms; see `onnxprune.budget.costs.Cost`.

    Args:
        axes: lengths by widths.
        terms: that add up.
        measured: from a pruned model, and the labels that are left, to what it really has.
    """

    tolerance = 0.0

    def __init__(
        self,
        name: str,
        unit: str,
        axes: Axes,
        terms: Iterable[Part],
        measured: Callable[[onnx.ModelProto, Mask], float],
        base: float = 0.0,
    ) -> None:
        self.name, self.unit = name, unit
        self._axes, self._terms, self._measured = axes, list(terms), measured
        self._every, self._rest = self._terms, base
        self._base = base + sum(t.value({}) for t in self._terms if not t.groups)
        self._terms = [t for t in self._terms if t.groups]
        self._groups = [tuple(t.groups) for t in self._terms]
        self._last: list[tuple[tuple[int, ...], float] | None] = [None] * len(self._terms)

    @cached_property
    def _of_group(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for k, term in enumerate(self._terms):
            for g in term.groups:
                found.setdefault(g, []).append(k)
        return found

    def total(self, widths: Widths) -> float:
        """Of the whole model."""
        gone = self._axes.gone(widths)
        return self._base + sum(self._now(gone))

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """Total by the width of one group at a time."""
        gone = self._axes.gone(widths)
        now = self._now(gone)
        whole = self._base + sum(now)
        result = {}
        for group, choices in levels.items():
            own = self._of_group.get(group, [])
            counts = self._axes.units[group] - choices
            total = np.full(choices.size, whole - sum(now[k] for k in own))
            for k in own:
                total += self._terms[k].over(gone, group, counts)
            result[group] = total
        return result

    def _now(self, gone: Mapping[str, int]) -> list[float]:
        """Values of all terms; one whose groups are as they were last time is not computed again."""
        found = []
        for k, (term, groups) in enumerate(zip(self._terms, self._groups, strict=True)):
            counts, last = tuple(gone.get(g, 0) for g in groups), self._last[k]
            if last is None or last[0] != counts:
                last = self._last[k] = counts, term.value(gone)
            found.append(last[1])
        return found

    def without(self, gone: Container[str]) -> Counted:
        """The same of a model without some tensors and the nodes that make them."""
        left = [t for t in self._every if t.tensor not in gone]
        return Counted(self.name, self.unit, self._axes, left, self._measured, self._rest)

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """What a pruned model has."""
        return self._measured(model, alive)


def macs(groups: Groups, axes: Axes, twins: Sequence[Twin] = ()) -> Counted:
    """Multiply-accumulates of one run at the traced shapes, as `total_macs` counts them; of an If the dearer branch.

    Nodes in `twins` count as one where that is less.
    """
    terms: list[Part] = []
    scopes = groups.trace.inferred.scopes
    times = rounds(groups.trace.graph, scopes).times
    paired = {name for twin in twins for name in (twin.inner, twin.output)}

    def collect(graph: gs.Graph) -> list[Term]:
        scope = scopes.get(id(graph), {})
        found = []
        for node in graph.nodes:
            if paired and node.outputs[0].name in paired:
                of_output[node.outputs[0].name] = _node_term(node, scope, axes, 1)
                continue
            found.append(_node_term(node, scope, axes, times.get(id(graph), 1)))
            bodies = [collect(body) for body in node.subgraphs()]
            dearest = max(bodies, key=lambda terms: sum(t.value({}) for t in terms), default=[])
            found += [replace(t, tensor=node.outputs[0].name) for t in dearest]
        return [t for t in found if t.groups or t.value({})]

    of_output: dict[str, Term] = {}
    terms += collect(groups.trace.graph)
    for twin in twins:
        square = as_product([axes.shape_of(groups.trace.values[twin.inner])], _squared(twin.axis))
        terms.append(Cheaper(of_output[twin.inner], of_output[twin.output], square))
    return Counted("macs", "MACs", axes, terms, lambda model, alive: float(total_macs(groups, import_graph(model), alive)))


def _node_term(node: gs.Node, scope: Mapping[str, Value], axes: Axes, times: int) -> Term:
    attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}

    shapes = [axes.shape_of(scope[t.name]) if t.name in scope else None for t in (*node.inputs, *node.outputs)]
    count = len(node.inputs)
    term = as_product(
        shapes, lambda given: float(times * node_macs(node.op, node.domain or "", attrs, given[:count], given[count:]))
    )
    return replace(term, tensor=node.outputs[0].name if node.outputs else "")


def _squared(axis: int) -> Callable[[Sequence[tuple[int, ...] | None]], float]:
    """Elements of a tensor, times the length of one axis."""
    return lambda given: float(math.prod(given[0]) * given[0][axis]) if given[0] else 0.0


def params(groups: Groups, axes: Axes, twins: Sequence[Twin] = ()) -> Counted:
    """Elements of all float tensors of the graph; weights in `twins` count as one where that is less."""
    terms = _weight_terms(groups, axes, list(groups.trace.weights.values()), twins, lambda w: 1.0)
    return Counted("params", "parameters", axes, terms, lambda model, alive: float(count_params(groups, alive, model)))


def size(groups: Groups, axes: Axes, source: onnx.ModelProto, twins: Sequence[Twin] = ()) -> Counted:
    """Bytes of the file, external data included: of all weights, and what the rest takes in the source.

    Weights in `twins` count as one where that is less.
    """
    values = groups.trace.values
    stored = [w for w in groups.trace.weights.values() if w.stored and w.name not in groups.trace.clones]

    def item(weight: Weight) -> float:
        return _item(values.get(weight.name))

    rest = model_size(source) - sum(item(w) * math.prod(w.shape) for w in stored)
    terms = _weight_terms(groups, axes, stored, twins, item)
    return Counted("size", "bytes", axes, terms, lambda model, alive: float(model_size(model)), rest)


def _weight_terms(
    groups: Groups, axes: Axes, weights: Sequence[Weight], twins: Sequence[Twin], item: Callable[[Weight], float]
) -> list[Part]:
    """What weights take, by what an element of them takes."""
    paired = {name for twin in twins for name in (twin.first, twin.second)}
    terms: list[Part] = [_weight_term(w, axes, item) for w in weights if w.name not in paired]
    return [*terms, *(twin_weights(groups, axes, twin, item) for twin in twins)]


def twin_weights(groups: Groups, axes: Axes, twin: Twin, item: Callable[[Weight], float] = lambda w: 1.0) -> Cheaper:
    """What the weights of two nodes take, or the one of which they are factors: elements, unless `item` says otherwise."""
    first, second = (groups.trace.weights[name] for name in (twin.first, twin.second))
    a, b = (_weight_term(w, axes, item) for w in (first, second))
    rank, each = axes.weight_shape(first)[twin.first_axis], item(first)
    return Cheaper(a, b, as_product([(rank, rank)], lambda given: each * math.prod(given[0] or ())))


def _weight_term(weight: Weight, axes: Axes, item: Callable[[Weight], float]) -> Term:
    each = item(weight)
    term = as_product([axes.weight_shape(weight)], lambda given: each * math.prod(given[0] or ()))
    return replace(term, tensor=weight.name)


def _item(value: Value | None) -> float:
    """Bytes of an element; types of 4 bits take half."""
    if value is None or not value.dtype:
        return 4.0
    dtype = helper.tensor_dtype_to_np_dtype(value.dtype)
    return 0.5 if "4" in dtype.name and dtype.itemsize == 1 else float(dtype.itemsize)
