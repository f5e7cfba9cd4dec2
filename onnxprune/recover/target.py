"""Where the output of a linear node goes: its bias, and the sums it is part of.

From the output on, operators that act on each channel alone are followed: a bias, BatchNormalization, a factor per channel,
the Add of a residual. What they add tells where a new bias can go; a residual tells what the output should make up for:

    a * y + s = a * y_dense + s_dense      so      y = y_dense + (s_dense - s) / a
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.statistics.flow import Flow, attributes
from onnxprune.statistics.linear import Linear

Array = NDArray[np.float64]
_BIASED = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class Slot:
    """A stored vector that is added to the output.

    Attributes:
        tensor: its name; empty where the node has to be given one.
        node: index of the node that reads it.
        position: which input.
        factor: the output is multiplied with this `(M,)` before the vector is added.
        own: an input of the linear node itself.
        scale: what the node multiplies the vector with (beta of a Gemm).
    """

    tensor: str
    node: int
    position: int
    factor: Array
    own: bool
    scale: float = 1.0


@dataclass
class Chain:
    """What happens to each output channel `(M,)` alone.

    Attributes:
        slot: place for a bias; None where there is none.
        sums: activations that are added: name and the factor `(M,)` of the output at that place, negative where it is
            subtracted from.
        factor: of the output at the end.
        nodes: those that were followed.
    """

    slot: Slot | None
    factor: Array
    sums: list[tuple[str, Array]] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)


def follow(flow: Flow, linear: Linear, axes: int | tuple[int, ...], rank: int, outputs: int) -> Chain:
    """Follows the output of a linear node.

    Args:
        flow: of the model.
        linear: the node.
        axes: the axis or axes of its output that channels lie on, in the order of its weight's outputs.
        rank: of its output.
        outputs: M, its channels.
    """
    axes = (axes,) if isinstance(axes, int) else axes
    chain = Chain(_own_slot(flow, linear, outputs), np.ones(outputs))
    name = linear.y
    while len(readers := flow.readers.get(name, [])) == 1 and name not in flow.outputs:
        k, i = readers[0]
        node = flow.nodes[k]
        if node.op_type in ("Identity", "Dropout") or (node.op_type == "BatchNormalization" and i == 0 and axes == (1,)):
            if node.op_type == "BatchNormalization" and not _normalize(flow, k, chain):
                break
        elif node.op_type in ("Add", "Sub", "Mul") and i >= 0 and (i == 0 or node.op_type != "Sub"):
            if not _combine(flow, k, i, chain, axes, rank):
                break
        else:
            break
        chain.nodes.append(k)
        name = node.output[0]
    own = flow.nodes[linear.node]
    if chain.slot is None and own.op_type in _BIASED and not (len(own.input) > 2 and own.input[2]):
        chain.slot = Slot("", linear.node, 2, np.ones(outputs), own=True)
    return chain


def _own_slot(flow: Flow, linear: Linear, outputs: int) -> Slot | None:
    node = flow.nodes[linear.node]
    if node.op_type not in _BIASED or len(node.input) < 3 or not node.input[2]:
        return None
    held = flow.constant(node.input[2])
    fits = held is not None and held.size == outputs and node.input[2] in flow.initializers
    scale = float(attributes(node).get("beta", 1.0))
    return Slot(node.input[2], linear.node, 2, np.ones(outputs), own=True, scale=scale) if fits else None


def _normalize(flow: Flow, k: int, chain: Chain) -> bool:
    node = flow.nodes[k]
    constants = [flow.constant(n) for n in node.input[1:5]]
    if any(c is None for c in constants) or attributes(node).get("training_mode"):
        return False
    scale, variance = np.asarray(constants[0], np.float64), np.asarray(constants[3], np.float64)
    chain.factor = chain.factor * scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    if chain.slot is None and node.input[2] in flow.initializers:
        chain.slot = Slot(node.input[2], k, 2, chain.factor.copy(), own=False)
    return True


def _combine(flow: Flow, k: int, i: int, chain: Chain, axes: tuple[int, ...], rank: int) -> bool:
    node = flow.nodes[k]
    other = node.input[1 - i]
    held = flow.constant(other)
    if held is None:
        if node.op_type == "Mul" or other == node.input[i]:
            return False
        chain.sums.append((other, chain.factor * (-1 if node.op_type == "Sub" else 1)))
        return True
    if held.size > 1 and not _per_channel(held.shape, axes, rank, chain.factor.size):
        return node.op_type != "Mul" and held.ndim <= rank  # a constant that differs by position: added to both alike
    if node.op_type == "Mul":
        chain.factor = chain.factor * np.asarray(held, np.float64).ravel()
    elif chain.slot is None and node.op_type == "Add" and held.size == chain.factor.size and other in flow.initializers:
        chain.slot = Slot(other, k, 1 - i, chain.factor.copy(), own=False)
    return True


def _per_channel(shape: tuple[int, ...], axes: tuple[int, ...], rank: int, channels: int) -> bool:
    """One number for each channel, in their order."""
    aligned = [1] * (rank - len(shape)) + list(shape)
    own = int(np.prod([aligned[a] for a in axes])) if len(aligned) == rank else 0
    return own == channels == int(np.prod(aligned)) and list(axes) == sorted(axes)
