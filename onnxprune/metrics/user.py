"""Metrics that users write: `file.py:function`, and functions behind the decorator `onnxprune.metric`.

    def function(outputs: dict[str, ndarray], feeds: dict[str, ndarray]) -> float or ndarray (N,)

A plain function is called once for each model, with all samples: arrays `(N, ...)` by name, or lists of N arrays where
samples differ in shape. `feeds` holds the inputs, and `labels`, `targets` and what else lies beside them in the data. It
returns one value for each sample, whose mean is the figure and whose change gets an interval, or one number. Larger is
better, unless the function has an attribute `higher_is_better = False`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path

import numpy as np

from onnxprune.calibrate.stream import imports_from, load_function
from onnxprune.errors import ModelError, OnnxPruneError
from onnxprune.metrics.registry import Metric, Observed, Parts, Per, UserFunction, registered_as
from onnxprune.proof.session import first_line


def from_file(path: Path, name: str) -> Metric:
    """The metric `file.py:function`; as it was registered where it has the decorator.

    Raises:
        ModelError: the file is missing, or its code fails; names the line.
        UsageError: it has no such function.
    """
    with imports_from(path.parent):
        try:
            function = load_function(path, name, "metric")
        except ModelError as error:
            raise ModelError(_failure(str(path), error.__cause__) if error.__cause__ else str(error)) from error.__cause__
    found = registered_as(function)
    if found:
        return found
    better = bool(getattr(function, "higher_is_better", True))
    return Metric(f"{path.name}:{name}", guarded(function, f"{path}:{name}", "run"), name, better, per="run")


def guarded(function: UserFunction, name: str, per: Per) -> Callable[[Observed], Parts]:
    """A user's function as a metric, of which whatever goes wrong is one line."""
    call = partial(_call, function, name, per)
    update_wrapper(call, function)
    return call


def _call(function: UserFunction, name: str, per: Per, seen: Observed) -> Parts:
    try:
        found = function(dict(seen.outputs), {**seen.feeds, **seen.extras})
    except OnnxPruneError:
        raise
    except Exception as error:
        raise ModelError(_failure(f"metric {name}", error)) from error
    count = len(seen.samples)
    try:
        values = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"metric {name}: returns {type(found).__name__}, not {_promised(per, count)}") from None
    if per == "run" and values.ndim == 0:
        if not np.isfinite(values):
            raise ModelError(f"metric {name}: returns {float(values)}")
        return Parts(np.zeros(0), np.zeros(0), whole=float(values))
    if values.shape != (count,):
        shape = f"an array {list(values.shape)}" if values.ndim else "one number"
        raise ModelError(f"metric {name}: returns {shape}, not {_promised(per, count)}")
    if not np.isfinite(values).all():
        k = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ModelError(f"metric {name}: returns {values[k]} for {seen.name(int(seen.samples[k]))}")
    return Parts(values, np.ones(count))


def _promised(per: Per, count: int) -> str:
    return f"one value for each of {count} samples" + (", or one number" if per == "run" else "")


def _failure(where: str, error: BaseException) -> str:
    """Error and the line of the user's code that it comes from: the innermost one that is not in a library."""
    if isinstance(error, SyntaxError):
        line = f" at {error.filename}:{error.lineno}"
        return f"{where}: can't be read, {type(error).__name__}{line} ({error.msg})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    line = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{where}: fails with {type(error).__name__}{line} ({first_line(error) if isinstance(error, Exception) else ''})"


def _is_users(filename: str) -> bool:
    """Neither a library nor this package."""
    place = Path(filename)
    ours = Path(__file__).parents[1]
    return filename[:1] != "<" and "site-packages" not in place.parts and ours not in place.parents and not _is_python(place)


def _is_python(place: Path) -> bool:
    """In the standard library."""
    return Path(traceback.__file__).parent in place.parents
