"""Metrics by name. One decorator registers ours and anybody's.

    import numpy as np
    from onnxprune import metric

    @metric("psnr", title="PSNR in dB", higher_is_better=True)
    def psnr(outputs, feeds):  # outputs and feeds: name -> (n, ...); returns one value for each sample, (n,)
        error = ((outputs["y"] - feeds["targets"]) ** 2).reshape(len(outputs["y"]), -1).mean(1)
        return -10 * np.log10(error)

`outputs` are those of the model, `feeds` its inputs and what lies beside them in the data: `labels`, `targets`, and
whatever else has a row for each sample. The function is called for one batch after the other, and the figure is the mean
over all samples. What is no mean (F1, mAP, an area under a curve) is registered with `per="run"`: it is called once with all
samples, and may return one number.

A package offers its metrics by an entry point in the group `onnxprune.metrics` that names a module which registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import UsageError

Array = NDArray[Any]
UserFunction = Callable[[dict[str, Any], dict[str, Any]], Any]
Needs = Literal["labels", "targets", "tokens", "nothing"]
Unit = Literal["percent", "plain"]
Per = Literal["sample", "run"]


@dataclass(frozen=True)
class Observed:
    """What one model computed for n samples.

    Attributes:
        outputs: output name -> `(n, ...)`.
        feeds: input name -> `(n, ...)`.
        extras: what lies beside the inputs, `(n, ...)`: `labels`, `targets`, expected outputs.
        samples: positions in the data `(n,)`.
        mask: `(n, S)`, zero where a position is padding.
        output: the one that is compared.
        against: what with: a name in `extras` or `feeds`.
        name: of a sample, for errors.
        where: origin of the data, for errors.
    """

    outputs: Mapping[str, Array]
    feeds: Mapping[str, Array]
    extras: Mapping[str, Array]
    samples: NDArray[np.int64]
    mask: Array | None = None
    output: str = ""
    against: str = ""
    name: Callable[[int], str] = lambda sample: f"sample {sample}"
    where: str = "data"

    @property
    def wanted(self) -> Array:
        """What the output should be, or its labels."""
        return self.extras[self.against] if self.against in self.extras else self.feeds[self.against]


@dataclass(frozen=True)
class Parts:
    """What a metric says about n samples. The figure is a function of the sum of `total` over the sum of `weight`.

    Attributes:
        total: `(n,)`.
        weight: `(n,)`: 1, or what a sample counts for (tokens, elements).
        classes: `(n,)` predicted class, where samples have one.
        whole: the figure of a whole run that is no mean; `total` and `weight` are empty then.
    """

    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    classes: NDArray[np.int64] | None = None
    whole: float | None = None


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: what users ask for.
        function: parts of n samples.
        title: in tables.
        higher_is_better: a larger figure is a better model.
        unit: `percent`: the mean is a share, and changes are in points.
        needs: what outputs are compared with.
        per: `run`: the function sees all samples at once.
        finish: from the mean to the figure; has to be monotone.
    """

    name: str
    function: Callable[[Observed], Parts]
    title: str
    higher_is_better: bool
    unit: Unit = "plain"
    needs: Needs = "nothing"
    per: Per = "sample"
    finish: Callable[[Any], Any] = field(default=lambda mean: mean)

    def figure(self, total: Any, weight: Any) -> Any:
        """From sums over samples; percent for shares."""
        return self.finish(total / weight) * (100.0 if self.unit == "percent" else 1.0)


_metrics: dict[str, Metric] = {}


def metric(
    name: str, *, higher_is_better: bool, title: str = "", unit: Unit = "plain", per: Per = "sample"
) -> Callable[[UserFunction], UserFunction]:
    """Registers a function of outputs and feeds as a metric.

    Args:
        name: what users ask for; a later registration replaces an earlier one.
        higher_is_better: a larger figure is a better model.
        title: in tables; the name where not given.
        unit: `percent` for shares 0..1, which are shown as percent.
        per: `sample`: called for each batch, returns `(n,)`; `run`: called once, returns `(N,)` or one number.
    """

    def register(function: UserFunction) -> UserFunction:
        from onnxprune.metrics.user import guarded

        add(Metric(name, guarded(function, name, per), title or name, higher_is_better, unit, per=per))
        return function

    return register


def add(found: Metric) -> Metric:
    """Registers a metric."""
    _metrics[found.name] = found
    return found


@cache
def _load() -> None:
    """Loads the metrics of this package, then those of entry points."""
    from importlib import import_module
    from importlib.metadata import entry_points

    registered = dict(_metrics)
    import_module("onnxprune.metrics.standard")
    _metrics.update(registered)  # what a user registered before replaces ours of the same name
    for entry in entry_points(group="onnxprune.metrics"):
        entry.load()


def metrics() -> list[str]:
    """Names of all metrics."""
    _load()
    return sorted(_metrics)


def find_metric(text: str) -> Metric:
    """The metric of a name, or that of `file.py:function`.

    Raises:
        UsageError: there is none.
        ModelError: the file can't be read, or its code fails.
    """
    from onnxprune.calibrate.stream import split_function

    _load()
    place = split_function(text)
    if place:
        from onnxprune.metrics.user import from_file

        return from_file(*place)
    if text not in _metrics:
        raise UsageError(f"unknown metric {text!r}; there are {', '.join(metrics())}, and file.py:function")
    return _metrics[text]


def registered_as(function: UserFunction) -> Metric | None:
    """The metric that a function was registered as."""
    return next((m for m in _metrics.values() if getattr(m.function, "__wrapped__", None) is function), None)
