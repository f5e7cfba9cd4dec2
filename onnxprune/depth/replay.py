"""Blocks that a plan says go: checked against what can go, taken out, and proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.depth.branches import Branch, find_branches
from onnxprune.depth.proof import prove_removal, worse
from onnxprune.depth.surgery import without
from onnxprune.errors import PlanError
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.oracle import Verification

Array = NDArray[Any]


class Replay:
    """A source without the blocks of a plan.

    Args:
        source: the model.
        prepared: the same as it was traced.
        groups: its analysis.
        constants: by summand what takes its place.

    Attributes:
        model: without the blocks.

    Raises:
        PlanError: one of them can't go, or a constant does not fit.
    """

    def __init__(self, source: onnx.ModelProto, prepared: Prepared, groups: Groups, constants: Mapping[str, Array]) -> None:
        self.prepared, self.groups, self.constants = prepared, groups, constants
        found = find_branches(prepared.model, groups)
        known = {b.tensor: b for b in found.found}
        for tensor, constant in constants.items():
            if tensor not in known:
                reason = found.refused.get(tensor, "the model has no such summand")
                raise PlanError(f"the block that ends in {tensor!r} can't go: {reason}")
            self._check(known[tensor], constant)
        if not found.together(list(constants)):
            raise PlanError(
                "the blocks of the plan can't go together: a sum, or an output, would lose all that it depends on"
            )
        self.branches = [known[t] for t in constants]
        self.model = without(prepared.model if source.functions else source, constants)

    def _check(self, branch: Branch, constant: Array) -> None:
        value = self.groups.trace.values[branch.tensor]
        shape = [n if a in branch.axes else 1 for a, n in enumerate(value.sizes)]
        dtype = helper.tensor_dtype_to_np_dtype(value.dtype)
        if list(constant.shape) != shape or constant.dtype != dtype:
            raise PlanError(
                f"the constant for {branch.tensor!r} has to be {dtype} of shape {shape}, the plan has {constant.dtype} of "
                f"shape {list(constant.shape)}"
            )
        if not np.isfinite(constant).all():
            raise PlanError(f"the constant for {branch.tensor!r} holds NaN or infinity")

    def proven(
        self,
        rest: Verification | None,
        *,
        seed: int,
        tolerance: float,
        shapes: Mapping[str, Sequence[int]] | None,
    ) -> Verification | None:
        """The worse of two proofs: that the blocks went as promised, and what was found about the rest.

        None where one of them can't be had.
        """
        blocks = prove_removal(
            self.prepared,
            self.groups,
            self.branches,
            self.constants,
            self.model,
            seed=seed,
            tolerance=tolerance,
            shapes=shapes,
        )
        return worse(blocks, rest)
