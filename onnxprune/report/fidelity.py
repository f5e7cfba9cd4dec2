"""How far the outputs of a pruned model are from those of its source, sample by sample.

On calibration samples the figures tell what the removal did: the pruned model was fitted on them. On other samples they tell
what it will do. What that costs on a task, only labelled data tells (`--eval`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.paired import share
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow
from onnxprune.statistics.providers import CPU, Providers

Array = NDArray[Any]

_WORST = 5
_BLOCK = 1 << 22  # elements that are held in float64


@dataclass(frozen=True)
class Worst:
    """One sample.

    Attributes:
        sample: its position in the data.
        error: norm of the difference over that of the source's output.
        file: that it comes from; empty where there are no files to tell apart.
    """

    sample: int
    error: float
    file: str = ""


@dataclass
class Fidelity:
    """One output; samples are rows of its first axis.

    Attributes:
        output: its name.
        samples: how many were compared.
        relative_error: Frobenius norm of the difference over that of the source's output.
        cosine: mean cosine between both outputs of a sample.
        agreement: share of samples with the same largest element `(N, classes)`; None for other outputs.
        interval: 95 % interval of the agreement (Wilson 1927).
        worst: samples with the largest relative error.
    """

    output: str
    samples: int
    relative_error: float
    cosine: float
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    worst: list[Worst] = field(default_factory=list)


class Likeness:
    """Collects the outputs of two models for one batch after the other; float outputs with a row for each sample count."""

    def __init__(self) -> None:
        self.sums: dict[str, list[NDArray[np.float64]]] = {}
        self.agreed: dict[str, list[NDArray[np.bool_]]] = {}
        self.samples: dict[str, list[NDArray[np.int64]]] = {}
        self.count = 0

    def add(self, batch: Batch, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        """Takes in one run of both models."""
        count = batch.count
        samples = batch.samples if len(batch.samples) == count else np.arange(self.count, self.count + count)
        self.count += count
        for name, a in before.items():
            b = after.get(name)
            if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.ndim < 1 or len(a) < count or b is None:
                continue
            if b.shape != a.shape:
                continue
            self.sums.setdefault(name, []).append(_sums(a[:count], b[:count]))
            self.samples.setdefault(name, []).append(samples)
            if a.ndim == 2 and a.shape[1] > 1:
                self.agreed.setdefault(name, []).append(a[:count].argmax(1) == b[:count].argmax(1))

    def result(self, samples: Samples) -> list[Fidelity]:
        """One for each output.

        Args:
            samples: where the batches came from.
        """
        return [self._of(name, samples) for name in self.sums]

    def _of(self, name: str, samples: Samples) -> Fidelity:
        difference, before, after, product = np.concatenate(self.sums[name]).T
        norm = np.sqrt(before * after)
        cosine = np.divide(product, norm, out=np.ones_like(norm), where=norm > 0)
        own = np.sqrt(difference / np.maximum(before, 1e-30))
        places = np.concatenate(self.samples[name])
        order = np.lexsort((places, -np.nan_to_num(own, nan=np.inf)))[:_WORST]
        error = float(np.sqrt(difference.sum() / max(before.sum(), 1e-30)))
        found = Fidelity(name, len(own), error, float(cosine.mean()))
        found.worst = [Worst(int(places[k]), float(own[k]), samples.name(int(places[k]))) for k in order]
        if name in self.agreed:
            same = np.concatenate(self.agreed[name])
            interval = share(same)
            found.agreement, found.interval = float(same.mean()), (interval.low, interval.high)
        return found


def _sums(a: Array, b: Array) -> NDArray[np.float64]:
    """Of each sample the squares of the difference and of both outputs, and their product `(n, 4)`."""
    return np.concatenate([_block(a[rows], b[rows]) for rows in _rows(a)])


def _block(a: Array, b: Array) -> NDArray[np.float64]:
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (a, b))
    return np.stack([((x - y) ** 2).sum(1), (x**2).sum(1), (y**2).sum(1), (x * y).sum(1)], axis=1)


def _rows(a: Array) -> Iterator[slice]:
    step = max(_BLOCK // max(a[0].size, 1), 1)
    return (slice(k, k + step) for k in range(0, len(a), step))


def fidelity(
    source: onnx.ModelProto, pruned: onnx.ModelProto, samples: Samples, *, providers: Providers = CPU
) -> list[Fidelity]:
    """Compares all float outputs that have a row for each sample; a bfloat16 model, which can't be run, gives none.

    Args:
        source: the model that is compared with.
        pruned: a model with the same inputs and outputs.
        samples: that both are run on.
        providers: that they run on.

    Raises:
        ModelError: ONNX Runtime can't run a model on the samples.
        UsageError: a provider did not start.
    """
    if is_narrow(source):
        return []
    names = [o.name for o in source.graph.output]
    likeness = Likeness()
    try:
        sessions = [open_session(m, optimize=True, often=True, providers=providers) for m in (source, pruned)]
        for batch in samples.batches:
            before, after = (s.run(names, {n: batch.feeds[n] for n in _fed(s, batch.feeds)}) for s, _ in sessions)
            likeness.add(batch, dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True)))
    except (ModelError, UsageError):
        raise
    except Exception as error:
        raise ModelError(f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}") from error
    return likeness.result(samples)


def _fed(session: object, feeds: Mapping[str, Array]) -> list[str]:
    return [i.name for i in session.get_inputs() if i.name in feeds]  # type: ignore[attr-defined]
