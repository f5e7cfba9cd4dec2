"""Linear nodes: an activation times one stored weight. Each is written as `rows(x) @ matrix(weight)` per group.

Rows are the patches an output position sees (im2col; zero padding is part of the patch, so borders are exact), a matrix has
the taps of a weight in the same order:

    x -> (R, G, K), weight -> (G, K, M), y -> (R, G, M)        R samples x positions, G groups, K channels x taps, M outputs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from onnxprune.statistics.flow import Flow, attributes

Array = NDArray[Any]


@dataclass(frozen=True)
class Linear:
    """A node that multiplies an activation with a stored weight.

    Attributes:
        node: its index in the main graph.
        name: of the node, or its output.
        x: the activation it reads.
        y: its output.
        weight: the stored weight.
        perm: the weight is read transposed by this permutation; None: as it is stored.
        form: how rows are taken.
    """

    node: int
    name: str
    x: str
    y: str
    weight: str
    perm: tuple[int, ...] | None
    form: Form

    def matrix(self, stored: Array) -> Array:
        """Float64 `(G, K, M)` of the stored weight."""
        read = stored if self.perm is None else stored.transpose(self.perm)
        return self.form.matrix(np.asarray(read, np.float64))

    def stored(self, matrix: Array, like: Array) -> Array:
        """The inverse of `matrix`, in the shape and type of the stored weight."""
        shape = like.shape if self.perm is None else tuple(like.shape[p] for p in self.perm)
        read = self.form.weight(matrix, shape)
        return np.ascontiguousarray(read if self.perm is None else read.transpose(np.argsort(self.perm))).astype(like.dtype)


@dataclass(frozen=True)
class Dense:
    """x (.., K, ..) with the channels on `axis`, W (K, M), or (M, K) where `flipped`."""

    axis: int
    flipped: bool

    def matrix(self, weight: Array) -> Array:
        """`(1, K, M)`."""
        return (weight.T if self.flipped else weight)[None]

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        return np.asarray(matrix[0].T if self.flipped else matrix[0])

    def channel_axis(self, rank: int) -> int:
        """Axis of channels in x and in y."""
        return self.axis % rank

    @property
    def taps(self) -> int:
        """Elements of a row for each channel."""
        return 1

    def positions(self, y: Array) -> int:
        """Output positions of a sample."""
        return int(np.prod(y.shape[1:], dtype=np.int64)) // max(y.shape[self.axis], 1) if y.ndim > 1 else 1

    def rows(self, x: Array, chosen: Array) -> Array:
        """Rows `(N, P, 1, K)` at chosen positions."""
        flat = np.moveaxis(x, self.axis, -1).reshape(len(x), -1, x.shape[self.axis])
        return np.asarray(flat[:, chosen, None, :])

    def outputs(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, 1, M)` at chosen positions."""
        return self.rows(y, chosen)


