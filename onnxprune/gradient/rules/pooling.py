"""Windows that slide: convolutions, poolings, LRN.

Everything is a sum over the taps of a window. For one tap, the places it sees are one strided slice of the padded input, so
that neither patches nor index arrays are built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from onnxprune.gradient.registry import Array, Gradients, Step, derivative

Places = tuple[Any, ...]


def _spatial(places: Iterable[slice | int]) -> Places:
    """Places on the last axes, all of the others."""
    return (..., *places)


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes of `(N, C, ...)`.

    Attributes:
        sizes: of the input.
        out: of the output.
        kernel: taps on each axis.
        strides: between windows.
        dilations: between taps.
        begin: padding before the input.
    """

    sizes: Sequence[int]
    out: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begin: Sequence[int]

    @classmethod
    def of(cls, step: Step, sizes: Sequence[int], out: Sequence[int], kernel: Sequence[int]) -> Windows:
        """From the attributes of a node.

        Source: ONNX operator specification, Conv and MaxPool, attributes `auto_pad` and `pads`.
        """
        n = len(kernel)
        strides = list(step.attrs.get("strides", [1] * n))
        dilations = list(step.attrs.get("dilations", [1] * n))
        auto = step.attrs.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
            total = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(out, strides, reach, sizes, strict=True)]
            begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        else:
            begin = [0] * n if auto == "VALID" else list(step.attrs.get("pads", [0] * 2 * n))[:n]
        return cls(sizes, out, kernel, strides, dilations, begin)

    @property
    def padded(self) -> list[int]:
        """Sizes of the input with all that windows reach."""
        ends = [
            (o - 1) * s + d * (k - 1) + 1
            for o, s, d, k in zip(self.out, self.strides, self.dilations, self.kernel, strict=True)
        ]
        return [max(e, b + i) for e, b, i in zip(ends, self.begin, self.sizes, strict=True)]

    @property
    def inside(self) -> Places:
        """Where the input lies in the padded one."""
        return _spatial(slice(b, b + n) for b, n in zip(self.begin, self.sizes, strict=True))

    def taps(self) -> Iterator[tuple[tuple[int, ...], Places]]:
        """Each tap, and the places of the padded input that it sees."""
        for tap in product(*(range(k) for k in self.kernel)):
            starts = [t * d for t, d in zip(tap, self.dilations, strict=True)]
            spans = zip(starts, self.out, self.strides, strict=True)
            yield tap, _spatial(slice(a, a + (o - 1) * s + 1, s) for a, o, s in spans)

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """The padded input."""
        wide = np.full((*x.shape[:2], *self.padded), value, x.dtype)
        wide[self.inside] = x
        return wide


@derivative("Conv", inputs=[0])
def conv(step: Step) -> Gradients:
    """Each tap sends dy `(N, M, ...)` back through its matrix of W `(M, C / g, ...)`, to x `(N, C, ...)`."""
    x, w, dy = step.need(0), step.need(1), step.grad
    windows = Windows.of(step, x.shape[2:], dy.shape[2:], w.shape[2:])
    return {0: _spread(dy, w, windows, x.shape[1], int(step.attrs.get("group", 1)))}


