"""What `sensitivity` and `search` have in common: data, the study of a model, and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import values
from onnxprune.cli.screen import Screen
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from onnxprune.calibrate.batch import Samples
    from onnxprune.jobs.cluster import Cluster
    from onnxprune.metrics.data import EvalData
    from onnxprune.pipeline.stages import Progress
    from onnxprune.report.evaluation import Evaluator
    from onnxprune.search.study import Study

SAMPLES = 512


@dataclass(frozen=True)
class Given:
    """Options of a study, as they were given.

    Attributes:
        source: file of the model.
        data: calibration samples; random ones where None.
        evaluation: labelled ones.
        resume: folder for finished statistics.
    """

    source: Path
    data: str | None
    samples: int | None
    preprocess: str | None
    mask: str | None
    shapes: dict[str, tuple[int, ...]]
    evaluation: str | None
    metric: str | None
    labels: str | None
    attention: str
    width: bool
    round_to: int | None
    min_channels: int
    ignore: Sequence[str]
    only: Sequence[str]
    memory_budget: float
    provider: Sequence[str]
    seed: int

    def check(self) -> None:
        """Raises `UsageError` for what can be told before any work."""
        from typing import get_args

        from onnxprune.select.allocate import Attention

        values.check_choice("--attention", self.attention, get_args(Attention))
        if (self.metric or self.labels) and self.evaluation is None:
            raise UsageError("--metric and --labels need data to evaluate on: give --eval PATH")


@dataclass
class Opened:
    """A study that has begun.

    Attributes:
        model: the source.
        study: statistics and costs.
        evaluator: with the score of the source; None where nothing is scored.
    """

    model: onnx.ModelProto
    study: Study
    evaluator: Evaluator | None

    @property
    def evaluation(self) -> EvalData | None:
        """The data to score on."""
        return None if self.evaluator is None else self.evaluator.data


def open_study(given: Given, resume: Path | None, progress: Progress) -> Opened:
    """Scores the source, then gathers statistics.

    Raises:
        OnnxPruneError: see `onnxprune.search.study.Study`.
    """
    from onnxprune.io.load import load_model
    from onnxprune.pipeline.stages import part
    from onnxprune.search.study import Study, study_request

    progress("loading", 0.0)
    model = load_model(given.source)
    evaluator = None if given.evaluation is None else _evaluator(given, model, progress)
    request = study_request(
        _samples(given, model),
        round_to=given.round_to,
        min_channels=given.min_channels,
        ignore=given.ignore,
        only=given.only,
        attention=given.attention,  # type: ignore[arg-type]
        width=given.width,
        mask=given.mask,
        memory=int(given.memory_budget * (1 << 30)),
        providers=given.provider,
        resume=resume,
        shapes=given.shapes or None,
        seed=given.seed,
    )
    return Opened(model, Study(model, request, part(progress, (0.0, 1.0))), evaluator)


def _evaluator(given: Given, model: onnx.ModelProto, progress: Progress) -> Evaluator:
    from onnxprune.calibrate.preprocess import parse_preprocess
    from onnxprune.metrics.data import load_data
    from onnxprune.report.evaluation import Evaluator

    progress("evaluating the model", 0.0)
    chosen = parse_preprocess(given.preprocess) if given.preprocess else None
    found = load_data(
        given.evaluation,
        model,
        metric=given.metric,
        labels=given.labels,
        preprocess=chosen,
        mask=given.mask,
        shapes=given.shapes or None,
    )
    return Evaluator(given.source, found)


def _samples(given: Given, model: onnx.ModelProto) -> Samples:
    """The calibration samples; random ones where there are none.

    Raises:
        UsageError: random ones would tell nothing about this model.
    """
    from onnxprune.calibrate.preprocess import parse_preprocess
    from onnxprune.calibrate.read import read_samples
    from onnxprune.calibrate.synthetic import affordable, unlike_any

    source = None if given.data == "synthetic" else given.data
    if given.data is None and (reason := unlike_any(model)):
        raise UsageError(f"random samples tell nothing about this model ({reason}): give --data PATH")
    chosen = parse_preprocess(given.preprocess) if given.preprocess else None
    count = given.samples or (affordable(model, given.shapes or None) if source is None else SAMPLES)
    return read_samples(
        source,
        model,
        samples=count,
        mask=given.mask,
        preprocess=chosen if source is not None else None,
        shapes=given.shapes or None,
        seed=given.seed,
    )


@contextmanager
def workers(backend: str, count: int | None, address: str | None) -> Iterator[Callable[[], Cluster]]:
    """Opens workers when they are first asked for, those of a cluster at once, and gives them back."""
    from onnxprune.jobs.cluster import check_backend, open_cluster

    check_backend(backend, count, address)
    held: list[Cluster] = []

    def opened() -> Cluster:
        if not held:
            held.append(open_cluster(backend, workers=count, address=address))
        return held[0]

    if backend != "processes":
        opened()
    try:
        yield opened
    finally:
        for cluster in held:
            cluster.close()


def check_plot(screen: Screen, path: Path | None) -> None:
    """Raises `UsageError` where a plot can't be drawn."""
    if path is not None:
        from onnxprune.report.plot import check_format, check_installed

        check_format(path)
        check_installed()


def form_of(path: Path) -> str:
    """File format of a plot."""
    return path.suffix.lower().lstrip(".")
