"""The samples that a command is given: what was said of them, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from onnxprune.calibrate.batch import Samples
    from onnxprune.calibrate.preprocess import Preprocess
    from onnxprune.report.evaluation import Evaluator

_SAMPLES = 512


@dataclass(frozen=True)
class Data:
    """Options about samples, as they were given.

    Attributes:
        path: calibration samples; `synthetic` for random ones.
        samples: the most that are taken; 512 where None, of random ones what the size of the model allows.
        evaluation: samples with labels.
    """

    path: str | None = None
    samples: int | None = None
    preprocess: str | None = None
    mask: str | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    evaluation: str | None = None
    metric: str | None = None
    labels: str | None = None

    def check(self) -> None:
        """Raises `UsageError` where options lack the data that they are about."""
        if (self.metric or self.labels) and self.evaluation is None:
            raise UsageError("--metric and --labels need data to evaluate on: give --eval PATH")

    @property
    def files(self) -> list[Path]:
        """Of evaluation, which no output may overwrite."""
        return [Path(p) for p in (self.evaluation, self.labels) if p]

    def read(self, model: onnx.ModelProto) -> Samples:
        """The calibration samples, fitted to the model; random ones where none were given.

        Raises:
            ModelError: they can't be read, or don't fit the model.
            UsageError: an option is out of range, or the data needs one that is not given.
        """
        from onnxprune.calibrate.read import read_samples
        from onnxprune.calibrate.synthetic import affordable

        source, shapes = (None if self.path == "synthetic" else self.path), self.shapes or None
        return read_samples(
            source,
            model,
            samples=self.samples or (affordable(model, shapes) if source is None else _SAMPLES),
            mask=self.mask,
            preprocess=self._preprocess(),
            shapes=shapes,
            seed=self.seed,
        )

    def evaluator(self, source: Path, model: onnx.ModelProto) -> Evaluator | None:
        """The evaluation samples with the score of the source, which also tells whether they fit; None without any.

        Raises:
            ModelError: they can't be read, or don't fit the model.
            UsageError: an option is out of range, or the data needs one that is not given.
        """
        if self.evaluation is None:
            return None
        from onnxprune.metrics.data import load_data
        from onnxprune.report.evaluation import Evaluator

        found = load_data(
            self.evaluation,
            model,
            metric=self.metric,
            labels=self.labels,
            mask=self.mask,
            preprocess=self._preprocess(),
            shapes=self.shapes or None,
        )
        return Evaluator(source, found)

    def _preprocess(self) -> Preprocess | None:
        from onnxprune.calibrate.preprocess import parse_preprocess

        return parse_preprocess(self.preprocess) if self.preprocess else None
