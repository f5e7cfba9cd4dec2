"""Which operators do multiply-accumulates (MACs), and how many follow from the shapes of one node. 1 MAC = 2 FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Attributes: TypeAlias = Mapping[str, Any]
Counter: TypeAlias = Callable[[Attributes, "Shapes", "Shapes"], int]

MICROSOFT = "com.microsoft"
COUNTERS: dict[tuple[str, str], Counter] = {}


class UnknownShapeError(Exception):
    """A shape the count depends on is not known."""


class Shapes:
    """The shapes of a node's inputs or outputs; an index beyond the last one is an omitted value."""

    def __init__(self, shapes: Sequence[Shape | None]) -> None:
        self._shapes = shapes

    def __getitem__(self, index: int) -> Shape:
        shape = self.get(index)
        if shape is None:
            raise UnknownShapeError
        return shape

    def get(self, index: int) -> Shape | None:
        """None where it is not known, or the value is omitted."""
        return self._shapes[index] if index < len(self._shapes) else None


def counts(domain: str, *op_types: str) -> Callable[[Counter], Counter]:
    """Registers a function of attributes, input and output shapes as the count of operators."""

    def register(counter: Counter) -> Counter:
        for op_type in op_types:
            COUNTERS[domain, op_type] = counter
        return counter

    return register
