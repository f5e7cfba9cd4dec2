"""Both models on evaluation data: what a metric says, how far their outputs are apart, and whether the data is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.errors import OnnxPruneError
from onnxprune.metrics.data import EvalData
from onnxprune.metrics.score import Change, Score
from onnxprune.report.evaluate import Array, Tally, evaluate, runs
from onnxprune.report.fidelity import Fidelity, Likeness


@dataclass
class Evaluation:
    """What both models reach on evaluation data.

    Attributes:
        origin: the data in words, such as `2,000 samples of test.npz`.
        before: score of the source.
        after: score of the pruned model; None where it could not be had.
        failed: why not.
        fidelity: how far the pruned model's outputs are from the source's.
        seen: how many of the samples were used for calibration too; None where nothing was calibrated.
        note: how labels were found, where nobody said it.
    """

    origin: str
    before: Score
    after: Score | None = None
    failed: str = ""
    fidelity: list[Fidelity] = field(default_factory=list)
    seen: int | None = None
    note: str = ""

    @property
    def change(self) -> Change | None:
        """From the source to the pruned model."""
        return None if self.after is None else self.before.change(self.after)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; figures in percent where `unit` says so."""
        change, after = self.change, self.after
        return {
            "data": self.origin,
            "metric": self.before.metric,
            "title": self.before.title,
            "unit": self.before.unit,
            "higher_is_better": self.before.higher_is_better,
            "samples": self.before.samples,
            "compared": list(self.before.compared),
            "before": self.before.value,
            "after": None if after is None else after.value,
            "failed": self.failed,
            "change": change and {**asdict(change), "within_noise": change.within_noise},
            "agreement": change and change.agreement,
            "fidelity": [asdict(f) for f in self.fidelity],
            "samples_used_for_calibration": self.seen,
            "labels": self.note,
        }


class Evaluator:
    """Scores the source at once, so that data that does not fit is found before anything else starts.

    Args:
        source: the model's file.
        data: fitted to it.

    Raises:
        ModelError: ONNX Runtime can't run the model, no output fits the data, or one holds NaN.
    """

    def __init__(self, source: Path, data: EvalData) -> None:
        self.source, self.data = source, data
        self.prints: list[bytes] = []
        self.before = evaluate(source, data, str(source), self._watch)

    def _watch(self, batch: Batch, outputs: Mapping[str, Array]) -> None:
        self.prints += fingerprints(batch)

    def overlap(self, calibration: Samples) -> int:
        """How many of the evaluation samples, as the model is fed with them, are calibration samples."""
        used = {p for batch in calibration.batches for p in fingerprints(batch)}
        return sum(p in used for p in self.prints)

    def compare(self, pruned: Path, calibration: Samples | None = None) -> Evaluation:
        """Scores a pruned model next to the source. What goes wrong with it is reported, not raised."""
        data = self.data
        origin = f"{data.count:,} runs of {data.origin}" if data.whole else data.samples.origin
        found = Evaluation(origin, self.before, note=data.note)
        if calibration is not None and not calibration.synthetic:
            found.seen = self.overlap(calibration)
        tally, likeness = Tally(self.data, str(pruned)), Likeness()
        try:
            for batch, outputs in runs({str(self.source): self.source, str(pruned): pruned}, self.data):
                likeness.add(batch, outputs[str(self.source)], outputs[str(pruned)])
                tally.add(batch, outputs[str(pruned)])
            found.after = tally.score()
        except OnnxPruneError as error:
            found.failed = str(error)
        found.fidelity = likeness.result(self.data.samples)
        return found


def fingerprints(batch: Batch) -> list[bytes]:
    """A hash of what a model is fed for each sample of a batch."""
    arrays = [a for _, a in sorted(batch.feeds.items()) if a.ndim and len(a) >= batch.count]
    return [_digest([a[k] for a in arrays]) for k in range(batch.count)]


def _digest(arrays: list[Array]) -> bytes:
    digest = blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return digest.digest()
