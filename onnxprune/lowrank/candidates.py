"""Which nodes can be written as two, and why others can't."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from onnxprune.statistics.flow import Flow
from onnxprune.statistics.linear import Convolution, Dense, Linear, find_declined, find_linear

LEAST = 64
"""Rows and columns of a weight that is worth a second node."""
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class Left:
    """A wide node that stays one.

    Attributes:
        node: its name, or its output.
        weight: what it reads.
        reason: why.
    """

    node: str
    weight: str
    reason: str


@dataclass(frozen=True)
class Wide:
    """A node that can be written as two.

    Attributes:
        linear: the node.
        inputs: axis of the stored weight that is summed over.
        outputs: axis of the stored weight that counts outputs.
        path: tensors from the stored weight to what the node reads, the weight first; nothing else reads any of them.
    """

    linear: Linear
    inputs: int
    outputs: int
    path: tuple[str, ...]


def find_wide(
    flow: Flow, shape_of: Callable[[str], tuple[int, ...] | None], *, ignore: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[list[Wide], list[Left]]:
    """Nodes that can be written as two, and wide ones that can't.

    A weight `(K, M)`, a kernel with all its taps in K, has to have at least `LEAST` rows and columns.

    Args:
        flow: of the model.
        shape_of: shapes of activations, as far as they are known.
        ignore: globs of weights or nodes that stay as they are.
        only: globs of those that may change; all where there are none.
    """
    found: list[Wide] = []
    left = [Left(d.name, d.weight, d.reason) for d in find_declined(flow, shape_of)]
    for linear in find_linear(flow, shape_of):
        stored = flow.initializers[linear.weight]
        columns = _columns(linear)
        if min(columns, _size(stored) // max(columns, 1)) < LEAST:
            continue
        names = (linear.weight, linear.name)
        if only and not any(fnmatchcase(n, p) for n in names for p in only):
            continue
        reason = "it is to stay" if any(fnmatchcase(n, p) for n in names for p in ignore) else _why_not(flow, linear, stored)
        if reason:
            left.append(Left(linear.name, linear.weight, reason))
        else:
            seen = (1, 0) if isinstance(linear.form, Convolution) or linear.form.flipped else (0, 1)  # type: ignore[union-attr]
            axes = [linear.reading.stored_axes((axis,))[0] for axis in seen]
            found.append(Wide(linear, axes[0], axes[1], tuple(_path(flow, linear))))
    return found, left


def _columns(linear: Linear) -> int:
    """Outputs of a node for each of its groups."""
    sizes = linear.reading.sizes
    if isinstance(linear.form, Convolution):
        return sizes[1] if linear.form.transposed else sizes[0] // linear.form.groups
    if isinstance(linear.form, Dense):
        return sizes[0 if linear.form.flipped else 1]
    shape = dict(zip(linear.form.w, sizes, strict=True))
    result = 1
    for letter in linear.form.made:
        result *= shape[letter]
    return result


def _size(stored: onnx.TensorProto) -> int:
    result = 1
    for n in stored.dims:
        result *= n
    return result


def _why_not(flow: Flow, linear: Linear, stored: onnx.TensorProto) -> str:
    form = linear.form
    if isinstance(form, Convolution):
        if form.groups > 1:
            return f"a convolution of {form.groups} groups"
        if form.transposed:
            return "a transposed convolution"
    elif not isinstance(form, Dense):
        return "its weight holds several matrices"
    elif form.axis != -1:
        return "its weight is on the left"
    if stored.data_type not in _FLOATS:
        return "its weight is not of floats of 16 bits or more"
    if not all(turned for turned, _ in linear.reading.steps):
        return "its weight goes through a Reshape"
    if any(flow.users(name) != 1 or name in flow.outputs for name in _path(flow, linear)):
        return "something else reads its weight too"
    return ""


def _path(flow: Flow, linear: Linear) -> Iterator[str]:
    """Tensors from the stored weight to the node."""
    node = flow.nodes[linear.node]
    names = [next(n for n in node.input if n != linear.x and _leads_to(flow, n, linear.weight))]
    while names[-1] != linear.weight:
        names.append(flow.nodes[flow.producer[names[-1]]].input[0])
    yield from reversed(names)


def _leads_to(flow: Flow, name: str, weight: str) -> bool:
    while name != weight:
        k = flow.producer.get(name)
        if k is None or flow.varying[k] or not flow.nodes[k].input:
            return False
        name = flow.nodes[k].input[0]
    return True
