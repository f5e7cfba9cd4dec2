"""Peak memory of activations, by the liveness of tensors in the order of the nodes.

A tensor lives from the node that makes it to the last one that reads it; inputs of the graph live throughout, outputs to its
end. What only renames a tensor (Reshape and the like) shares its buffer. Nothing is reused in place and
nothing is fused, so this is what the graph as written asks for, not what a runtime's allocator makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.budget.axes import Axes, Axis, Shape, sizes, touched
from onnxprune.budget.costs import Floats, Levels, Widths
from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.profiling.memory import lifetimes
from onnxprune.surgery.follow import pruned_shape
from onnxprune.trace.value import Value


@dataclass(frozen=True)
class _Buffer:
    """A buffer: the shape of what it holds, bytes of an element, and the nodes between which it is held."""

    value: Value
    item: int
    first: int
    last: int


class Memory:
    """Peak bytes of the tensors that are alive at the same time; see `onnxprune.budget.costs.Cost`."""

    name, unit, tolerance = "memory", "bytes", 0.0

    def __init__(self, groups: Groups, axes: Axes, gone: Container[str] = ()) -> None:
        self._axes, self._analysis = axes, groups
        self._buffers = [b for b in buffers(groups) if b.value.name not in gone]
        self._shapes: list[Shape | None] = [axes.shape_of(b.value) for b in self._buffers]
        self._groups = [touched([s]) for s in self._shapes]
        self._steps = max((b.last for b in self._buffers), default=0) + 1
        self._alive = np.zeros((len(self._buffers), self._steps))
        for k, b in enumerate(self._buffers):
            self._alive[k, b.first : b.last + 1] = 1
        self._last: tuple[object, Floats] = None, np.zeros(0)
        self._last_table: tuple[object, dict[str, Floats]] = None, {}

    def profile(self, widths: Widths) -> Floats:
        """Bytes alive at each node `(nodes,)`."""
        key = tuple(sorted(widths.items()))
        if key != self._last[0]:
            gone = self._axes.gone(widths)
            held = [math.prod(sizes(s, gone) or ()) * b.item for s, b in zip(self._shapes, self._buffers, strict=True)]
            self._last = key, np.asarray(np.array(held, np.float64) @ self._alive)
        return self._last[1]

    def total(self, widths: Widths) -> float:
        """The peak."""
        return float(self.profile(widths).max(initial=0.0))

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """Peak by the width of one group at a time."""
        return {g: profiles.max(axis=1) for g, profiles in self.profiles(widths, levels).items()}

    def profiles(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """By group the profile at each level `(levels, nodes)`, with all other groups at `widths`."""
        key = (tuple(sorted(widths.items())), *((g, own.tobytes()) for g, own in levels.items()))
        if key != self._last_table[0]:
            gone, now = self._axes.gone(widths), self.profile(widths)
            self._last_table = key, {g: now + self._moved(g, own, gone) for g, own in levels.items()}
        return self._last_table[1]

    def _moved(self, group: str, levels: NDArray[np.int64], gone: Mapping[str, int]) -> Floats:
        """What the levels of a group change `(levels, nodes)`."""
        own = [k for k, groups in enumerate(self._groups) if group in groups]
        counts = self._axes.units[group] - levels
        moved = np.zeros((levels.size, len(own)))
        for column, k in enumerate(own):
            before = float(math.prod(sizes(self._shapes[k], gone) or ()))
            lengths = [a.over(gone, group, counts) if isinstance(a, Axis) else a for a in self._shapes[k] or ()]
            after = np.ones(levels.size)
            for n in lengths:
                after = after * n
            moved[:, column] = (after - before) * self._buffers[k].item
        return np.asarray(moved @ self._alive[own])

    def without(self, gone: Container[str]) -> Memory:
        """The same without some tensors; what only they kept alive still counts, so it is a bound."""
        return Memory(self._analysis, self._axes, gone)

    def steps(self, limit: float) -> list[Step]:
        """The nodes where the source is above a limit, each as a cost of its own: they add up over groups, a peak does not.

        Of nodes at which the same tensors live only one counts, and none whose tensors all live at another one.
        """
        above = np.flatnonzero(self.profile({}) > limit).tolist()
        sets = {s: frozenset(np.flatnonzero(self._alive[:, s]).tolist()) for s in above}
        largest = {found: s for s, found in sets.items() if not any(found < other for other in sets.values())}
        return [Step(self, s) for s in sorted(largest.values())]

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """The peak of a pruned model, from the shapes that its labels leave."""
        held = [math.prod(pruned_shape(b.value, alive) or ()) * b.item for b in self._buffers]
        return float((np.array(held, np.float64) @ self._alive).max(initial=0.0))


@dataclass
class Step:
    """Bytes alive at one node; see `onnxprune.budget.costs.Cost`."""

    memory: Memory
    step: int
    name: str = "memory"
    unit: str = "bytes"
    tolerance: float = 0.0

    def total(self, widths: Widths) -> float:
        """Bytes at this node."""
        return float(self.memory.profile(widths)[self.step])

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """Bytes at this node by the width of one group at a time."""
        return {g: p[:, self.step] for g, p in self.memory.profiles(widths, levels).items()}

    def without(self, gone: Container[str]) -> Step:
        """The same without some tensors."""
        return Step(self.memory.without(gone), self.step)

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """The peak, of which this node is a part."""
        return self.memory.measure(model, alive)


def buffers(groups: Groups) -> list[_Buffer]:
    """What the graph holds, bodies of control flow left out."""
    graph = groups.trace.graph
    scope = groups.trace.inferred.scopes.get(id(graph), {})
    nodes = list(graph.nodes)
    owner, birth, death = lifetimes(graph, nodes, scope)
    found = []
    for name in (n for n, own in owner.items() if n == own):
        value = scope.get(name)
        if value is not None and value.shape is not None and value.dtype and not value.constant and value.static is None:
            item = helper.tensor_dtype_to_np_dtype(value.dtype).itemsize
            start = max(birth[name], 0)
            found.append(_Buffer(value, item, start, max(min(death[name], len(nodes) - 1), start)))
    return found
