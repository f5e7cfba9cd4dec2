"""Linear nodes: an activation times one stored weight. Each is written as `rows(x) @ matrix(weight)` per group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.statistics.convolution import Convolution
from onnxprune.statistics.flow import Flow, attributes
from onnxprune.statistics.forms import Contraction, Dense, Form
from onnxprune.statistics.reading import Reading, reading_of

__all__ = [
    "Contraction",
    "Convolution",
    "Declined",
    "Dense",
    "Form",
    "Linear",
    "find_declined",
    "find_linear",
    "plain_linear",
    "stored_source",
]

Array = NDArray[Any]
ShapeOf = Callable[[str], "tuple[int, ...] | None"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Linear:
    """A node that multiplies an activation with a stored weight.

    Attributes:
        node: its index in the main graph.
        name: of the node, or its output.
        x: the activation it reads.
        y: its output.
        weight: the stored weight.
        reading: how the node sees it.
        form: how rows are taken.
        factor: the product is multiplied with this number.
    """

    node: int
    name: str
    x: str
    y: str
    weight: str
    reading: Reading
    form: Form
    factor: float = 1.0

    def matrix(self, stored: Array) -> Array:
        """Float64 `(G, K, M)` of the stored weight."""
        return self.factor * self.form.matrix(np.asarray(self.reading.read(stored), np.float64))

    def stored(self, matrix: Array, like: Array) -> Array:
        """The inverse of `matrix`, in the shape and type of the stored weight."""
        return self.reading.write(self.form.weight(matrix / self.factor, self.reading.sizes)).astype(like.dtype)


@dataclass(frozen=True)
class Declined:
    """A node that multiplies an activation with something stored, but is not written as rows times a matrix.

    Attributes:
        node: its index in the main graph.
        name: of the node, or its output.
        x: the activation it reads.
        y: its output.
        weight: the stored weight, or what is made of it.
        reason: why.
    """

    node: int
    name: str
    x: str
    y: str
    weight: str
    reason: str


_Found = tuple[str, str, Form, float] | tuple[str, str, str]  # x, weight, form, factor; or x, weight, reason


def find_linear(flow: Flow, shape_of: ShapeOf = lambda name: None) -> list[Linear]:
    """All linear nodes of the main graph, in order.

    Args:
        flow: of the model.
        shape_of: shapes of activations at any one size of the symbolic dimensions, as far as they are known. Weights of
            more than two axes, and ellipses, need them.
    """
    return [x for x in _find(flow, shape_of) if isinstance(x, Linear)]


def plain_linear(flow: Flow) -> list[Linear]:
    """The convolutions and matrix products among them, whose channels lie on one axis."""
    return [x for x in find_linear(flow) if not isinstance(x.form, Contraction)]


def stored_source(flow: Flow, name: str) -> tuple[str, tuple[int, ...] | None]:
    """The initializer that a tensor is, but for a permutation of its axes; an empty name where it is something else."""
    found = reading_of(flow, name)
    if isinstance(found, str) or not all(turned for turned, _ in found[1].steps):
        return "", None
    perm: tuple[int, ...] | None = None
    for _, step in found[1].steps:
        perm = step if perm is None else tuple(perm[p] for p in step)
    return found[0], perm


def find_declined(flow: Flow, shape_of: ShapeOf = lambda name: None) -> list[Declined]:
    """The nodes that could be linear ones but are not read as such, in order."""
    return [x for x in _find(flow, shape_of) if isinstance(x, Declined)]


def _find(flow: Flow, shape_of: ShapeOf) -> Iterator[Linear | Declined]:
    for k, node in enumerate(flow.nodes):
        read = _READ.get((node.domain, node.op_type))
        if read is None or not flow.varying[k]:
            continue
        found = read(flow, node, shape_of)
        if found is None:
            continue
        name = node.name or node.output[0]
        x, weight = found[:2]
        source = reading_of(flow, weight)
        if isinstance(found[2], str) or isinstance(source, str):
            reason = found[2] if isinstance(found[2], str) else str(source)
            yield Declined(k, name, x, node.output[0], weight, reason)
        else:
            yield Linear(k, name, x, node.output[0], *source, found[2], found[3] if len(found) > 3 else 1.0)


def _stored(flow: Flow, name: str) -> bool:
    """Nothing that is fed is in it."""
    return name in flow.initializers or (name in flow.producer and not flow.varying[flow.producer[name]])


def _shape(flow: Flow, name: str) -> tuple[int, ...]:
    """Shape of a stored tensor behind its reading; `()` where it is something else."""
    source = reading_of(flow, name)
    return () if isinstance(source, str) else source[1].sizes


def _matmul(flow: Flow, node: onnx.NodeProto, shape_of: ShapeOf) -> _Found | None:
    """Products x @ W or W @ x."""
    left, right = node.input[:2]
    stored = [_stored(flow, n) for n in (left, right)]
    if stored[0] == stored[1]:
        return None
    x, weight = (right, left) if stored[0] else (left, right)
    sizes = _shape(flow, weight)
    if len(sizes) == 2:
        return x, weight, Dense(-2, True) if stored[0] else Dense(-1, False), 1.0
    if len(sizes) < 2:
        why = reading_of(flow, weight)
        return x, weight, why if isinstance(why, str) and why else "its weight is a vector"
    shape = shape_of(x)
    if shape is None or len(shape) < 2:
        return x, weight, "the shape of what its weight multiplies is not known"
    return x, weight, _batched(shape, sizes, left=stored[0]), 1.0


def _batched(shape: tuple[int, ...], sizes: tuple[int, ...], *, left: bool) -> Contraction:
    """A matrix product whose weight has axes in front of its matrix."""
    rank = max(len(shape), len(sizes))
    x, w, y = "", "", ""
    for i in range(rank - 2):
        a = shape[i - rank + len(shape)] if i >= rank - len(shape) else 0
        b = sizes[i - rank + len(sizes)] if i >= rank - len(sizes) else 0
        letter = "1" if max(a, b) == 1 else _LETTERS[i]
        x += "" if not a else "1" if a == 1 else letter
        w += "" if not b else "1" if b == 1 else letter
        y += letter
    k, s, m = "KSM"
    return Contraction(x + k + s, w + m + k, y + m + s) if left else Contraction(x + s + k, w + k + m, y + s + m)


def _einsum(flow: Flow, node: onnx.NodeProto, shape_of: ShapeOf) -> _Found | None:
    """Two operands, one of them stored."""
    stored = [i for i, n in enumerate(node.input) if _stored(flow, n)]
    if not stored or len(stored) == len(node.input):
        return None
    w = stored[0]
    x = next(i for i in range(len(node.input)) if i not in stored)
    names = node.input[x], node.input[w]
    if len(node.input) != 2:
        return *names, f"an Einsum of {len(node.input)} operands"
    terms, arrow, y = attributes(node)["equation"].replace(" ", "").partition("->")
    parts = terms.split(",")
    if not arrow:
        every = "".join(parts).replace("...", "")
        y = ("..." if "..." in terms else "") + "".join(c for c in sorted(set(every)) if every.count(c) == 1)
    if "..." in parts[w]:
        return *names, "an Einsum with an ellipsis in its weight"
    if "..." in parts[x]:
        shape = shape_of(names[0])
        count = -1 if shape is None else len(shape) - len(parts[x]) + 3
        unused = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _LETTERS if c not in terms]
        if count < 0 or count > len(unused):
            return *names, "an Einsum with an ellipsis of unknown length"
        if "..." not in y and count:
            return *names, "an Einsum that sums over its ellipsis"
        parts[x], y = (t.replace("...", "".join(unused[:count])) for t in (parts[x], y))
    form = Contraction(parts[x], parts[w], y)
    if any(len(set(t)) < len(t) for t in (*parts, y)):
        return *names, "an Einsum that reads a diagonal"
    if any(c not in y and not (c in parts[0] and c in parts[1]) for c in set("".join(parts))):
        return *names, "an Einsum that sums over an axis of one operand alone"
    if not form.summed:
        return *names, "an Einsum that sums over no channel"
    if not any(c in parts[x] and c in y and c not in parts[w] for c in parts[x]):
        return *names, "an Einsum without an axis of samples"
    known = dict(zip(parts[x], shape_of(names[0]) or (), strict=False))
    sizes = dict(zip(parts[w], _shape(flow, names[1]), strict=False))
    if any(sizes.get(c, n) != n and 1 in (n, sizes[c]) for c, n in known.items() if c in parts[w]):
        return *names, "an Einsum that broadcasts"
    return *names, form, 1.0


def _gemm(flow: Flow, node: onnx.NodeProto, shape_of: ShapeOf) -> _Found | None:
    """The product alpha * A @ B + beta * C."""
    given = attributes(node)
    x, weight = node.input[:2]
    if _stored(flow, x) or not _stored(flow, weight):
        turned = _stored(flow, x) and not _stored(flow, weight)
        return (weight, x, "a Gemm with its weight on the left") if turned else None
    if given.get("alpha", 1.0) == 0.0:
        return x, weight, "a Gemm whose alpha is 0"
    if len(node.input) > 2 and node.input[2]:
        bias = flow.constant(node.input[2])
        sizes = _shape(flow, weight)
        outputs = sizes[0 if given.get("transB", 0) else 1] if len(sizes) == 2 else -1
        if bias is None or bias.size != outputs or given.get("beta", 1.0) == 0.0:
            return x, weight, "a Gemm that adds something else than one stored number for each output"
    form: Form = Dense(-1, bool(given.get("transB", 0)))
    if given.get("transA", 0):
        form = Contraction("kn", "mk" if given.get("transB", 0) else "km", "nm")
    return x, weight, form, float(given.get("alpha", 1.0))


def _conv(flow: Flow, node: onnx.NodeProto, shape_of: ShapeOf) -> _Found | None:
    """Conv and ConvTranspose."""
    given = attributes(node)
    x, weight = node.input[:2]
    if not _stored(flow, weight):
        return None
    kernel = _shape(flow, weight)[2:]
    n = len(kernel)
    transposed = node.op_type == "ConvTranspose"
    if transposed and (given.get("output_shape") or given.get("auto_pad", "NOTSET") != "NOTSET"):
        return x, weight, "a ConvTranspose whose padding follows from its output"
    form = Convolution(
        kernel,
        tuple(given.get("strides", [1] * n)),
        tuple(given.get("dilations", [1] * n)),
        tuple(given.get("pads", [0] * 2 * n)),
        given.get("auto_pad", "NOTSET"),
        int(given.get("group", 1)),
        transposed,
        tuple(given.get("output_padding", [0] * n)),
    )
    return x, weight, form, 1.0


def _other(reason: str, position: int = 1) -> _Read:
    """Reads no node, but says why."""

    def read(flow: Flow, node: onnx.NodeProto, shape_of: ShapeOf) -> _Found | None:
        names = node.input[0], node.input[position]
        return (*names, reason) if _stored(flow, names[1]) else None

    return read


_Read = Callable[[Flow, onnx.NodeProto, ShapeOf], _Found | None]
_INTEGER = "its weight is quantized: prune the float model, then quantize it"
_READ: dict[tuple[str, str], _Read] = {
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv,
    ("", "DeformConv"): _other("a DeformConv, whose rows depend on its offsets"),
    ("", "ConvInteger"): _other(_INTEGER),
    ("", "MatMulInteger"): _other(_INTEGER),
    ("", "QLinearConv"): _other(_INTEGER, 3),
    ("", "QLinearMatMul"): _other(_INTEGER, 3),
    ("com.microsoft", "MatMulNBits"): _other(_INTEGER),
    ("com.microsoft", "FusedConv"): _other("a FusedConv, whose activation function is inside"),
    ("com.microsoft", "FusedGemm"): _other("a FusedGemm, whose activation function is inside"),
    ("com.microsoft", "FusedMatMul"): _other("a FusedMatMul of ONNX Runtime's own optimizer"),
    ("com.microsoft", "Attention"): _other("an Attention whose projection is inside"),
}
