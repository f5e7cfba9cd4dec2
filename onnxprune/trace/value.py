"""What is known of one tensor: type, shape, static value and the provenance of its axes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.trace.labels import Field, Labels

Shape = tuple[int, ...]


@dataclass
class Value:
    """One tensor of the graph at the traced sizes.

    Attributes:
        name: name of the tensor.
        dtype: `onnx.TensorProto.DataType`, 0 where it is not a tensor.
        shape: concrete sizes; None where not even the rank is known.
        static: the value, where it depends on constants and shapes alone.
        origin: for each element of `static` the id of the constant element it was moved from, -1 where it was computed.
        fields: provenance; the axes of different fields are disjoint, an axis without a field can't shrink.
        why: axis -> reason why it can't shrink.
        blocked: for a weight read by grouped operators, axis -> labels `(blocks, size)`: one set of labels for each of
            `blocks` equal parts of axis 0.
        constant: it depends on weights and shapes alone, not on what is fed.
        varies: `static` is another one at other sizes of the symbolic dimensions: per element, or all of it where its own
            shape changes; None where it is the same.
    """

    name: str
    dtype: int
    shape: Shape | None
    static: NDArray[Any] | None = None
    origin: NDArray[np.int64] | None = None
    fields: list[Field] = field(default_factory=list)
    why: dict[int, str] = field(default_factory=dict)
    blocked: dict[int, Labels] = field(default_factory=dict)
    constant: bool = False
    varies: NDArray[np.bool_] | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.sizes)

    @property
    def sizes(self) -> Shape:
        """The shape. Raises: ValueError where it is unknown (a rule never sees such a value)."""
        if self.shape is None:
            raise ValueError(f"the shape of {self.name!r} is unknown")
        return self.shape

    def field_on(self, axis: int) -> Field | None:
        """The field that covers an axis."""
        return next((f for f in self.fields if axis in f.axes), None)

    def reason(self, axis: int) -> str:
        """Why an axis without a field can't shrink."""
        return self.why.get(axis, f"axis {axis} of {self.name!r}, which comes from no weight")


def length(alive: NDArray[np.bool_], labels: Labels, position: int) -> int:
    """How many slices an axis of a field keeps: `position` counts within the field's axes.

    The last axis may keep different slices in different rows, so it is counted per row, the others by what is left in them.
    """
    kept = alive[labels]
    if position == kept.ndim - 1:
        return int(kept.sum(axis=-1).max())
    return int(kept.any(axis=tuple(a for a in range(kept.ndim) if a != position)).sum())
