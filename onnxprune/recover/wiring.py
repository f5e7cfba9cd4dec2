"""How channels of a linear node reach an operand further on: found by running what lies between on random numbers.

Reshapes, splits, transposes, factors, repeated heads: whatever the operators are, an entry of the operand is a factor times
one channel at the same position, plus a constant. Where it is anything else (a rotation mixes two channels, a
normalization all of them), the check fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Form, Linear
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]
_ROWS, _DRAWS = 96, 32
_TOLERANCE = 1e-3
_REASON = "between projection and product more happens than a factor and a bias (a rotation, a normalization)"


@dataclass(frozen=True)
class Operand:
    """An operand of a product of two activations, in which a head is a matrix of positions and dimensions.

    Attributes:
        name: of the tensor.
        order: axes of sample, position, head and dimension; None: `(N, S, h * D)`.
        heads: how many, where `order` is None.
    """

    name: str
    order: tuple[int, int, int, int] | None
    heads: int = 0

    def rows(self, array: Array) -> Array:
        """`(N, S, h, D)`."""
        if self.order is None:
            return array.reshape(*array.shape[:2], self.heads, -1)
        return array.transpose(self.order)


@dataclass(frozen=True)
class Wiring:
    """Where entries of an operand come from.

    Attributes:
        channels: of the linear node `(h, D)`.
        factors: what they are multiplied with `(h, D)`.
        constants: what is added `(h, D)`.
        turned: the node has positions before samples.
    """

    channels: Array
    factors: Array
    constants: Array
    turned: bool = False


def find_linear_of(flow: Flow, linears: Sequence[Linear], name: str) -> Linear | None:
    """The last linear node that a tensor depends on."""
    behind = flow.ancestors([name])
    return next((x for x in reversed(linears) if x.node in behind), None)


def find_wiring(stream: Stream, linear: Linear, operand: Operand, batch: Batch) -> Wiring | str:
    """Traces the channels of a linear node to an operand, or says why that can't be done.

    What lies between reads other tensors than the node's output: those are computed in `stream`, and so is the output.
    """
    y = np.asarray(stream.get(linear.y, 0, batch.feeds))
    nodes = stream.flow.between(linear.y, [operand.name])

    def made_of(values: Array) -> Array:
        if operand.name == linear.y:
            return operand.rows(values)
        return operand.rows(stream.probe(nodes, {linear.y: values}, operand.name, batch))

    zero = made_of(np.zeros_like(y))
    heads, dims = zero.shape[2:]
    constants = zero.reshape(-1, heads * dims).astype(np.float64)
    if np.abs(constants - constants[0]).max() > _TOLERANCE * max(np.abs(constants).max(), 1e-30):
        return _REASON
    inputs: list[Array] = []
    outputs: list[Array] = []
    while sum(len(o) for o in outputs) < _ROWS and len(inputs) < _DRAWS:
        inputs.append(np.random.default_rng(len(inputs)).standard_normal(y.shape).astype(y.dtype))
        outputs.append((made_of(inputs[-1]) - zero).reshape(-1, heads * dims).astype(np.float64))
    for turned in (False, True):
        given = [in_order(linear, drawn, zero.shape[:2], turned=turned) for drawn in inputs]
        found = _match([g.reshape(-1, g.shape[-1]) for g in given if g is not None], outputs)
        if found is not None:
            channels, factors = (a.reshape(heads, dims) for a in found)
            return Wiring(channels, factors, constants[0].reshape(heads, dims), turned)
    return _REASON


def in_order(linear: Linear, array: Array, shape: tuple[int, ...], *, turned: bool, x: bool = False) -> Array | None:
    """Rows of what a linear node makes, or of its input `x`, as `(N, S, K)` in the order that the operand has."""
    form = linear.form
    if array.ndim < 2:
        return None
    rows = form.rows(array, _all(form, array)) if x else form.outputs(array, _all(form, array))
    rows = rows[:, :, 0]
    rows = rows.swapaxes(0, 1) if turned else rows
    return rows.reshape(*shape, -1) if rows.shape[0] * rows.shape[1] == shape[0] * shape[1] else None


def _all(form: Form, array: Array) -> Array:
    return np.arange(form.positions(array))


def _match(inputs: list[Array], outputs: list[Array]) -> tuple[Array, Array] | None:
    """For each output `(R, K)` its channel among inputs `(R, M)` and the factor; None where some output is anything else."""
    if len(inputs) < len(outputs):
        return None
    given, made = (np.concatenate(a)[:4096].astype(np.float64) for a in (inputs, outputs))
    channels = np.abs(given.T @ made).argmax(axis=0)
    picked = given[:, channels]
    factors = (picked * made).sum(axis=0) / (picked**2).sum(axis=0)
    wrong = np.abs(made - factors * picked).max() > _TOLERANCE * np.abs(made).max() or not np.abs(factors).min()
    return None if wrong else (channels, factors)
