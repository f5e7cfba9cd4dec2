"""Recurrent nodes: what goes into their gates is linear in the input and in the hidden state of the step before.

    a_t = W x_t + Wb + R h_{t-1} + Rb        for all gates, W (D, gates * H, I), R (D, gates * H, H)

Source: ONNX operators LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.statistics.assembly import Assembly, assembly_of
from onnxprune.statistics.flow import Flow, attributes
from onnxprune.statistics.forms import Contraction
from onnxprune.statistics.linear import Declined, Linear
from onnxprune.statistics.reading import Reading
from onnxprune.trace.labels import Labels
from onnxprune.trace.tracer import Trace

Array = NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent node with stored weights.

    Attributes:
        node: its index in the main graph.
        name: of the node, or its output.
        op: `LSTM`, `GRU` or `RNN`.
        x: the input `(T, N, I)`.
        w: stored `(D, gates * H, I)`.
        r: stored `(D, gates * H, H)`.
        b: stored `(D, 2 * gates * H)`, or empty.
        lengths: steps of each sample `(N,)`, or empty.
        state: hidden state at the beginning `(D, N, H)`, or empty.
        y: hidden states of all steps `(T, D, N, H)`.
        held: where the elements of w, r and b are stored; b is missing where its sources are not its own.
        backward: for each direction whether it goes from the last step to the first.
        inside: the reset gate of a GRU is applied behind R (`linear_before_reset`).
    """

    node: int
    name: str
    op: str
    x: str
    w: str
    r: str
    b: str
    lengths: str
    state: str
    y: str
    held: Mapping[str, Assembly]
    backward: tuple[bool, ...]
    inside: bool

    @property
    def weight(self) -> str:
        """Where the weights of its input are stored."""
        return self.held[self.w].sources[0]

    def consumers(self) -> list[Linear]:
        """What the gates read, as linear nodes without an output: the input, and the hidden states."""
        shapes = [self.held[n].index.shape for n in (self.w, self.r)]
        forms = Contraction("tni", "dgi", "tndg"), Contraction("tdnh", "dgh", "tndg")
        return [
            Linear(self.node, self.name, x, "", w, Reading(shape), form)
            for x, w, shape, form in zip((self.x, self.y), (self.w, self.r), shapes, forms, strict=True)
        ]


def with_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives every recurrent node its first output, all hidden states, a name. Changes the model in place."""
    used = {n for node in model.graph.node for n in (*node.input, *node.output)}
    for node in model.graph.node:
        if node.op_type in GATES and node.domain == "" and not node.output[0]:
            name = f"{next(o for o in node.output if o)}_all_steps"
            while name in used:
                name += "_"
            node.output[0] = name
    return model


def find_recurrent(flow: Flow) -> list[Recurrent | Declined]:
    """All recurrent nodes of the main graph, in order; those that are not understood with the reason."""
    result: list[Recurrent | Declined] = []
    for k, node in enumerate(flow.nodes):
        if node.op_type not in GATES or node.domain or not flow.varying[k]:
            continue
        given = attributes(node)
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        name = node.name or node.output[0]
        held = {n: assembly_of(flow, n, k) for n in inputs[1:4] if n}
        reason = _reason(node.op_type, given) or next((a for n in inputs[1:3] if isinstance(a := held[n], str)), "")
        if reason:
            result.append(Declined(k, name, inputs[0], node.output[0], inputs[1], reason))
            continue
        direction = given.get("direction", "forward")
        backward = (False, True) if direction == "bidirectional" else (direction == "reverse",)
        x, w, r, b, lengths, state = inputs[:6]
        inside = bool(given.get("linear_before_reset", 0))
        own = {n: a for n, a in held.items() if isinstance(a, Assembly)}
        y = node.output[0]
        result.append(Recurrent(k, name, node.op_type, x, w, r, b, lengths, state, y, own, backward, inside))
    return result


def _reason(op: str, given: dict[str, Any]) -> str:
    if given.get("layout", 0):
        return "ONNX Runtime has no kernel for layout 1"
    if op == "GRU" and not given.get("linear_before_reset", 0):  # the reset gate is computed here too
        own = [n.decode().lower() for n in given.get("activations", [])]
        if any(n != "sigmoid" for n in own[::2]) or "clip" in given:
            return "its reset gate is not a sigmoid"
    return ""


def hidden_labels(node: Recurrent, trace: Trace) -> Labels | None:
    """Labels of the hidden units `(D, H)`; None where they can't go."""
    directions = len(node.backward)
    weight, value = trace.weights.get(node.r), trace.values.get(node.r)
    if weight is not None:
        labels = weight.labels.get(2)
    else:
        f = None if value is None else value.field_on(2)
        labels = f.labels if f is not None and f.axes in ((2,), (0, 2)) else None
    return None if labels is None else np.broadcast_to(np.atleast_2d(labels), (directions, labels.shape[-1]))


def before(y: Array, state: Array | None, lengths: Array | None, backward: tuple[bool, ...]) -> Array:
    """The hidden state that each step starts from `(T, N, D, H)`.

    Args:
        y: hidden states `(T, D, N, H)`.
        state: at the beginning `(D, N, H)`; None: zeros.
        lengths: of the samples `(N,)`; None: all steps count.
        backward: for each direction.
    """
    steps, directions, n, hidden = y.shape
    result = np.empty((steps, n, directions, hidden), y.dtype)
    start = np.zeros((directions, n, hidden), y.dtype) if state is None else state
    for d, reverse in enumerate(backward):
        if not reverse:
            result[0, :, d], result[1:, :, d] = start[d], y[:-1, d]
        else:
            result[-1, :, d], result[:-1, :, d] = start[d], y[1:, d]
            if lengths is not None:
                last = np.maximum(lengths.astype(np.int64), 1) - 1
                result[last, np.arange(n), d] = start[d]
    return result
