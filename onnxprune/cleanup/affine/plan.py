"""Where an affine function of a tensor may go: a plan of new weights, made before anything is changed.

A rule knows one operator. `UP` rules say what has to become of a node's inputs so that one of its outputs y becomes
s·y + t; `DOWN` rules say what becomes of its outputs when one of its inputs x is replaced by s·x + t. Both put the new
weights into the plan, and return what is left for other values to take over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.affine.affine import Affine
from onnxprune.cleanup.reading import Array, full_name
from onnxprune.cleanup.registry import Declined
from onnxprune.cleanup.work import Work

Rest: TypeAlias = list[tuple[int, Affine]]
Rule: TypeAlias = "Callable[[Plan, ir.Node, int, Affine], Rest]"
_Place: TypeAlias = tuple[ir.Node, int]  # input of a node
UP: dict[str, Rule] = {}
DOWN: dict[str, Rule] = {}
_SLACK = 4096  # bytes that the weights of one node may need more: about what the node and its declarations take
_LARGE = 1 << 22  # bytes of a weight that is not widened
_EXACT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def up(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule for outputs."""

    def register(rule: Rule) -> Rule:
        UP.update(dict.fromkeys(ops, rule))
        return rule

    return register


def down(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule for inputs."""

    def register(rule: Rule) -> Rule:
        DOWN.update(dict.fromkeys(ops, rule))
        return rule

    return register


class Plan:
    """New weights by node and input, so that affine functions of tensors need no nodes of their own.

    Attributes:
        work: the model.
        spares: nodes that are needed no more, and which input of each takes the place of its output.
    """

    def __init__(self, work: Work, spares: Mapping[ir.Node, int] = MappingProxyType({})) -> None:
        self.work = work
        self.spares = dict(spares)
        self._new: dict[_Place, Array] = {}
        self._seen: set[ir.Node] = set(spares)

    # ---- carrying ----

    def up(self, node: ir.Node, index: int, affine: Affine) -> None:
        """Makes input `index` of a node affine(x) instead of x.

        Raises:
            Declined: something on the way can't.
        """
        value = node.inputs[index]
        assert value is not None
        if not affine.scales and not affine.shifts:
            return
        if self.work.is_constant(value):
            self._constant(node, index, affine)
            return
        producer = self.work.producer(value)
        if producer is None:
            raise Declined(f"{value.name} is an input")
        if not self.work.private(value):
            raise Declined(f"{value.name} has other readers")
        rule = UP.get(full_name(producer))
        if rule is None:
            raise Declined(f"{full_name(producer)} has no weights for it")
        self._visit(producer)
        for k, rest in rule(self, producer, value.index() or 0, affine):
            self.up(producer, k, rest)

    def down(self, node: ir.Node, index: int, affine: Affine) -> None:
        """Makes all readers of output `index` of a node treat x as affine(x).

        Raises:
            Declined: one of them can't.
        """
        value = node.outputs[index]
        if not affine.scales and not affine.shifts:
            return
        if value.is_graph_output():
            raise Declined(f"{value.name} is an output")
        for usage in value.uses():
            rule = DOWN.get(full_name(usage.node))
            if rule is None:
                raise Declined(f"{full_name(usage.node)} has no weights for it")
            self._visit(usage.node)
            for k, rest in rule(self, usage.node, usage.idx, affine):
                self.down(usage.node, k, rest)

    def takes(self, node: ir.Node, index: int, affine: Affine) -> bool:
        """`up` would go well."""
        trial = Plan(self.work)
        trial._seen = set(self._seen)
        try:
            trial.up(node, index, affine)
        except Declined:
            return False
        return True

    def _visit(self, node: ir.Node) -> None:
        if node in self._seen:
            raise Declined(f"{node.name} is reached on two ways")
        self._seen.add(node)

    def _constant(self, node: ir.Node, index: int, affine: Affine) -> None:
        array = self.weight(node, index)
        if array.ndim != affine.rank or any(array.shape[a] == 1 for a in affine.varies):
            raise Declined(f"{_name(node, index)} would get larger")
        self.change(node, index, affine.scale * array + affine.shift)

    # ---- weights ----

    def weight(self, node: ir.Node, index: int) -> Array:
        """The constant that a node reads.

        Raises:
            Declined: it is computed at run time.
        """
        array = self.work.constant(self.work.input(node, index))
        if array is None:
            raise Declined(f"input {index} of {full_name(node)} is no constant")
        return array

    def optional(self, node: ir.Node, index: int) -> Array | None:
        """As `weight`; None where the input is omitted."""
        return None if self.work.input(node, index) is None else self.weight(node, index)

    def change(self, node: ir.Node, index: int, array: Array, like: int | None = None) -> None:
        """Plans a new constant for an input.

        Args:
            node: the node.
            index: its input.
            array: the new elements.
            like: input whose type it gets; the input itself where it is there.

        Raises:
            Declined: the numbers don't fit into the type.
        """
        model = self.work.input(node, index) if like is None else self.work.input(node, like)
        dtype = self.work.dtype(model)
        assert dtype is not None
        with np.errstate(over="ignore"):
            cast = _cast(array, dtype.numpy())
        if not np.isfinite(core(cast)).all():
            raise Declined("the new weights are not finite")
        if dtype in _EXACT and not (cast.astype(np.float64) == array).all():
            raise Declined(f"rounding the new weights to {dtype.name} would change the result")
        self._new[node, index] = cast

    # ---- doing ----

    def join(self, other: Plan) -> bool:
        """Takes in a plan for other nodes that gives the same new elements to a constant that both change.

        Returns:
            False where there is no such constant, or where a node would be changed by both; nothing is taken in then.
        """
        if self._seen & other._seen:
            return False
        if not any(
            self._source(a) is self._source(b) and a[1] == b[1] and _same(x, y)
            for a, x in self._new.items()
            for b, y in other._new.items()
            if self.work.input(*b) is not None
        ):
            return False
        self._new |= other._new
        self._seen |= other._seen
        self.spares |= other.spares
        return True

    def commit(self) -> None:
        """Puts the new weights in, if the file without the spared nodes does not grow by them.

        Raises:
            Declined: it does. Nothing is changed then.
        """
        first = self._first()
        growth = sum(core(self._new[place]).nbytes for place in set(first.values())) - sum(self._freed())
        options = self.work.options
        if growth > (options.size_threshold if options.may_grow else min(_SLACK, options.size_threshold)):
            raise Declined(
                f"the file would grow by {growth} bytes, as the weights are shared; --size-threshold {growth} allows it"
            )
        made: dict[_Place, ir.Value] = {}
        try:
            for place in dict.fromkeys(first.values()):
                array = self._new[place]
                saved = core(array).nbytes  # the file grows as a whole, see above
                made[place] = self.work.weight(array, self._source(place), saved=saved)
        except Declined:
            for value in made.values():
                self._forget(value)
            raise
        for place, same in first.items():
            self.work.set_input(*place, made[same])

    def _source(self, place: _Place) -> ir.Value:
        """The constant whose place the new one takes; where an input was omitted, the weight next to it."""
        node, index = place
        old = self.work.input(node, index)
        found = old if old is not None else node.inputs[1]
        assert found is not None
        return found

    def _first(self) -> dict[_Place, _Place]:
        """For each new constant the first one that is equal and takes the place of the same: they are stored once."""
        found: dict[_Place, _Place] = {}
        known: dict[tuple[ir.Value, int], list[_Place]] = {}
        for place, array in self._new.items():
            alike = known.setdefault((self._source(place), place[1]), [])
            found[place] = next((p for p in alike if _same(self._new[p], array)), place)
            if found[place] is place:
                alike.append(place)
        return found

    def _forget(self, value: ir.Value) -> None:
        """Takes back a new constant that nobody reads."""
        producer = value.producer()
        if producer is not None:
            self.work.remove(producer)
        else:
            self.work.model.graph.initializers.pop(value.name or "", None)

    def _freed(self) -> Iterator[int]:
        """Bytes of the constants that nobody reads any more."""
        places = {*self._new, *((node, k) for node in self.spares for k in range(len(node.inputs)))}
        read = Counter(value for place in places if (value := self.work.input(*place)) is not None)
        for value, count in read.items():
            if len(value.uses()) == count and not value.is_graph_output():
                yield self._stored(value)

    def _stored(self, value: ir.Value) -> int:
        return 0 if value.const_value is None else int(value.const_value.nbytes)


def times(weight: Array, factor: Array) -> Array:
    """A weight by factors, in float64; large ones in their own precision. What a broadcast view repeats stays unwritten."""
    shape = np.broadcast_shapes(weight.shape, factor.shape)
    held, by = core(weight), core(factor)
    if held.dtype == np.float32 and held.nbytes > _LARGE:
        return np.broadcast_to(held * by.astype(np.float32), shape)
    return np.broadcast_to(np.asarray(held, np.float64) * by, shape)


def core(array: Array) -> Array:
    """The elements that a broadcast view repeats: length 1 along axes with stride 0."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def _same(a: Array, b: Array) -> bool:
    """Same type, shape and elements."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(core(a), core(b))


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """As `astype`; what a broadcast view repeats stays so."""
    return np.broadcast_to(core(array).astype(dtype), array.shape)


def _name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return f"{value.name}" if value is not None else f"input {index}"
