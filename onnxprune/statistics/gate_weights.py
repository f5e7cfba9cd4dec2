"""What recurrent nodes read once units go, of their input or of their own states, where those that stay stand in for them.

    a_t = R h_{t-1} + Rb    with    h_R ~ M h_S + c    is    a_t = (R_S + R_R M) h_S + Rb + R_R c

So the loss is a change of R and of B, and errors build up over the steps as they do in the pruned model; of W and B where
channels of the input go. The candidate gate of a GRU reads h times the reset gate, unless that is behind R: there the guess
has no shift c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.statistics.channels import ChannelStatistics, labels_on
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.recurrent import GATES, Recurrent, find_recurrent, hidden_labels
from onnxprune.statistics.shrinkage import best_guess

Array = NDArray[Any]


@dataclass(frozen=True)
class GateWeights:
    """W or R of a recurrent node, and what is known of the channels that it multiplies.

    Attributes:
        node: the recurrent node.
        slot: its input: 1 is W, 2 is R.
        weight: `(D, gates * H, C)`, float64.
        dtype: that the node computes in.
        labels: of the channels `(D, C)`.
        statistics: of the channels, for each direction.
    """

    node: Recurrent
    slot: int
    weight: Array
    dtype: np.dtype[Any]
    labels: NDArray[np.int32]
    statistics: list[ChannelStatistics]

    @property
    def names(self) -> tuple[str, str]:
        """Inputs that are added to the weight and to B, see `changeable`."""
        return f"{self.node.y}_onnxprune_weight{self.slot}", f"{self.node.y}_onnxprune_shift{self.slot}"

    def nothing(self) -> dict[str, Array]:
        """Feeds with which the node is what it was."""
        return self._feeds(*self._zeros())

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs that `changeable` needs."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        return [helper.make_tensor_value_info(n, kind, a.shape) for n, a in self.nothing().items()]

    def changeable(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Lets the node read sums of its weights and of inputs; the nodes that add them. Changes the node in place."""
        node.input.extend([""] * (4 - len(node.input)))
        added = []
        for slot, name in zip((self.slot, 3), self.names, strict=True):
            if node.input[slot]:
                added.append(helper.make_node("Add", [node.input[slot], name], [f"{name}_added"]))
            node.input[slot] = added[-1].output[0] if node.input[slot] else name
        return added

    def lost(self, dead: Mask, *, gated: bool = False) -> dict[str, Array]:
        """Feeds with which channels do not come back; empty where all do.

        Args:
            dead: for each channel whether it goes `(D, C)`.
            gated: what multiplies those that go is 0 already.
        """
        if not dead.any():
            return {}
        weight, b = self._zeros()
        rows = self.weight.shape[1]
        behind, start = self._reset_rows(), rows * (self.slot - 1)
        for d, (s, gone) in enumerate(zip(self.statistics, dead, strict=True)):
            about_zero = np.zeros_like(s.mean), s.covariance + np.outer(s.mean, s.mean)
            for part, (mean, second) in ((~behind, (s.mean, s.covariance)), (behind, about_zero)):
                matrix, shift = best_guess(mean, second, s.rows, gone)
                own = np.flatnonzero(part)
                taken = self.weight[d][np.ix_(own, gone)]
                weight[d][np.ix_(own, gone)] = 0 if gated else -taken
                weight[d][np.ix_(own, ~gone)] = taken @ matrix.T
                b[d][start + own] = taken @ shift
        return self._feeds(weight, b)

    def _reset_rows(self) -> Mask:
        """Rows that read states times the reset gate."""
        gates = GATES[self.node.op]
        late = self.slot == 2 and self.node.op == "GRU" and not self.node.inside
        return np.repeat([late and g == gates - 1 for g in range(gates)], self.weight.shape[1] // gates)

    def _zeros(self) -> tuple[Array, Array]:
        return np.zeros_like(self.weight), np.zeros((len(self.weight), 2 * self.weight.shape[1]))

    def _feeds(self, weight: Array, b: Array) -> dict[str, Array]:
        return {n: a.astype(self.dtype) for n, a in zip(self.names, (weight, b), strict=True)}


def find_gate_weights(flow: Flow, groups: Groups, statistics: Sequence[ChannelStatistics]) -> list[GateWeights]:
    """Those of which statistics are known."""
    found = []
    for node in find_recurrent(flow):
        if not isinstance(node, Recurrent):
            continue
        value = groups.trace.values.get(node.x)
        read = [] if value is None or value.shape is None else labels_on(value, (2,))
        for slot, tensor, labels in ((1, node.x, read[0] if read else None), (2, node.y, hidden_labels(node, groups.trace))):
            if labels is None:
                continue
            labels = np.broadcast_to(labels, (len(node.backward), labels.shape[-1]))
            of_tensor = [s for s in statistics if s.tensor == tensor]
            known = [own[0] for x in labels if (own := [s for s in of_tensor if np.array_equal(s.labels, x)])]
            if len(known) == len(labels):
                weight = node.held[node.w if slot == 1 else node.r].read(partial(_stored, flow))
                found.append(GateWeights(node, slot, weight.astype(np.float64), weight.dtype, labels, known))
    return found


def _stored(flow: Flow, name: str) -> Array:
    return numpy_helper.to_array(flow.initializers[name])
