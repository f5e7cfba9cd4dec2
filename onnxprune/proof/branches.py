"""Inputs that choose between branches: a flag, or a number that is compared with a constant, such as a sampling rate.

Random inputs take one branch of each If; with these values the others run too, as far as one input alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.shapes.infer import Scope

_PASSES = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Slice"}
_STEPS = {"Equal": (0,), "Less": (-1, 1), "LessOrEqual": (-1, 1), "Greater": (-1, 1), "GreaterOrEqual": (-1, 1)}
_MOST = 4  # runs of both models


def other_branches(graph: gs.Graph, feeds: Mapping[str, NDArray[Any]], scope: Scope) -> Iterator[dict[str, NDArray[Any]]]:
    """The same feeds with one input of a single element changed, so that a comparison behind it turns out differently.

    Args:
        graph: the model.
        feeds: inputs of a run.
        scope: traced values, for the constants.

    Yields: at most 4 feeds; none where the model has no If.
    """
    if not any(n.op == "If" for n in graph.nodes):
        return
    count = 0
    for t in graph.inputs:
        given = feeds.get(t.name)
        if given is None or given.size != 1 or given.dtype.kind not in "biu":
            continue
        values = {1 - int(given.item())} if given.dtype.kind == "b" else _compared(t, scope)
        for value in sorted(values - {int(given.item())}):
            if count < _MOST:
                yield {**feeds, t.name: np.full_like(given, value)}
            count += 1


def _compared(start: gs.Tensor, scope: Scope) -> set[int]:
    """Integers on either side of the comparisons of a tensor with constants."""
    found: set[int] = set()
    queue, seen = [start], {start.name}
    while queue:
        tensor = queue.pop()
        for node in tensor.outputs:
            if node.op in _PASSES and node.inputs[0] is tensor:
                fresh = [t for t in node.outputs if t.name not in seen]
                seen |= {t.name for t in fresh}
                queue += fresh
            elif node.op in _STEPS:
                other = scope.get(next((i for i in node.inputs if i is not tensor), tensor).name)
                if other is not None and other.static is not None and other.static.size == 1:
                    found |= {int(other.static.item()) + step for step in _STEPS[node.op]}
    return {n for n in found if n >= 0}
