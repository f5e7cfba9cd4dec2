"""What `sensitivity` and `search` have in common: data, the study of a model, and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import values
from onnxprune.cli.data import Data
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from onnxprune.calibrate.batch import Samples
    from onnxprune.jobs.cluster import Cluster
    from onnxprune.latency.timing import Timing
    from onnxprune.metrics.data import EvalData
    from onnxprune.pipeline.stages import Progress
    from onnxprune.report.evaluation import Evaluator
    from onnxprune.search.study import Study


@dataclass(frozen=True)
class Given:
    """Options of a study, as they were given.

    Attributes:
        source: file of the model.
        memory_budget: in GB.
        provider: execution providers of samples and times.
        timing: how models are timed; None for the usual.
    """

    source: Path
    data: Data
    attention: str
    width: bool
    ignore: Sequence[str]
    only: Sequence[str]
    memory_budget: float
    round_to: int | None = 1
    min_channels: int = 1
    provider: Sequence[str] = ()
    timing: Timing | None = None

    def check(self) -> None:
        """Raises `UsageError` for what can be told before any work."""
        from typing import get_args

        from onnxprune.select.allocate import Attention

        values.check_choice("--attention", self.attention, get_args(Attention))
        self.data.check()


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
    from onnxprune.latency.timing import Timing
    from onnxprune.pipeline.stages import part
    from onnxprune.search.study import Study, study_request

    progress("loading", 0.0)
    model = load_model(given.source)
    if given.data.evaluation is not None:
        progress("evaluating the model", 0.0)
    evaluator = given.data.evaluator(given.source, model)
    request = study_request(
        _samples(given.data, model),
        round_to=given.round_to,
        min_channels=given.min_channels,
        ignore=given.ignore,
        only=given.only,
        attention=given.attention,  # type: ignore[arg-type]
        width=given.width,
        mask=given.data.mask,
        memory=int(given.memory_budget * (1 << 30)),
        providers=given.provider,
        resume=resume,
        shapes=given.data.shapes or None,
        timing=given.timing or Timing(),
        seed=given.data.seed,
    )
    return Opened(model, Study(model, request, part(progress, (0.0, 1.0))), evaluator)


def _samples(data: Data, model: onnx.ModelProto) -> Samples:
    """The calibration samples; random ones where there are none.

    Raises:
        UsageError: random ones would tell nothing about this model.
    """
    from onnxprune.calibrate.synthetic import unlike_any

    if data.path is None and (reason := unlike_any(model)):
        raise UsageError(f"random samples tell nothing about this model ({reason}): give --data PATH")
    return data.read(model)


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
