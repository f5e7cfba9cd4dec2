"""Convolutions as rows times matrix: patches of the input, of which zero padding is a part, so that borders are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]


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

    def read_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of x that its rows are made of."""
        return (1,)

    def made_axes(self, rank: int) -> tuple[int, ...]:
        """Axes of y that its outputs lie on."""
        return (1,)

    def arranged(self, shape: tuple[int, ...], samples: int) -> Convolution:
        """The same: samples come first."""
        return self

    @property
    def taps(self) -> int:
        """Elements of a row for each channel."""
        return prod(self.kernel)

    @property
    def x_lead(self) -> int:
        """Axis of samples in x."""
        return 0

    @property
    def y_lead(self) -> int:
        """Axis of samples in y."""
        return 0

    def places(self, y: Array) -> tuple[int, ...]:
        """Samples, and sizes of the axes of positions."""
        return (len(y), *y.shape[2:])

    def positions(self, y: Array) -> int:
        """Output positions of a sample."""
        return prod(y.shape[2:])

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

    def flat(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, G * M)` at chosen positions."""
        return np.moveaxis(y.reshape(*y.shape[:2], -1)[:, :, chosen], 1, 2)

    def outputs(self, y: Array, chosen: Array) -> Array:
        """Outputs `(N, P, G, M)` at chosen positions."""
        return self.flat(y, chosen).reshape(len(y), len(chosen), self.groups, -1)
