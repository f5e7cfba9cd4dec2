"""Pairs of tensors by what they hold: for graphs from different exporters, whose names and structure say little.

Tensors that are equal up to rounding are the same tensor, whatever they are called. So those before the first difference
find each other, those behind it do not, and what lies between is where to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.comparison.sides import Side
from onnxprune.statistics.providers import Providers

Array = NDArray[Any]

_CLOSE = 1e-4  # of the norm
_AT_ONCE = 64


@dataclass(frozen=True)
class _Print:
    """A tensor in a few numbers: its shape, norm, and products with fixed random vectors."""

    shape: tuple[int, ...]
    norm: float
    products: NDArray[np.float64]

    def fits(self, other: _Print) -> bool:
        """Both are the same up to rounding."""
        apart = np.abs(self.products - other.products).max(initial=0.0)
        return self.shape == other.shape and bool(apart <= _CLOSE * self.norm)


def pairs_by_values(
    first: tuple[Side, Sequence[str], Mapping[str, Array]],
    second: tuple[Side, Sequence[str], Mapping[str, Array]],
    sizes: Mapping[str, int],
    memory: int,
    providers: Providers,
) -> dict[str, str]:
    """Tensors of two models with equal values, each once, in the order of the graphs.

    Args:
        first: model, tensors and feeds.
        second: the same of the other model.
        sizes: bytes of the first model's tensors.
        memory: bytes that are held at once.
        providers: that both run on.
    """
    mean = max(sum(sizes.get(n, 0) for n in first[1]) // max(len(first[1]), 1), 1)
    count = max(min(_AT_ONCE, memory // mean), 1)
    ours, theirs = (dict(_prints(*side, count, providers)) for side in (first, second))
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, held in theirs.items():
        by_shape.setdefault(held.shape, []).append(name)
    found: dict[str, str] = {}
    for name, held in ours.items():
        candidates = by_shape.get(held.shape, [])
        fit = next((m for m in candidates if held.fits(theirs[m])), None)
        if fit is not None:
            found[name] = fit
            candidates.remove(fit)
    return found


def content(array: NDArray[np.generic]) -> tuple[str, bytes]:
    """The same for arrays with the same numbers in any order."""
    return str(array.dtype), blake2b(np.sort(array, axis=None).tobytes(), digest_size=16).digest()


def _prints(
    side: Side, names: Sequence[str], feeds: Mapping[str, Array], count: int, providers: Providers
) -> Iterator[tuple[str, _Print]]:
    """Prints of the tensors that can be computed and hold finite floats."""
    for start in range(0, len(names), count):
        some = list(names[start : start + count])
        try:
            values = side.tensors(some, feeds, {}, providers)
        except RuntimeError:
            if len(some) > 1:
                yield from _prints(side, some, feeds, len(some) // 2, providers)
            continue
        for name, value in zip(some, values, strict=True):
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 1:
                flat = value.astype(np.float64).ravel()
                norm = float(np.linalg.norm(flat))
                if np.isfinite(norm) and norm > 0:
                    yield name, _Print(value.shape, norm, _directions(flat.size) @ flat)


def _directions(size: int) -> NDArray[np.float64]:
    """Fixed random vectors: products with them differ by about the norm of what two tensors differ by."""
    return np.random.default_rng(size).standard_normal((4, size))
