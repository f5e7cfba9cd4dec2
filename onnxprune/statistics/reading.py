"""How a node sees a stored tensor: through Transpose, Reshape and the like, which move its elements and keep them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.statistics.flow import Flow, attributes

Array = NDArray[Any]
Shape = tuple[int, ...]
_RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}


@dataclass(frozen=True)
class Reading:
    """Steps from a stored tensor to what a node reads.

    Attributes:
        shape: of the stored tensor.
        steps: permutations of axes, and new shapes, in order: `(is a permutation, axes or sizes)`.
    """

    shape: Shape
    steps: tuple[tuple[bool, Shape], ...] = ()

    @property
    def sizes(self) -> Shape:
        """Shape of what the node reads."""
        shape = self.shape
        for turned, step in self.steps:
            shape = tuple(shape[p] for p in step) if turned else step
        return shape

    def read(self, stored: Array) -> Array:
        """The stored tensor as the node sees it."""
        for turned, step in self.steps:
            stored = stored.transpose(step) if turned else stored.reshape(step)
        return stored

    def write(self, seen: Array) -> Array:
        """The inverse of `read`."""
        shapes = [self.shape]
        for turned, step in self.steps:
            shapes.append(tuple(shapes[-1][p] for p in step) if turned else step)
        for (turned, step), before in zip(reversed(self.steps), reversed(shapes[:-1]), strict=True):
            seen = seen.transpose(np.argsort(step)) if turned else seen.reshape(before)
        return np.ascontiguousarray(seen)

    def stored_axes(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Axes of the stored tensor that axes of what the node sees lie on; several where a Reshape merged them."""
        shapes = [self.shape]
        for turned, step in self.steps:
            shapes.append(tuple(shapes[-1][p] for p in step) if turned else step)
        for (turned, step), old, new in zip(reversed(self.steps), shapes[-2::-1], shapes[:0:-1], strict=True):
            if turned:
                axes = [step[a] for a in axes]
                continue
            before, after = _spans(old), _spans(new)
            axes = [
                b for a in axes for b, (low, high) in enumerate(before) if max(low, after[a][0]) < min(high, after[a][1])
            ]
        return tuple(dict.fromkeys(axes))


def _spans(shape: Shape) -> list[tuple[int, int]]:
    """For each axis how many elements lie between its neighbours, and between its first and its last."""
    steps = [prod(shape[k:]) for k in range(len(shape) + 1)]
    return [(steps[k + 1], steps[k]) for k in range(len(shape))]


def reading_of(flow: Flow, name: str) -> tuple[str, Reading] | str:
    """The initializer that a tensor shows, and how.

    Returns a reason where it is computed from stored tensors in another way, and "" where what is fed is in it.
    """
    way: list[int] = []
    while name not in flow.initializers:
        k = flow.producer.get(name)
        if k is None or flow.varying[k]:
            return ""
        node = flow.nodes[k]
        if node.op_type == "DequantizeLinear":
            return "its weight is quantized: prune the float model, then quantize it"
        if node.op_type not in {"Transpose", "Identity", "Cast", *_RESHAPES} or node.domain not in ("", "ai.onnx"):
            return f"its weight is computed by {node.op_type}"
        way.append(k)
        name = node.input[0]
    reading = Reading(tuple(flow.initializers[name].dims))
    for k in reversed(way):
        step = _step(flow, k, reading.sizes)
        if isinstance(step, str):
            return step
        reading = Reading(reading.shape, (*reading.steps, *step))
    return name, reading


def _step(flow: Flow, k: int, sizes: Shape) -> list[tuple[bool, Shape]] | str:
    node = flow.nodes[k]
    given = attributes(node)
    if node.op_type in ("Identity", "Cast"):
        return []
    if node.op_type == "Transpose":
        return [(True, tuple(given.get("perm", reversed(range(len(sizes))))))]
    if node.op_type == "Flatten":
        axis = given.get("axis", 1) % (len(sizes) + 1)
        return [(False, (int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))))]
    numbers = flow.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if numbers is None and len(node.input) > 1 and node.input[1]:
        return f"its weight goes through a {node.op_type} whose sizes are computed"
    axes = [int(a) for a in (given.get("axes", []) if numbers is None else numbers.ravel())]
    if node.op_type == "Reshape":
        shape = [sizes[i] if n == 0 and not given.get("allowzero") else n for i, n in enumerate(axes)]
        return [(False, np.empty(sizes, np.bool_).reshape(shape).shape)]
    if node.op_type == "Squeeze":
        gone = {a % len(sizes) for a in axes} if axes else {i for i, n in enumerate(sizes) if n == 1}
        return [(False, tuple(n for i, n in enumerate(sizes) if i not in gone))]
    rank = len(sizes) + len(axes)
    new, rest = {a % rank for a in axes}, iter(sizes)
    return [(False, tuple(1 if i in new else next(rest) for i in range(rank)))]
