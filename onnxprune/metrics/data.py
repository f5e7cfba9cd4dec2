"""Evaluation data: samples in any form that calibration samples may have, with what the outputs should be.

Beside the inputs the data holds integer `labels` `(N,)` for an output of scores `(N, classes)`, or `targets` (also: an array
with the name of an output) of an output's shape. Labels may lie in a file of their own, or be the names of class folders.
With nothing that fits, an output of the input's shape is compared with the input itself: the model is an autoencoder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.calibrate.read import read_samples
from onnxprune.calibrate.signature import inputs_of, listed, signature
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.compare import LABELS
from onnxprune.metrics.labels import folder_classes, is_labels_file, read_labels
from onnxprune.metrics.registry import Metric, Observed, find_metric

Array = NDArray[Any]

_BATCH = 100
_TOKEN_BATCH = 8  # outputs (N, T, V) of language models are large


@dataclass(frozen=True)
class EvalData:
    """Samples for one model, with what its outputs should be.

    Attributes:
        samples: feeds, and what lies beside them.
        origin: name of the data, for errors.
        metric: that was asked for; None: chosen by what the data holds.
        labels: of all samples `(N, ...)`; None where they lie in the data, if at all.
        label_name: array of the data that holds the labels.
        labelled: labels were asked for.
        note: how labels were found, where nobody said it.
        class_names: folders that became classes by their order.
        whole: the model has no batch axis, so that each run is one sample.
    """

    samples: Samples
    origin: str
    metric: Metric | None = None
    labels: Array | None = None
    label_name: str = LABELS
    labelled: bool = False
    note: str = ""
    class_names: tuple[str, ...] = ()
    whole: bool = False

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.samples.batches) if self.whole else self.samples.count

    def name(self, sample: int) -> str:
        """A sample, for messages."""
        file = "" if self.whole else self.samples.name(sample)
        return f"sample {sample} ({file})" if file else f"sample {sample}"

    def observed(self, run: int, batch: Batch, outputs: Mapping[str, Array]) -> Observed:
        """What a model computed for the samples of a batch that count.

        Args:
            run: number of the batch.
            batch: of the samples.
            outputs: of the model.
        """
        if self.whole:
            feeds, extras, outputs = (
                {k: np.asarray(a)[None] for k, a in d.items()} for d in (batch.feeds, batch.extras, outputs)
            )
            batch = Batch(feeds, 1, np.array([run]), extras)
        n = batch.count
        feeds = {name: a[:n] if a.ndim else a for name, a in batch.feeds.items()}
        extras = dict(batch.extras)
        if self.labels is not None:
            extras[LABELS] = np.asarray(self.labels[batch.samples])
        elif self.label_name != LABELS:
            held = {**feeds, **extras}
            if self.label_name not in held:
                raise UsageError(
                    f"--labels {self.label_name}: is no file (npy, npz, csv, txt), and no array of {self.origin}, "
                    f"which has {listed(held)}"
                )
            extras[LABELS] = held[self.label_name]
        rows = {name: a[:n] for name, a in outputs.items() if isinstance(a, np.ndarray) and a.ndim and len(a) >= n}
        mask = feeds.get(self.samples.mask or "")
        return Observed(rows, feeds, extras, batch.samples, mask, name=self.name, where=self.origin)


def load_data(
    source: Any,
    model: onnx.ModelProto,
    *,
    metric: str | None = None,
    labels: Any = None,
    preprocess: Preprocess | None = None,
    mask: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> EvalData:
    """Reads evaluation data and fits it to the inputs of a model.

    Args:
        source: in any form that `onnxprune.calibrate.read.read_samples` knows; all samples are taken, so what a function
            yields has to end.
        model: whose inputs are fed.
        metric: name of a registered metric, or `file.py:function`; by what the data holds where not given.
        labels: a file, see `onnxprune.metrics.labels.read_labels`, the name of an array of the data, or an array `(N, ...)`.
        preprocess: for images.
        mask: input whose zeros mark padding.
        shapes: of inputs that the model leaves open.

    Raises:
        ModelError: the data can't be read or does not fit the model, or there is not one label for each sample.
        UsageError: there is no such metric, or the data needs an option that is not given.
    """
    found = find_metric(metric) if metric else None
    tokens = any(i.rank == 2 and i.dtype.kind in "iu" for i in inputs_of(model))
    samples = read_samples(
        source,
        model,
        samples=sys.maxsize,
        batch=_TOKEN_BATCH if tokens else _BATCH,
        mask=mask,
        preprocess=preprocess,
        shapes=shapes,
        evaluation=True,
    )
    origin = str(source) if isinstance(source, str | Path) else type(source).__name__
    data = EvalData(samples, origin, found, labelled=labels is not None, whole=not signature(model).batched)
    if labels is None:
        return _with_folders(data)
    if isinstance(labels, str | Path) and not is_labels_file(str(labels)):
        return replace(data, label_name=str(labels))
    names = [name for _, count, name in samples.names if count == 1]
    names = names if len(names) == samples.count else []
    given = read_labels(Path(labels), names) if isinstance(labels, str | Path) else np.asarray(labels)
    if not given.ndim or len(given) != data.count:
        where = labels if isinstance(labels, str | Path) else "labels"
        raise ModelError(
            f"{where}: holds {len(given) if given.ndim else 1:,} labels, but {origin} has {data.count:,} samples; "
            "needs one for each"
        )
    return replace(data, labels=given)


def _with_folders(data: EvalData) -> EvalData:
    """With the names of class folders as labels."""
    found = folder_classes([name for _, _, name in data.samples.names])
    if not found:
        return data
    labels, folders = found
    if all(f.isdecimal() for f in folders):
        return replace(data, labels=labels, note=f"labels are the names of {len(folders)} folders")
    note = f"labels are the {len(folders)} folders in the order of their names: {folders[0]!r} is class 0"
    return replace(data, labels=labels, note=f"{note}, {folders[-1]!r} is {len(folders) - 1}", class_names=tuple(folders))
