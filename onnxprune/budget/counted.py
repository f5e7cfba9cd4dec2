"""Costs that are counted from shapes: multiply-accumulates, parameters, bytes of the file.

Each is a sum of terms, one for each node or weight, and a term depends on the few groups that touch it. So the table of a
group needs its own terms only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnxprune.budget.axes import Axes, Axis, Shape, sizes, touched
from onnxprune.budget.costs import Floats, Levels, Widths
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.structure import model_size
from onnxprune.io.surgeon import import_graph
from onnxprune.profiling.macs import node_macs
from onnxprune.profiling.rounds import rounds
from onnxprune.report.report import count_params, total_macs
from onnxprune.trace.value import Value


@dataclass(frozen=True)
class Term:
    """A part of a cost.

    Attributes:
        groups: that it depends on.
        value: by how many units of each of them are gone.
        factor: the value is this times a product of `axes`; None where it is no product.
        axes: each with its power.
    """

    groups: frozenset[str]
    value: Callable[[Mapping[str, int]], float]
    factor: float | None = None
    axes: tuple[tuple[Axis, int], ...] = ()

    def over(self, gone: Mapping[str, int], group: str, counts: NDArray[np.int64]) -> Floats:
        """The value with these numbers of units of one group gone `(counts,)`, and `gone` of the others."""
        if self.factor is None:
            return np.array([self.value({**gone, group: n}) for n in counts.tolist()])
        result = np.full(counts.size, self.factor)
        for axis, power in self.axes:
            result *= np.asarray(axis.over(gone, group, counts), np.float64) ** power
        return result


def as_product(shapes: Sequence[Shape | None], value: Callable[[Sequence[tuple[int, ...] | None]], float]) -> Term:
    """A term of shapes; as a product of axes where trials with longer axes say that it is one.

    Args:
        shapes: of the tensors that it depends on.
        value: from concrete shapes.
    """
    axes = list(dict.fromkeys(a for s in shapes if s for a in s if isinstance(a, Axis)))

    def at(longer: Mapping[Axis, int]) -> float:
        return value([None if s is None else tuple(longer[a] if isinstance(a, Axis) else a for a in s) for s in shapes])

    def by_widths(gone: Mapping[str, int]) -> float:
        return value([sizes(s, gone) for s in shapes])

    whole = {a: a.size for a in axes}
    dense = at(whole)
    if not dense:
        return Term(frozenset(), by_widths)
    powers = {a: round(math.log2(max(at({**whole, a: 2 * a.size}) / dense, 1.0))) for a in axes}
    trial = {a: a.size * (2 + k) for k, a in enumerate(axes)}
    factor = dense / math.prod(float(a.size) ** k for a, k in powers.items())
    known = math.isclose(at(trial), factor * math.prod(float(trial[a]) ** k for a, k in powers.items()), rel_tol=1e-12)
    return Term(touched(shapes), by_widths, factor if known else None, tuple((a, k) for a, k in powers.items() if k))


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
        terms: Iterable[Term],
        measured: Callable[[onnx.ModelProto, Mask], float],
        base: float = 0.0,
    ) -> None:
        self.name, self.unit = name, unit
        self._axes, self._terms, self._measured = axes, list(terms), measured
        self._base = base + sum(t.value({}) for t in self._terms if not t.groups)
        self._terms = [t for t in self._terms if t.groups]

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
        return self._base + sum(t.value(gone) for t in self._terms)

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """Total by the width of one group at a time."""
        gone = self._axes.gone(widths)
        now = [t.value(gone) for t in self._terms]
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

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """What a pruned model has."""
        return self._measured(model, alive)


def macs(groups: Groups, axes: Axes) -> Counted:
    """Multiply-accumulates of one run at the traced shapes, as `total_macs` counts them; of an If the dearer branch."""
    terms: list[Term] = []
    scopes = groups.trace.inferred.scopes
    times = rounds(groups.trace.graph, scopes).times

    def collect(graph: gs.Graph) -> list[Term]:
        scope = scopes.get(id(graph), {})
        found = []
        for node in graph.nodes:
            found.append(_node_term(node, scope, axes, times.get(id(graph), 1)))
            bodies = [collect(body) for body in node.subgraphs()]
            found += max(bodies, key=lambda terms: sum(t.value({}) for t in terms), default=[])
        return [t for t in found if t.groups or t.value({})]

    terms = collect(groups.trace.graph)
    return Counted("macs", "MACs", axes, terms, lambda model, alive: float(total_macs(groups, import_graph(model), alive)))


def _node_term(node: gs.Node, scope: Mapping[str, Value], axes: Axes, times: int) -> Term:
    attrs = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}

    shapes = [axes.shape_of(scope[t.name]) if t.name in scope else None for t in (*node.inputs, *node.outputs)]
    count = len(node.inputs)
    return as_product(
        shapes, lambda given: float(times * node_macs(node.op, node.domain or "", attrs, given[:count], given[count:]))
    )


def params(groups: Groups, axes: Axes) -> Counted:
    """Elements of all float tensors of the graph."""
    terms = [_weight_term(axes.weight_shape(w), 1) for w in groups.trace.weights.values()]
    return Counted("params", "parameters", axes, terms, lambda model, alive: float(count_params(groups, alive)))


def size(groups: Groups, axes: Axes, source: onnx.ModelProto) -> Counted:
    """Bytes of the file, external data included: of all weights, and what the rest takes in the source."""
    values = groups.trace.values
    terms = []
    for weight in groups.trace.weights.values():
        if weight.stored and weight.name not in groups.trace.clones:
            terms.append(_weight_term(axes.weight_shape(weight), _item(values.get(weight.name))))
    rest = model_size(source) - sum(t.value({}) for t in terms)
    return Counted("size", "bytes", axes, terms, lambda model, alive: float(model_size(model)), rest)


def _weight_term(shape: Shape, item: float) -> Term:
    return as_product([shape], lambda given: item * math.prod(given[0] or ()))


def _item(value: Value | None) -> float:
    """Bytes of an element; types of 4 bits take half."""
    if value is None or not value.dtype:
        return 4.0
    dtype = helper.tensor_dtype_to_np_dtype(value.dtype)
    return 0.5 if "4" in dtype.name and dtype.itemsize == 1 else float(dtype.itemsize)
