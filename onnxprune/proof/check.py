"""Checks a removal: surgery, proof, and the search for groups whose surgery fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.branches import other_branches
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import TOLERANCE, SourceError, Verification, compare
from onnxprune.proof.session import run
from onnxprune.report.report import PutBack
from onnxprune.select.allocate import Choice
from onnxprune.shapes.dims import assignments
from onnxprune.surgery.apply import apply_alive
from onnxprune.surgery.inflate import inflated_weights, put_in, unlabelled_weights, with_new_biases

_SIZES = 2  # at how many input sizes a model with symbolic dimensions is compared


def alive_after(groups: Groups, choices: Sequence[Choice]) -> Mask:
    """Which labels stay."""
    parts = [c.classes for c in choices if c.count]
    return groups.alive_labels(np.concatenate(parts) if parts else np.zeros(0, np.int32))


def default_tolerance(groups: Groups) -> float:
    """1e-4 relative, 5e-3 for float16."""
    dtypes = {int(groups.trace.values[n].dtype) for n in groups.trace.weights if n in groups.trace.values}
    return max((TOLERANCE.get(d, 1e-4) for d in dtypes), default=1e-4)


@dataclass
class Checker:
    """Verifies removals from one source.

    Attributes:
        prepared: the source as it was traced.
        groups: its analysis.
        seed: for the random inputs.
        tolerance: largest relative error that passes.
        fixed: input shapes that the user gave.
    """

    prepared: Prepared
    groups: Groups
    seed: int
    tolerance: float
    fixed: Mapping[str, Sequence[int]] | None = None
    checker_passes: bool | None = None
    shapes: list[dict[str, tuple[int, ...]]] | None = None
    unverified: str = ""
    put_back: list[PutBack] = field(default_factory=list)

    def candidates(self) -> Iterator[dict[str, tuple[int, ...]]]:
        """Input shapes to try: those of the trace first."""
        if self.shapes is not None:
            yield from self.shapes
            return
        yield self.prepared.shapes
        yield from assignments(self.prepared.model, self.fixed)

    def verify(self, pruned: onnx.ModelProto, alive: Mask) -> Verification | None:
        """Compares a result with its inflated source; None where the source itself can't be run.

        A model with symbolic dimensions is compared at two sizes where it runs at two, and one with branches also with
        inputs that take the others. The result of a removal that changes
        statistics is only run, not compared.
        """
        source = self.prepared.model
        try:
            weights = {w.name: a for w, a in inflated_weights(source, pruned, self.groups, alive)}
        except ValueError as error:
            return self.failure(f"the weights do not have the shapes that the removal leaves: {error}")
        weights |= unlabelled_weights(source, pruned, self.groups)
        source = with_new_biases(source, pruned, self.groups, alive)
        made = not weights.keys() <= {t.name for t in source.graph.initializer}
        if made:
            source, weights = put_in(source, weights), {}
        reason, results, used = "", [], []
        for shapes in self.candidates():
            if shapes in used:
                continue
            feeds = random_inputs(self.prepared.graph, shapes, self.groups.trace.values, self.seed)
            found = self.compared(source, pruned, feeds, weights, runs=self.shapes is not None)
            if isinstance(found, str):
                reason = reason or found
                continue
            results.append(found)
            for other in other_branches(self.prepared.graph, feeds, self.groups.trace.values):
                found = self.compared(source, pruned, other, weights)
                results += [] if isinstance(found, str) else [found]
            used.append(shapes)
            if not all(r.passed for r in results) or made or len(used) == _SIZES:  # made constants have the traced sizes
                break
        if not results:
            self.unverified = f"ONNX Runtime can't run the source: {reason}"
            return None
        self.shapes = used
        return max(results, key=lambda r: (not r.passed, r.error))

    def compared(
        self,
        source: onnx.ModelProto,
        pruned: onnx.ModelProto,
        feeds: Mapping[str, NDArray[Any]],
        weights: Mapping[str, NDArray[Any]],
        *,
        runs: bool = False,
    ) -> Verification | str:
        """One comparison, or why the source itself can't be run; `runs`: it is known that it can."""
        try:
            return compare(source, pruned, self.prepared.graph, feeds, self.tolerance, weights)
        except SourceError as error:
            if not runs and not self.source_runs(feeds):
                return str(error)
            return self.failure(f"inflated source: {error}")
        except RuntimeError as error:
            return self.failure(str(error))

    def failure(self, message: str) -> Verification:
        """A comparison that did not come about."""
        return Verification(False, float("inf"), self.tolerance, message=message)

    def source_runs(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether the source itself can be run."""
        try:
            run(self.prepared.model, feeds, [o.name for o in self.prepared.model.graph.output])
        except RuntimeError:
            return False
        return True

    def attempt(self, choices: Sequence[Choice]) -> tuple[onnx.ModelProto | None, Verification | None, str]:
        """Surgery and proof for some groups: the result, its verification, and what failed."""
        alive = alive_after(self.groups, choices)
        problems = self.groups.violations(alive)
        if problems:
            return None, None, problems[0]
        try:
            model = apply_alive(self.prepared.model, self.groups, alive)
        except Exception as error:  # a bug of ours must not cost the user the rest of the model
            return None, None, f"{type(error).__name__}: {error}"
        message = self.invalid(model)
        if message:
            return None, None, message
        exact = [c for c in choices if c.group.exact]
        if len(exact) == len(choices):
            result = self.verify(model, alive)
            return model, result, "" if result is None or result.passed else result.message
        _, result, failed = self.attempt(exact)
        if failed or result is None:
            return model, result, failed
        shapes = (self.shapes or [self.prepared.shapes])[0]
        feeds = random_inputs(self.prepared.graph, shapes, self.groups.trace.values, self.seed)
        try:
            run(model, feeds, [o.name for o in model.graph.output])
        except RuntimeError as error:
            return None, None, str(error)
        return model, result, ""

    def invalid(self, model: onnx.ModelProto) -> str:
        """What `onnx.checker` says of a result whose source it accepts."""
        if model.ByteSize() > 2**31 - 2**20:
            return ""
        if self.checker_passes is None:
            self.checker_passes = not _complaint(self.prepared.model)
        return _complaint(model) if self.checker_passes else ""

    def prune(
        self, choices: list[Choice], progress: Callable[[str, float], None]
    ) -> tuple[onnx.ModelProto, list[Choice], Verification | None]:
        """The result without the groups whose surgery fails; those are listed in `put_back`."""
        model, result, failed = self.attempt(choices)
        tried = 0
        while failed and choices:
            progress("searching for groups to put back", min(0.9, tried / 10))
            tried += 1
            bad = self.culprits(choices, failed)
            ids = {c.group.id for c, _ in bad}
            self.put_back += [PutBack(c.group.id, reason) for c, reason in bad]
            choices = [c for c in choices if c.group.id not in ids]
            if choices:
                model, result, failed = self.attempt(choices)
        return model or self.prepared.model, choices, result

    def culprits(self, choices: list[Choice], reason: str) -> list[tuple[Choice, str]]:
        """Groups that fail alone, by bisection; where none does, the second half of the smallest set that fails."""
        if len(choices) == 1:
            return [(choices[0], reason)]
        middle = len(choices) // 2
        found: list[tuple[Choice, str]] = []
        for half in (choices[:middle], choices[middle:]):
            _, _, failed = self.attempt(half)
            if failed:
                found += self.culprits(half, failed)
        return found or [(c, reason) for c in choices[middle:]]


def _complaint(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"onnx.checker: {text[:300]}"
    return ""
