"""The oracle: inflated source and pruned model on the same random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.proof.decisions import behind_decisions, same_decisions
from onnxprune.proof.session import run

_ROUNDING = 4.0  # differences of that many times the noise are rounding
TOLERANCE: dict[int, float] = {TensorProto.FLOAT16: 5e-3}


@dataclass
class Verification:
    """Result of a comparison.

    Attributes:
        passed: all compared tensors agree within the tolerance.
        error: largest difference of any compared tensor, relative to the largest magnitude in it.
        tolerance: bound on `error`.
        noise: where `error` is above the tolerance, how much the same tensor of the source itself changes when its input
            moves by one unit in the last place: a difference of a few times that is rounding (a sigmoid near 0 has an
            absolute error, not a relative one).
        outputs: names of the tensors that were compared.
        before: inputs of discrete operators, compared too where both models were given the same choices.
        shapes: concrete input shapes.
        message: what went wrong, one line; empty where nothing did.
        rewritten: where ONNX Runtime's own graph optimizations change what the pruned model computes by more than the
            tolerance, by how much; then the comparison is of the graphs as they are written.
    """

    passed: bool
    error: float
    tolerance: float
    outputs: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    message: str = ""
    noise: float = 0.0
    rewritten: float = 0.0


def relative_error(expected: Any, actual: Any) -> float:
    """Max |a - b| / max |a|, over finite numbers; infinite where shapes, types or non-finite places differ."""
    if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
        return 0.0 if repr(expected) == repr(actual) else float("inf")
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "fc":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(a[finite]).max())
    return float(np.abs(a[finite] - b[finite]).max()) / (scale or 1.0)


class SourceError(RuntimeError):
    """The side that is known to be right can't be run."""


def compare(
    expected: onnx.ModelProto,
    actual: onnx.ModelProto,
    graph: gs.Graph,
    feeds: Mapping[str, NDArray[Any]],
    tolerance: float,
    weights: Mapping[str, NDArray[Any]] | None = None,
    folder: Path | None = None,
) -> Verification:
    """Runs both models and compares their outputs.

    Where outputs differ behind a discrete operator, which turns a rounding error into another choice, both models are given
    the choices of the first; then all outputs are compared, and what those operators read.

    The pruned model is run as ONNX Runtime runs it by default. Where its optimizations change the values of this very graph,
    the graphs are compared as they are written (`Verification.rewritten`).

    Args:
        expected: the inflated source, or the source where `weights` inflates it.
        actual: the pruned model.
        graph: graph of the source, to find discrete operators.
        feeds: inputs.
        tolerance: largest relative error that passes.
        weights: initializers of `expected` that take other values.
        folder: where external data of both lies.

    Raises:
        SourceError: `expected` can't be loaded or run.
        RuntimeError: `actual` can't.
    """
    names = [o.name for o in actual.graph.output]
    try:
        a = run(expected, feeds, names, weights, folder=folder)
    except RuntimeError as error:
        raise SourceError(str(error)) from error
    errors = _errors(names, a, run(actual, feeds, names, optimize=True, folder=folder))
    rewritten = 0.0
    if not all(e <= tolerance for e in errors.values()):
        rewritten, as_written = max(errors.values()), _errors(names, a, run(actual, feeds, names, folder=folder))
        errors, rewritten = (as_written, rewritten) if all(e <= tolerance for e in as_written.values()) else (errors, 0.0)
    before: list[str] = []
    behind = behind_decisions(graph)
    if any(not e <= tolerance and n in behind for n, e in errors.items()) and folder is None:
        cut = same_decisions(expected, actual, graph, feeds, weights)
        expected, feeds, before = cut.expected, cut.feeds, cut.inputs
        names = [n for n in names if n not in cut.decided]
        a, b = run(expected, feeds, names + before, weights), run(cut.actual, feeds, names + before)
        errors = _errors(names + before, a, b)
    worst = max(errors, key=lambda n: errors[n], default="")
    largest = max(errors.values(), default=0.0)
    noise, passed = 0.0, largest <= tolerance
    if not passed and np.isfinite(largest):
        noises = _noise(expected, feeds, list(errors), weights, folder)
        noise = noises[worst]
        passed = all(e <= max(tolerance, _ROUNDING * noises[n]) for n, e in errors.items())
    message = "" if passed else f"output {worst!r} differs by {largest:.2g}"
    shapes = {n: v.shape for n, v in feeds.items() if n in {i.name for i in actual.graph.input}}
    return Verification(passed, largest, tolerance, names, before, shapes, message, noise, rewritten)


def _errors(names: Sequence[str], expected: Sequence[Any], actual: Sequence[Any]) -> dict[str, float]:
    return {n: relative_error(x, y) for n, x, y in zip(names, expected, actual, strict=True)}


def _noise(
    model: onnx.ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    names: list[str],
    weights: Mapping[str, NDArray[Any]] | None,
    folder: Path | None,
) -> dict[str, float]:
    """How much tensors of a model change when each float input moves to the next number."""
    moved = {n: np.nextafter(x, np.array(np.inf, x.dtype)) if x.dtype.kind == "f" else x for n, x in feeds.items()}
    still, shaken = (run(model, x, names, weights, folder=folder) for x in (feeds, moved))
    return _errors(names, still, shaken)
