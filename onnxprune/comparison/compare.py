"""Compares two models on the same samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.signature import signature
from onnxprune.comparison.cause import constants
from onnxprune.comparison.outputs import Differences
from onnxprune.comparison.result import Comparison, Thresholds
from onnxprune.comparison.sides import Interface, Side, Whole, interface
from onnxprune.errors import ModelError, OnnxPruneError
from onnxprune.io.load import load_model
from onnxprune.metrics.data import EvalData, load_data
from onnxprune.report.evaluate import Tally
from onnxprune.report.evaluation import Evaluation
from onnxprune.statistics.providers import Providers, parse_providers

if TYPE_CHECKING:
    from onnxprune.calibrate.preprocess import Preprocess
    from onnxprune.plan.plan import Plan

Source = str | os.PathLike[str] | onnx.ModelProto
Bound = float | Mapping[str, float] | None
Progress = Callable[[str, float], None]

_NOISE = 1e-4  # relative error of outputs that is no reason to search
_NARROW_NOISE = 5e-3  # the same where one of the models computes in half precision


@dataclass
class Pair:
    """Both models, ready to run.

    Attributes:
        first: that is compared with.
        second: the other one.
        between: inputs and outputs that belong together.
        providers: that both run on.
        batched: the first axis of all inputs counts samples.
    """

    first: Side
    second: Side
    between: Interface
    providers: Providers
    batched: bool
    failed: str = ""
    runs: list[Whole] = field(default_factory=list)

    def open(self) -> None:
        """Opens sessions; a second model that is refused is noted in `failed`."""
        outputs = self.between.outputs
        known = {n: n for n in self.first.flow.inputs}
        self.runs = [Whole(self.first, known, {n: n for n in outputs}, self.providers)]
        try:
            self.runs.append(Whole(self.second, self.between.inputs, outputs, self.providers))
        except ModelError as error:
            self.failed = str(error).removeprefix(f"{self.second.name}: ")

    def outputs(
        self, samples: Samples, wanted: Callable[[int, Batch], bool] = lambda k, batch: True
    ) -> Iterator[tuple[int, Batch, dict[str, Any], dict[str, Any]]]:
        """Batches with their numbers, and what both models compute for them; ends where the second model fails.

        Args:
            samples: that they are run on.
            wanted: whether a batch is run.

        Raises:
            ModelError: the first model can't be run on the samples.
        """
        for k, batch in enumerate(samples.batches):
            if not wanted(k, batch):
                continue
            try:
                ours = self.runs[0](batch.feeds)
            except RuntimeError as error:
                raise ModelError(f"{self.first.name}: can't run on {samples.origin} ({error})") from error
            try:
                theirs = self.runs[1](batch.feeds) if len(self.runs) > 1 else {}
            except RuntimeError as error:
                self.failed = str(error)
                theirs = {}
            if not theirs:
                return
            yield k, batch, ours, theirs

    def sample(self, k: int, batch: Batch) -> Batch:
        """A batch as samples: one run is one of them where the models have no batch axis."""
        return batch if self.batched else Batch(batch.feeds, 1, np.array([k]), batch.extras)

    def places(self, k: int, batch: Batch) -> list[int]:
        """Positions in the data of the samples of a batch."""
        own = self.sample(k, batch)
        return [int(i) for i in own.samples] if len(own.samples) else list(range(own.count))

    @property
    def noise(self) -> float:
        """Relative error of outputs that rounding explains."""
        return _NARROW_NOISE if any(side.narrow or _has_halves(side) for side in (self.first, self.second)) else _NOISE


def _has_halves(side: Side) -> bool:
    kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(t.data_type in kinds for t in side.flow.initializers.values())


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
    thresholds = Thresholds(_by_output(rtol), _by_output(atol), max_drop, min_agreement)
    one, other = _side(first, "first model"), _side(second, "second model")
    pair = Pair(one, other, interface(one, other), parse_providers(providers), signature(one.model).batched)
    thresholds.check(pair.between.outputs, scored=evaluation is not None)
    scored = None
    if evaluation is not None:
        options: dict[str, Any] = {"metric": metric, "labels": labels, "mask": mask, "preprocess": preprocess}
        scored = load_data(evaluation, one.model, shapes=shapes, **options)
    held = _samples(pair, data, scored, samples, mask, preprocess, shapes, seed)
    pair.open()
    found = Comparison(one.name, other.name, held.origin, [], constants(one, other), list(pair.between.notes))
    found.thresholds = thresholds
    differences = {n: Differences(n, m, thresholds.tolerance(n), top_k) for n, m in pair.between.outputs.items()}
    shared = scored is not None and held is scored.samples
    tallies = _Scores(pair, scored) if scored is not None else None
    for k, batch, ours, theirs in pair.outputs(held):
        tell("comparing outputs", 0.4 * k / len(held.batches))
        for name, each in differences.items():
            each.add(pair.sample(k, batch), ours[name], theirs[name])
        if tallies and shared:
            tallies.add(batch, ours, theirs)
    if tallies and not shared and not pair.failed:
        for k, batch, ours, theirs in pair.outputs(tallies.data.samples):
            tell("evaluating", 0.4 + 0.2 * k / len(tallies.data.samples.batches))
            tallies.add(batch, ours, theirs)
    found.outputs = [] if pair.failed else [each.result(held) for each in differences.values()]
    found.evaluation = tallies.result() if tallies else None
    found.failed = pair.failed
    if search and _differ(found, pair.noise):
        from onnxprune.comparison.trail import find_trail

        tell("searching for the first difference", 0.6)
        found.trail = find_trail(pair, held, differences, plan, memory=memory)
    if save_worst is not None and not pair.failed:
        from onnxprune.comparison.worst import save_worst as save

        tell("saving samples", 0.95)
        found.notes += save(pair, held, differences, Path(save_worst), worst)
    tell("done", 1.0)
    return found


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
    scored: EvalData | None,
    count: int,
    mask: str | None,
    preprocess: Preprocess | None,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> Samples:
    """What the outputs are compared on."""
    from onnxprune.calibrate.read import read_samples
    from onnxprune.calibrate.synthetic import affordable

    if data is None and scored is not None:
        return scored.samples
    source = None if isinstance(data, str) and data == "synthetic" else data
    model = pair.first.model
    most = min(count, affordable(model, shapes, count)) if source is None else count
    return read_samples(source, model, samples=most, batch=16, mask=mask, preprocess=preprocess, shapes=shapes, seed=seed)


def _differ(found: Comparison, noise: float) -> bool:
    """Reason enough to look for the cause."""
    if found.failed:
        return True
    return any(o.message or o.passed is False or (o.passed is None and o.max_rel > noise) for o in found.outputs)


class _Scores:
    """Both models on evaluation data."""

    def __init__(self, pair: Pair, data: EvalData) -> None:
        self.data, self.failed = data, ""
        self.tallies = [Tally(data, side.name) for side in (pair.first, pair.second)]

    def add(self, batch: Batch, *outputs: Mapping[str, Any]) -> None:
        """Takes in a batch. What is wrong with the first model is raised, with the second one noted."""
        self.tallies[0].add(batch, outputs[0])
        if not self.failed:
            try:
                self.tallies[1].add(batch, outputs[1])
            except OnnxPruneError as error:
                self.failed = str(error)

    def result(self) -> Evaluation | None:
        """None where nothing was run."""
        if self.tallies[0].metric is None:
            return None
        data = self.data
        origin = f"{data.count:,} runs of {data.origin}" if data.whole else data.samples.origin
        found = Evaluation(origin, self.tallies[0].score(), failed=self.failed, note=data.note)
        if not self.failed:
            try:
                found.after = self.tallies[1].score()
            except OnnxPruneError as error:
                found.failed = str(error)
        return found
