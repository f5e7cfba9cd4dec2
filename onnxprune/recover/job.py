"""What there is to do for a linear node, or why nothing is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.recover.kept import kept_places, kept_slices
from onnxprune.recover.order import Step
from onnxprune.recover.solve import Solution
from onnxprune.recover.state import State
from onnxprune.recover.target import Chain, follow
from onnxprune.statistics.linear import Contraction, Linear

Array = NDArray[Any]
LARGEST = 4608  # taps times channels: beyond that a Gram matrix costs more than it is worth


@dataclass
class Job:
    """A linear node that is to be fitted.

    Attributes:
        linear: the node.
        stored: its weight.
        old: the weight as matrices `(G, K, M)`.
        bias: that can be changed `(G, M)`; None where there is no place for one.
        chain: what follows the node.
        sums: tensors that are added behind it and will not change any more, with a factor `(G * M,)`.
        kept: outputs of the dense node that stay; None: all.
        weight: of each output's error `(G, M)`.
        by_channel: input channels are rebuilt, not all taps.
    """

    linear: Linear
    stored: Array
    old: Array
    bias: Array | None
    chain: Chain
    sums: list[tuple[str, Array]]
    kept: Array | None
    weight: Array
    by_channel: bool


def job_of(state: State, linear: Linear, pending: Sequence[Step]) -> Job | str:
    """What there is to do for a node while others are pending, or why nothing is done."""
    flow = state.pruned.flow
    value = state.values.get(linear.y)
    if value is None or value.shape is None:
        return "its shape is not known"
    stored = state.weight(linear.weight)
    old = linear.matrix(stored)
    by_channel = state.mode == "channel" or old.shape[1] > LARGEST
    if by_channel and (len(old) > 1 or isinstance(linear.form, Contraction) or not _channels(state, linear)):
        return f"{old.shape[1]} taps in {len(old)} groups can't be fitted by channels"
    axes = linear.form.made_axes(value.rank)
    kept = kept_places(value, axes, state.alive)
    if isinstance(kept, str):
        return kept
    chain = follow(flow, linear, axes, value.rank, old.shape[0] * old.shape[2])
    bias = None
    if chain.slot is not None:
        held = state.weight(chain.slot.tensor)
        own = chain.slot.scale * held.astype(np.float64).ravel()
        bias = (own if chain.slot.own else np.zeros(held.size)).reshape(old.shape[0], -1)
    sums = [(name, factor) for name, factor in chain.sums if _settled(state, name, linear, pending)]
    weight = (chain.factor**2).reshape(old.shape[0], -1)
    return Job(linear, stored, old, bias, chain, sums, kept, weight, by_channel)


def keep(state: State, job: Job, solution: Solution) -> None:
    """Puts new weights where the nodes that follow read them."""
    if solution.kind == "none":
        return
    state.pruned.weights[job.linear.weight] = job.linear.stored(solution.matrix, job.stored)
    slot = job.chain.slot
    if slot is not None and solution.bias is not None:
        old = state.weight(slot.tensor)
        new = solution.bias.reshape(old.shape)
        if not slot.own:
            new = old + slot.factor.reshape(old.shape) * new
        new = new / slot.scale
        state.pruned.weights[slot.tensor] = new.astype(old.dtype)


def _channels(state: State, linear: Linear) -> int:
    """Channels of the dense input, where nothing but channels went of it; else 0."""
    value = state.values.get(linear.x)
    if value is None or value.shape is None:
        return 0
    axis = linear.form.channel_axis(value.rank)
    kept = kept_slices(value, state.alive)
    return value.sizes[axis] if kept is not None and set(kept) <= {axis} else 0


def _settled(state: State, name: str, linear: Linear, pending: Sequence[Step]) -> bool:
    """A summand that will not change any more and has the output's shape."""
    flow = state.pruned.flow
    behind = flow.ancestors([name])
    shape, own = state.values.get(name), state.values[linear.y]
    same = shape is not None and shape.shape == own.shape
    waiting = {p.node for p in pending} | (state.repairs.nodes if state.repairs else set())
    return same and not waiting & behind
