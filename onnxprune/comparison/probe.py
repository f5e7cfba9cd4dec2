"""Values of intermediate tensors in both models, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.comparison.matching import Matching
from onnxprune.comparison.sides import Side
from onnxprune.errors import ModelError
from onnxprune.proof.oracle import relative_error
from onnxprune.statistics.providers import Providers

Array = NDArray[Any]

_AT_ONCE = 8  # tensors of one run


class Probe:
    """Runs parts of both models as they are written, and says how far tensors are apart.

    Tensors of the second model can be *replaced* by what the first computes there: an error that goes away then came from
    there.

    Args:
        first: what is right.
        second: what is compared with it.
        matching: pairs of tensors.
        feeds: of the first model; of the second.
        memory: bytes of tensors that are held at once.
        providers: that both run on.
    """

    def __init__(
        self,
        first: Side,
        second: Side,
        matching: Matching,
        feeds: tuple[Mapping[str, Array], Mapping[str, Array]],
        memory: int,
        providers: Providers,
    ) -> None:
        self.first, self.second, self.matching = first, second, matching
        self.feeds, self.memory, self.providers = feeds, memory, providers
        self.replaced: dict[str, Array] = {}
        self.errors: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self.runs = 0

    def batch(self, names: Sequence[str]) -> list[str]:
        """As many of some tensors, evenly spaced, as fit into one run."""
        sizes = [self.matching.sizes.get(n, 0) * 2 for n in names]
        mean = max(sum(sizes) // max(len(sizes), 1), 1)
        count = max(min(_AT_ONCE, self.memory // mean, len(names)), 1)
        return [names[(k + 1) * len(names) // (count + 1)] for k in range(count)]

    def measure(self, names: Sequence[str]) -> None:
        """Fills `errors` for some tensors that have a partner; where the second model can't compute one, it is infinite."""
        wanted = [n for n in dict.fromkeys(names) if n not in self.errors]
        if not wanted:
            return
        expected = self._expected(wanted)
        for name, value, actual in zip(wanted, expected, self._actual(wanted), strict=True):
            self.errors[name] = float("inf") if actual is None else self._apart(name, value, actual)

    def _expected(self, names: Sequence[str]) -> list[Any]:
        self.runs += 1
        try:
            return self.first.tensors(names, self.feeds[0], {}, self.providers)
        except RuntimeError as error:
            raise ModelError(f"{self.first.name}: ONNX Runtime can't run it as it is written ({error})") from error

    def _actual(self, names: Sequence[str]) -> list[Any]:
        """None for what can't be computed; with the reason in `failures`."""
        own = [self.matching.pairs[n] for n in names]
        try:
            return self.second.tensors(own, self.feeds[1], self.replaced, self.providers)
        except RuntimeError as error:
            if len(names) == 1:
                self.failures[names[0]] = str(error)
                return [None]
        return [value for n in names for value in self._actual([n])]

    def _apart(self, name: str, expected: Any, actual: Any) -> float:
        expected = self._kept(name, expected)
        if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
            return relative_error(expected, actual)
        if expected.dtype.kind == "f" and actual.dtype.kind == "f":
            expected, actual = expected.astype(np.float64), actual.astype(np.float64)
        return relative_error(expected, actual)

    def _kept(self, name: str, array: Any) -> Any:
        """The slices that the second model has."""
        for axis, index in enumerate(self.matching.keep.get(name, ())):
            if index is not None:
                array = np.take(array, index, axis)
        return array

    def replace(self, names: Sequence[str], stale: Sequence[str]) -> list[str]:
        """Feeds the second model with what the first computes for some tensors.

        Args:
            names: to be replaced.
            stale: tensors whose errors are no longer known then.

        Returns:
            Those that could not be, as they are no tensors.
        """
        declined = []
        for name, value in zip(names, self._expected(names), strict=True):
            own, kept = self.matching.pairs[name], self._kept(name, value)
            if not isinstance(kept, np.ndarray) or kept.dtype.kind not in "fiub":
                declined.append(name)
                continue
            dtype = self.matching.types.get(own, 0)
            self.replaced[own] = np.ascontiguousarray(kept, helper.tensor_dtype_to_np_dtype(dtype) if dtype else None)
            self.errors[name] = 0.0
        for name in stale:
            if self.matching.pairs[name] not in self.replaced:
                self.errors.pop(name, None)
        return declined

    def restore(self) -> None:
        """Nothing is replaced."""
        if self.replaced:
            self.replaced.clear()
            self.errors.clear()
