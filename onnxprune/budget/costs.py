"""What a cost has to say: the whole at given widths, and every group's share of it while the others stay as they are.

Costs do not add up over groups: the work of a convolution is a product of both its sides. So an allocation looks at
`table`, which is exact as long as one group changes, moves, looks at `total`, and repeats.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask

Floats = NDArray[np.float64]
Widths = Mapping[str, int]
"""Units that stay by group id; a group that is not named stays whole."""
Levels = Mapping[str, NDArray[np.int64]]
"""By group id the widths to choose from: ascending, the last one is the whole group."""


class Cost(Protocol):
    """A quantity of a model that depends on how many units of each group stay.

    Attributes:
        name: as in `--target NAME=...`.
        unit: of all figures: `MACs`, `parameters`, `bytes`, `ms`.
        tolerance: how far beyond its limit a measurement may lie, as a share: 0 for what is counted.
    """

    name: str
    unit: str
    tolerance: float

    def total(self, widths: Widths) -> float:
        """Of the whole model; `total({})` is that of the source."""
        ...

    def table(self, widths: Widths, levels: Levels) -> dict[str, Floats]:
        """For each group the total at each of its levels, with all other groups at `widths`.

        Args:
            widths: where the allocation stands.
            levels: widths to judge.

        Returns: group id -> `(levels of the group,)`.
        """
        ...

    def without(self, gone: Container[str]) -> Cost:
        """The same of a model that lacks some tensors, weights among them, with the nodes that make them.

        Args:
            gone: their names; see `onnxprune.depth.branches.gone_tensors`.
        """
        ...

    def measure(self, model: onnx.ModelProto, alive: Mask) -> float:
        """What a pruned model really has, however it was chosen.

        Args:
            model: the result, with repaired weights.
            alive: which labels of the source are in it.

        Raises:
            ModelError: ONNX Runtime can't run it.
        """
        ...
