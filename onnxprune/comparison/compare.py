"""Compares two models on the same samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxprune.calibrate.batch import Samples
from onnxprune.calibrate.signature import signature
from onnxprune.comparison.cause import constants
from onnxprune.comparison.outputs import Differences
from onnxprune.comparison.pair import Pair
from onnxprune.comparison.result import Comparison, Thresholds, Trail
from onnxprune.comparison.scores import Scores
from onnxprune.comparison.sides import Side, interface
from onnxprune.comparison.trail import find_trail
from onnxprune.comparison.worst import write_worst
from onnxprune.errors import ModelError, UsageError
from onnxprune.io.load import load_model
from onnxprune.metrics.data import load_data
from onnxprune.statistics.providers import parse_providers

if TYPE_CHECKING:
    from onnxprune.calibrate.preprocess import Preprocess
    from onnxprune.plan.plan import Plan

Source = str | os.PathLike[str] | onnx.ModelProto
Bound = float | Mapping[str, float] | None
Progress = Callable[[str, float], None]


def compare(
    first: Source,
    second: Source,
    data: Any = None,
    *,
    samples: int = 256,
    evaluation: Any = None,
    metric: str | None = None,
    labels: Any = None,
    mask: str | None = None,
    preprocess: Preprocess | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    plan: Plan | None = None,
    rtol: Bound = None,
    atol: Bound = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    top_k: int = 1,
    class_axis: Mapping[str, int] | None = None,
    search: bool = True,
    save_worst: str | os.PathLike[str] | None = None,
    worst: int = 5,
    memory: int = 1 << 28,
    providers: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Runs two models on the same samples and compares what they compute.

    Args:
        first: path or model that is compared with.
        second: path or model. Inputs and outputs may have other names; then they are matched by position.
        data: samples in any form that `onnxprune.prune` takes; those of `evaluation` where not given, else random ones.
        samples: the most that are taken of `data`.
        evaluation: labelled samples, all of which are used, that both models are scored on.
        metric: as in `onnxprune.evaluate`.
        labels: as in `onnxprune.evaluate`.
        mask: input whose zeros mark padding.
        preprocess: for images.
        shapes: concrete shapes of inputs with symbolic dimensions.
        plan: that the second model was pruned by: kept channels of tensors inside are compared too.
        rtol: relative part of the tolerance of elements, for all outputs or by output; see `Thresholds`.
        atol: absolute part.
        max_drop: how much worse the metric may be, in points where it is in percent.
        min_agreement: share of samples with the same `top_k` largest elements.
        top_k: of how many largest elements the agreement speaks.
        class_axis: axis of scores by output, for outputs that are not `(N, classes)`: 2 for tokens `(N, T, V)`.
        search: find where the models part, if an output differs by more than rounding or beyond its tolerance.
        save_worst: npz for the samples that are farthest apart, see `onnxprune.comparison.worst`.
        worst: how many.
        memory: bytes of tensors inside that are held at once.
        providers: execution providers of ONNX Runtime, as in `onnxprune.prune`.
        seed: of random samples.
        progress: called with what is being done and the share that is done, 0..1.

    Raises:
        ModelError: a model or the data can't be read, they don't fit each other, or the first model can't be run. A second
            model that can't be run is a result: `Comparison.failed`.
        UsageError: an option is out of range, names no output, or a provider is absent.
        PlanError: the plan is for another model.
    """
    tell = progress or (lambda what, share: None)
    one, other = _side(first, "first model"), _side(second, "second model")
    pair = Pair(one, other, interface(one, other), parse_providers(providers), signature(one.model).batched)
    thresholds = Thresholds(_by_output(rtol), _by_output(atol), max_drop, min_agreement)
    thresholds.check(pair.between.outputs, scored=evaluation is not None)
    axes = dict(class_axis or {})
    _check_axes(axes, pair.between.outputs)
    scores = None
    if evaluation is not None:
        options: dict[str, Any] = {"metric": metric, "labels": labels, "mask": mask, "preprocess": preprocess}
        scores = Scores(pair, load_data(evaluation, one.model, shapes=shapes, **options))
    held = _samples(pair, data, scores, samples, mask, preprocess, shapes, seed)
    bounds = {n: thresholds.tolerance(n) for n in pair.between.outputs}
    differences = {n: Differences(n, m, bounds[n], top_k, axes.get(n)) for n, m in pair.between.outputs.items()}
    pair.open()
    _run(pair, held, differences, scores, tell)
    found = Comparison(one.name, other.name, held.origin, [], constants(one, other), list(pair.between.notes))
    found.thresholds, found.failed = thresholds, pair.failed
    found.outputs = [] if pair.failed else [each.result(held) for each in differences.values()]
    found.evaluation = scores.result() if scores else None
    if search and _differ(found, pair.noise):
        tell("searching for the first difference", 0.6)
        try:
            found.trail = find_trail(pair, held, differences, plan, memory=memory)
        except ModelError as error:  # the figures are there: that the inside can't be looked at must not take them away
            found.trail = Trail(note=f"the inside of the models can't be compared: {error}")
    if save_worst is not None and not pair.failed:
        tell("saving samples", 0.95)
        found.notes += write_worst(pair, held, differences, Path(save_worst), worst)
    tell("done", 1.0)
    return found


def _run(pair: Pair, held: Samples, differences: Mapping[str, Differences], scores: Scores | None, tell: Progress) -> None:
    """Runs both models on the samples, and on those to evaluate on where they are others."""
    shared = scores is not None and held is scores.data.samples
    for k, batch, ours, theirs in pair.outputs(held):
        tell("comparing outputs", 0.4 * k / len(held.batches))
        for name, each in differences.items():
            each.add(pair.sample(k, batch), ours[name], theirs[name])
        if scores and shared:
            scores.add(batch, ours, theirs)
    if scores and not shared and not pair.failed:
        for k, batch, ours, theirs in pair.outputs(scores.data.samples):
            tell("evaluating", 0.4 + 0.2 * k / len(scores.data.samples.batches))
            scores.add(batch, ours, theirs)


def _check_axes(axes: Mapping[str, int], outputs: Mapping[str, str]) -> None:
    for name, axis in axes.items():
        if name not in outputs:
            raise UsageError(
                f"axis of classes for {name!r}: there is no such output; there are {', '.join(map(repr, outputs))}"
            )
        if axis == 0:
            raise UsageError(f"axis of classes for {name!r}: axis 0 counts samples")


def _by_output(bound: Bound) -> dict[str, float]:
    if bound is None:
        return {}
    return dict(bound) if isinstance(bound, Mapping) else {"": float(bound)}


def _side(model: Source, name: str) -> Side:
    if isinstance(model, onnx.ModelProto):
        return Side(model, name)
    return Side(load_model(model), os.fspath(model))


def _samples(
    pair: Pair,
    data: Any,
    scores: Scores | None,
    count: int,
    mask: str | None,
    preprocess: Preprocess | None,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> Samples:
    """What the outputs are compared on."""
    from onnxprune.calibrate.read import read_samples
    from onnxprune.calibrate.synthetic import affordable

    if data is None and scores is not None:
        return scores.data.samples
    source = None if isinstance(data, str) and data == "synthetic" else data
    model = pair.first.model
    most = min(count, affordable(model, shapes, count)) if source is None else count
    return read_samples(source, model, samples=most, batch=16, mask=mask, preprocess=preprocess, shapes=shapes, seed=seed)


def _differ(found: Comparison, noise: float) -> bool:
    """Reason enough to look for the cause."""
    if found.failed:
        return True
    return any(o.message or o.passed is False or (o.passed is None and o.max_rel > noise) for o in found.outputs)