def _spread(dy: Array, w: Array, windows: Windows, channels: int, groups: int) -> Array:
    n, m = dy.shape[:2]
    wide = np.zeros((n, channels, *windows.padded), dy.dtype)
    flat = dy.reshape(n, groups, m // groups, -1)
    parts = w.reshape(groups, m // groups, channels // groups, *w.shape[2:]).astype(dy.dtype, copy=False)
    for tap, seen in windows.taps():
        matrix = parts[_spatial(tap)].transpose(0, 2, 1)  # (g, C / g, M / g)
        wide[seen] += _mixed(matrix, flat).reshape(n, channels, *dy.shape[2:])
    return wide[windows.inside]


def _mixed(matrix: Array, flat: Array) -> Array:
    """(g, A, B) @ (N, g, B, P); depthwise without a product of matrices for each channel."""
    if matrix.shape[1] == 1 or matrix.shape[2] == 1:
        return np.asarray((matrix[..., None] * flat[:, :, None]).sum(axis=3))
    return np.asarray(matrix @ flat)


@derivative("ConvTranspose", inputs=[0], when=lambda n, a: not a.get("output_shape") and _explicit(a.get("auto_pad", "")))
def conv_transpose(step: Step) -> Gradients:
    """The input takes the role of a convolution's output: dx is the convolution of dy with W `(C, M / g, ...)`."""
    x, w, dy = step.need(0), step.need(1), step.grad
    windows = Windows.of(step, dy.shape[2:], x.shape[2:], w.shape[2:])
    n, channels, groups = *x.shape[:2], int(step.attrs.get("group", 1))
    wide = windows.pad(dy)
    parts = w.reshape(groups, channels // groups, w.shape[1], *w.shape[2:]).astype(dy.dtype, copy=False)
    dx = np.zeros(x.shape, dy.dtype)
    for tap, seen in windows.taps():
        flat = wide[seen].reshape(n, groups, w.shape[1], -1)
        dx += _mixed(parts[_spatial(tap)], flat).reshape(x.shape)
    return {0: dx}


def _explicit(auto_pad: str) -> bool:
    return auto_pad in ("", "NOTSET")


@derivative("MaxPool")
def max_pool(step: Step) -> Gradients:
    """To the first largest element of each window."""
    x, dy = step.need(0), step.grad
    windows = Windows.of(step, x.shape[2:], dy.shape[2:], step.attrs["kernel_shape"])
    wide, dx = windows.pad(x, -np.inf), np.zeros((*x.shape[:2], *windows.padded), dy.dtype)
    open_ = np.ones(dy.shape, np.bool_)
    for _, seen in windows.taps():
        here = open_ & (wide[seen] == step.out)
        dx[seen] += here * dy
        open_ &= ~here
    return {0: dx[windows.inside]}


@derivative("AveragePool")
def average_pool(step: Step) -> Gradients:
    """The same share to each element of a window; elements of the padding count with `count_include_pad`."""
    x, dy = step.need(0), step.grad
    windows = Windows.of(step, x.shape[2:], dy.shape[2:], step.attrs["kernel_shape"])
    counted = np.zeros((1, 1, *windows.padded), dy.dtype)
    counted[windows.inside] = 1
    if step.attrs.get("count_include_pad", 0):
        after = list(step.attrs.get("pads", [0] * 2 * len(windows.begin)))[len(windows.begin) :]
        auto = not _explicit(step.attrs.get("auto_pad", ""))
        ends = [b + n + e for b, n, e in zip(windows.begin, windows.sizes, after, strict=True)]
        counted[_spatial(slice(None) if auto else slice(0, e) for e in ends)] = 1
    total = sum(counted[seen] for _, seen in windows.taps())
    share = dy / np.maximum(total, 1)
    dx = np.zeros((*x.shape[:2], *windows.padded), dy.dtype)
    for _, seen in windows.taps():
        dx[seen] += share
    return {0: dx[windows.inside]}


@derivative("LRN")
def lrn(step: Step) -> Gradients:
    """The quotient y = x * s^-beta, s = bias + alpha / size * (sum of squares over neighbouring channels).

    Source: ONNX operator specification, LRN.
    """
    x, dy, size = step.need(0), step.grad, int(step.attrs["size"])
    alpha, beta = float(step.attrs.get("alpha", 1e-4)), float(step.attrs.get("beta", 0.75))
    bias = float(step.attrs.get("bias", 1.0))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    s = bias + alpha / size * _neighbours(x * x, before, after)
    spread = _neighbours(dy * x * s ** (-beta - 1), after, before)
    return {0: np.asarray(dy * s**-beta - 2 * alpha * beta / size * x * spread, dy.dtype)}


def _neighbours(x: Array, before: int, after: int) -> Array:
    """Sums over channels c - before .. c + after."""
    wide = np.pad(x, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    return np.asarray(sum(wide[:, k : k + x.shape[1]] for k in range(before + after + 1)))