@dataclass(frozen=True)
class Convolution:
    """x (N, C, ...), W (C_out, C/G, ...); `transposed`: W (C, C_out/G, ...), a convolution over x with zeros between."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    groups: int
    transposed: bool
    extra: tuple[int, ...] = ()

    def matrix(self, weight: Array) -> Array:
        """`(G, C/G * taps, M)`."""
        g = self.groups
        if self.transposed:  # (G, C/G, M, k) -> (G, C/G, k, M), taps turned round
            parts = weight.reshape(g, weight.shape[0] // g, weight.shape[1], *weight.shape[2:])
            parts = np.flip(parts, axis=tuple(range(3, parts.ndim)))
            parts = parts.reshape(*parts.shape[:3], -1).transpose(0, 1, 3, 2)
            return np.ascontiguousarray(parts).reshape(g, -1, weight.shape[1])
        return weight.reshape(g, weight.shape[0] // g, -1).transpose(0, 2, 1)

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        g = self.groups
        if self.transposed:
            parts = matrix.reshape(g, shape[0] // g, -1, shape[1]).transpose(0, 1, 3, 2)
            parts = parts.reshape(g, shape[0] // g, shape[1], *shape[2:])
            return np.flip(parts, axis=tuple(range(3, parts.ndim))).reshape(shape)
        return matrix.transpose(0, 2, 1).reshape(shape)

    def channel_axis(self, rank: int) -> int:
        """Axis of channels in x and in y."""
        return 1

    @property
    def taps(self) -> int:
        """Elements of a row for each channel."""
        return math.prod(self.kernel)

    def positions(self, y: Array) -> int:
        """Output positions of a sample."""
        return int(np.prod(y.shape[2:], dtype=np.int64))

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and behind each spatial axis (of the stretched input, where it is transposed)."""
        n = len(self.kernel)
        reach = [d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True)]
        if self.transposed:
            pairs = [(reach[i] - self.pads[i], reach[i] - self.pads[i + n] + self.extra[i]) for i in range(n)]
            return pairs
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            result = []
            for size, stride, r in zip(sizes, self.strides, reach, strict=True):
                total = max((-(-size // stride) - 1) * stride + r + 1 - size, 0)
                small, large = total // 2, total - total // 2
                result.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
            return result
        return [(0, 0)] * n if self.auto_pad == "VALID" else [(self.pads[i], self.pads[i + n]) for i in range(n)]

    def rows(self, x: Array, chosen: Array) -> Array:
        """Rows `(N, P, G, C/G * taps)` at chosen output positions, in row-major order of the output."""
        sizes, strides = x.shape[2:], self.strides
        if self.transposed:
            stretched = np.zeros((*x.shape[:2], *[(s - 1) * t + 1 for s, t in zip(sizes, strides, strict=True)]), x.dtype)
            stretched[(slice(None), slice(None), *[slice(None, None, t) for t in strides])] = x
            x, sizes, strides = stretched, stretched.shape[2:], (1,) * len(strides)
        pads = self.padding(sizes)
        crop = tuple(slice(max(-a, 0), s - max(-b, 0)) for (a, b), s in zip(pads, sizes, strict=True))
        x = x[(slice(None), slice(None), *crop)]
        if any(a > 0 or b > 0 for a, b in pads):
            x = np.pad(x, [(0, 0), (0, 0), *[(max(a, 0), max(b, 0)) for a, b in pads]])
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        out = [(s - span) // t + 1 for s, span, t in zip(x.shape[2:], spans, strides, strict=True)]
        steps = x.strides[2:]
        view = as_strided(
            x,
            (*x.shape[:2], *out, *self.kernel),
            (*x.strides[:2], *[s * t for s, t in zip(steps, strides, strict=True)]
             , *[s * d for s, d in zip(steps, self.dilations, strict=True)]),
            writeable=False,
        )  # fmt: skip
        places: tuple[Any, ...] = (slice(None), slice(None), *np.unravel_index(chosen, out))
        picked = view[places]  # (N, C, P, kernel...)
        picked = np.moveaxis(picked, 2, 1)
        return np.asarray(picked.reshape(len(x), len(chosen), self.groups, -1))

    def outputs(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, G, M)` at chosen positions."""
        flat = y.reshape(*y.shape[:2], -1)[:, :, chosen]
        return np.moveaxis(flat, 1, 2).reshape(len(y), len(chosen), self.groups, -1)


Form = Dense | Convolution


def find_linear(flow: Flow) -> list[Linear]:
    """All linear nodes of the main graph, in order."""
    result = []
    for k, node in enumerate(flow.nodes):
        read = _READ.get((node.domain, node.op_type))
        found = read(flow, node) if read and flow.varying[k] else None
        if found is not None:
            x, weight, form = found
            source, perm = stored_source(flow, weight)
            if source:
                result.append(Linear(k, node.name or node.output[0], x, node.output[0], source, perm, form))
    return result


def stored_source(flow: Flow, name: str) -> tuple[str, tuple[int, ...] | None]:
    """The initializer that a tensor is, but for Transpose and Identity nodes; an empty name where it is something else."""
    perm: tuple[int, ...] | None = None
    while name not in flow.initializers:
        k = flow.producer.get(name)
        if k is None or flow.nodes[k].op_type not in ("Transpose", "Identity") or flow.varying[k]:
            return "", None
        node = flow.nodes[k]
        if node.op_type == "Transpose":
            given = attributes(node).get("perm")
            rank = _rank(flow, node.input[0])
            own = tuple(given) if given is not None else tuple(reversed(range(rank)))
            perm = own if perm is None else tuple(own[p] for p in perm)
        name = node.input[0]
    return name, perm


def _rank(flow: Flow, name: str) -> int:
    while name not in flow.initializers and name in flow.producer:
        name = flow.nodes[flow.producer[name]].input[0]
    return len(flow.initializers[name].dims) if name in flow.initializers else 0


def _weight_shape(flow: Flow, name: str) -> tuple[int, ...] | None:
    source, perm = stored_source(flow, name)
    if not source:
        return None
    dims = tuple(flow.initializers[source].dims)
    return dims if perm is None else tuple(dims[p] for p in perm)


def _matmul(flow: Flow, node: Any) -> tuple[str, str, Form] | None:
    left, right = node.input[:2]
    shape = _weight_shape(flow, right)
    if shape is not None and len(shape) == 2:
        return left, right, Dense(-1, False)
    shape = _weight_shape(flow, left)
    if shape is not None and len(shape) == 2:
        return right, left, Dense(-2, True)
    return None


def _gemm(flow: Flow, node: Any) -> tuple[str, str, Form] | None:
    given = attributes(node)
    shape = _weight_shape(flow, node.input[1])
    plain = given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    return (node.input[0], node.input[1], Dense(-1, bool(given.get("transB", 0)))) if plain and shape is not None else None


def _conv(flow: Flow, node: Any) -> tuple[str, str, Form] | None:
    given = attributes(node)
    shape = _weight_shape(flow, node.input[1])
    if shape is None or given.get("activation") or len(node.input) > 3:
        return None
    kernel = tuple(shape[2:])
    n = len(kernel)
    transposed = node.op_type == "ConvTranspose"
    if transposed and (given.get("output_shape") or given.get("auto_pad", "NOTSET") != "NOTSET"):
        return None
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
    return node.input[0], node.input[1], form


_READ = {("", "MatMul"): _matmul, ("", "Gemm"): _gemm, ("", "Conv"): _conv, ("", "ConvTranspose"): _conv}
