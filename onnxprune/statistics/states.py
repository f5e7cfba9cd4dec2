"""What recurrent nodes read of their own states once units go, where those that stay stand in for them.

    a_t = R h_{t-1} + Rb    with    h_R ~ M h_S + c    is    a_t = (R_S + R_R M) h_S + Rb + R_R c

So the loss is a change of R and of B, and errors build up over the steps as they do in the pruned model. The candidate gate
of a GRU reads h times the reset gate, unless that is behind R: there the guess has no shift c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.statistics.channels import ChannelStatistics
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.recurrent import GATES, Recurrent, find_recurrent, hidden_labels
from onnxprune.statistics.shrinkage import best_guess

Array = NDArray[Any]


@dataclass(frozen=True)
class States:
    """Hidden states that a recurrent node reads.

    Attributes:
        node: the recurrent node.
        r: its weights `(D, gates * H, H)`, float64.
        dtype: that it computes in.
        labels: of the hidden units `(D, H)`.
        statistics: of the states, for each direction.
    """

    node: Recurrent
    r: Array
    dtype: np.dtype[Any]
    labels: NDArray[np.int32]
    statistics: list[ChannelStatistics]

    def names(self) -> tuple[str, str]:
        """Inputs that are added to R and to B, see `changeable`."""
        return f"{self.node.y}_onnxprune_r", f"{self.node.y}_onnxprune_b"

    def nothing(self) -> dict[str, Array]:
        """Feeds with which the node is what it was."""
        return self._feeds(np.zeros_like(self.r), np.zeros((len(self.r), 2 * self.r.shape[1])))

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs that `changeable` needs."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        return [helper.make_tensor_value_info(n, kind, a.shape) for n, a in self.nothing().items()]

    def changeable(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Lets the node read sums of its weights and of inputs; the nodes that add them. Changes the node in place."""
        node.input.extend([""] * (4 - len(node.input)))
        added = []
        for slot, name in zip((2, 3), self.names(), strict=True):
            if node.input[slot]:
                added.append(helper.make_node("Add", [node.input[slot], name], [f"{name}_added"]))
            node.input[slot] = added[-1].output[0] if node.input[slot] else name
        return added

    def lost(self, dead: Mask) -> dict[str, Array]:
        """Feeds with which units do not come back; empty where all do.

        Args:
            dead: for each hidden unit whether it goes `(D, H)`.
        """
        if not dead.any():
            return {}
        r, b = np.zeros_like(self.r), np.zeros((len(self.r), 2 * self.r.shape[1]))
        rows = self.r.shape[1]
        behind = self._reset_rows()
        for d, (s, gone) in enumerate(zip(self.statistics, dead, strict=True)):
            about_zero = np.zeros_like(s.mean), s.covariance + np.outer(s.mean, s.mean)
            for part, (mean, second) in ((~behind, (s.mean, s.covariance)), (behind, about_zero)):
                matrix, shift = best_guess(mean, second, s.rows, gone)
                own = np.flatnonzero(part)
                taken = self.r[d][np.ix_(own, gone)]
                r[d][np.ix_(own, gone)] = -taken
                r[d][np.ix_(own, ~gone)] = taken @ matrix.T
                b[d][rows + own] = taken @ shift
        return self._feeds(r, b)

    def _reset_rows(self) -> Mask:
        """Rows of R that read states times the reset gate."""
        gates = GATES[self.node.op]
        late = self.node.op == "GRU" and not self.node.inside
        return np.repeat([late and g == gates - 1 for g in range(gates)], self.r.shape[1] // gates)

    def _feeds(self, r: Array, b: Array) -> dict[str, Array]:
        return {n: a.astype(self.dtype) for n, a in zip(self.names(), (r, b), strict=True)}


def find_states(flow: Flow, groups: Groups, statistics: Sequence[ChannelStatistics]) -> list[States]:
    """Those of which statistics are known."""
    found = []
    for node in find_recurrent(flow):
        labels = hidden_labels(node, groups.trace) if isinstance(node, Recurrent) else None
        if labels is None or not isinstance(node, Recurrent):
            continue
        known = [s for row in labels for s in statistics if s.tensor == node.y and np.array_equal(s.labels, row)]
        if len(known) == len(labels):
            r = node.held[node.r].read(lambda name: numpy_helper.to_array(flow.initializers[name]))
            found.append(States(node, r.astype(np.float64), r.dtype, labels, known))
    return found
