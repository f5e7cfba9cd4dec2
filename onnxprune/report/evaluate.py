"""Scores a model on evaluation data: runs it on all samples, and sums up what a metric says about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.bench.session import open_optimized
from onnxprune.calibrate.batch import Batch
from onnxprune.errors import ModelError
from onnxprune.metrics.compare import LABELS, choose, class_axis
from onnxprune.metrics.data import EvalData
from onnxprune.metrics.registry import Metric, Observed, Parts
from onnxprune.metrics.score import Score
from onnxprune.proof.session import first_line, open_session

Array = NDArray[Any]
Watch = Callable[[Batch, Mapping[str, Array]], None]


class Tally:
    """Collects what a metric says about one batch after the other.

    Args:
        data: which metric, and what outputs are compared with.
        name: of the model, for errors.
    """

    def __init__(self, data: EvalData, name: str) -> None:
        self.data, self.name = data, name
        self.metric: Metric | None = None
        self.compared = ("", "")
        self.seen: list[Observed] = []
        self.order: list[NDArray[np.int64]] = []
        self.parts: list[Parts] = []

    def add(self, batch: Batch, outputs: Mapping[str, Array]) -> None:
        """Takes in the outputs of one run.

        Raises:
            ModelError: the data does not fit them, or the output that is compared holds NaN.
        """
        seen = self.data.observed(len(self.order), batch, outputs)
        if self.metric is None:
            self.metric, first = choose(self.data.metric, seen, labelled=self.data.labelled)
            self.compared = first.output, first.against
            self._check_folders(first)
        seen = replace(seen, output=self.compared[0], against=self.compared[1])
        self._check_numbers(seen)
        self.order.append(seen.samples)
        if self.metric.per == "run":
            self.seen.append(seen)
        else:
            self.parts.append(self.metric.function(seen))

    def score(self) -> Score:
        """The figure over all samples.

        Raises:
            ModelError: no sample counts, or the figure is not finite.
        """
        metric = self.metric
        assert metric is not None
        order = np.argsort(np.concatenate(self.order), kind="stable")
        if metric.per == "run":
            self.parts, order = [metric.function(_whole(self.seen, order))], np.arange(len(order))
        if self.parts[0].whole is not None:
            return self._score(metric, self.parts[0].whole, len(order))
        total, weight = (np.concatenate([getattr(p, n) for p in self.parts])[order] for n in ("total", "weight"))
        if not weight.sum():
            raise ModelError(f"{self.data.origin}: no label or token counts: all are masked or below 0")
        with np.errstate(over="ignore"):
            value = float(metric.figure(total.sum(), weight.sum()))
        if not np.isfinite(value):
            raise ModelError(f"{self.name}: {metric.title} on {self.data.origin} is {value}")
        known = [p.classes for p in self.parts if p.classes is not None]
        classes = np.concatenate(known)[order] if len(known) == len(self.parts) else np.zeros(0, np.int64)
        found = self._score(metric, value, len(order))
        return replace(found, predictions=classes, totals=total, weights=weight)

    def _score(self, metric: Metric, value: float, samples: int) -> Score:
        shown = (metric.title, metric.unit, metric.higher_is_better)
        none = np.zeros(0)
        return Score(metric.name, value, samples, np.zeros(0, np.int64), *shown, none, none, self.compared, metric.figure)

    def _check_numbers(self, seen: Observed) -> None:
        array = seen.outputs.get(seen.output)
        if array is None or array.dtype.kind != "f":
            return
        wrong = np.isnan(array).reshape(len(array), -1).any(1)
        if wrong.any():
            sample = int(seen.samples[np.flatnonzero(wrong)[0]])
            raise ModelError(f"{self.name}: output {seen.output!r} is NaN for {seen.name(sample)} of {self.data.origin}")

    def _check_folders(self, seen: Observed) -> None:
        """Folders by the order of their names are only classes if there is one for each class."""
        folders = self.data.class_names
        if not folders or seen.against != LABELS:
            return
        output = seen.outputs[seen.output]
        axis = class_axis(output, seen.extras[LABELS])
        if axis is not None and axis > 0 and output.shape[axis] != len(folders):
            raise ModelError(
                f"{self.data.origin}: has {len(folders)} class folders, but output {seen.output!r} has {output.shape[axis]} "
                "classes: give their numbers with --labels, or as names of the folders"
            )


def _whole(seen: Sequence[Observed], order: NDArray[np.int64]) -> Observed:
    """All batches as one, in the order of the data; lists of arrays where samples differ in shape."""

    def join(name: str) -> dict[str, Any]:
        parts: list[Mapping[str, Array]] = [getattr(s, name) for s in seen]
        return {n: _end_to_end([p[n] for p in parts], order) for n in parts[0] if all(n in p for p in parts)}

    samples = np.concatenate([s.samples for s in seen])[order]
    return replace(seen[0], outputs=join("outputs"), feeds=join("feeds"), extras=join("extras"), samples=samples, mask=None)


def _end_to_end(parts: Sequence[Array], order: NDArray[np.int64]) -> Any:
    if len({p.shape[1:] for p in parts}) == 1 and parts[0].ndim:
        whole = np.concatenate(parts)
        return whole[order] if len(whole) == len(order) else whole
    rows = [row for part in parts for row in part]
    return [rows[k] for k in order] if len(rows) == len(order) else rows


def runs(
    models: Mapping[str, Path | bytes | onnx.ModelProto], data: EvalData
) -> Iterator[tuple[Batch, dict[str, dict[str, Array]]]]:
    """Each batch of the data, and the outputs that each model computes for it.

    Args:
        models: a file, its bytes, or a model for each name.
        data: result of `load_data`.

    Raises:
        ModelError: ONNX Runtime can't run a model.
    """
    sessions = {name: _open(model, name) for name, model in models.items()}
    for batch in data.samples.batches:
        found = {}
        for name, (session, _) in sessions.items():
            outputs = [o.name for o in session.get_outputs()]
            known = {i.name for i in session.get_inputs()}
            try:
                results = session.run(outputs, {n: a for n, a in batch.feeds.items() if n in known})
            except Exception as error:
                raise ModelError(f"{name}: can't run on {data.origin} ({first_line(error)})") from error
            found[name] = dict(zip(outputs, results, strict=True))
        yield batch, found


def _open(model: Path | bytes | onnx.ModelProto, name: str) -> tuple[Any, object]:
    if not isinstance(model, onnx.ModelProto):
        return open_optimized(model, name, spin=False), None
    try:
        return open_session(model, optimize=True)
    except RuntimeError as error:
        raise ModelError(f"{name}: ONNX Runtime can't load it ({error})") from error


def evaluate(
    model: Path | bytes | onnx.ModelProto, data: EvalData, name: str = "model", watch: Watch | None = None
) -> Score:
    """Runs a model on all samples.

    Args:
        model: a file, its bytes, or a model.
        data: result of `load_data`.
        name: of the model, for errors.
        watch: is shown every batch and what the model computes for it.

    Raises:
        ModelError: ONNX Runtime can't run the model, or no output fits the data.
    """
    tally = Tally(data, name)
    for batch, outputs in runs({name: model}, data):
        if watch:
            watch(batch, outputs[name])
        tally.add(batch, outputs[name])
    return tally.score()
