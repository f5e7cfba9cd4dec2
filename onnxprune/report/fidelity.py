"""How far the outputs of a pruned model are from those of its source, on the calibration samples.

Both models have seen these samples: the source as what it is, the pruned one when it was fitted. The figures tell what the
removal did; what it costs on a task, only labelled data tells (`--eval`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibrate.batch import Samples
from onnxprune.errors import ModelError
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow

_WORST = 5


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
        worst: samples with the largest relative error: index in the order of the samples, error.
    """

    output: str
    samples: int
    relative_error: float
    cosine: float
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    worst: list[tuple[int, float]] = field(default_factory=list)


def fidelity(source: onnx.ModelProto, pruned: onnx.ModelProto, samples: Samples) -> list[Fidelity]:
    """Compares all float outputs that have a row for each sample; a bfloat16 model, which can't be run, gives none.

    Raises:
        ModelError: ONNX Runtime can't run a model on the samples.
    """
    if is_narrow(source):
        return []
    names = [o.name for o in source.graph.output]
    try:
        sessions = [open_session(m, optimize=True) for m in (source, pruned)]
        collected: dict[str, list[NDArray[np.float64]]] = {}
        agreed: dict[str, list[NDArray[np.bool_]]] = {}
        for batch in samples.batches:
            before, after = (s.run(names, {n: batch.feeds[n] for n in _fed(s, batch.feeds)}) for s, _ in sessions)
            for name, a, b in zip(names, before, after, strict=True):
                if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.ndim < 1 or len(a) < batch.count:
                    continue
                x, y = (np.asarray(v[: batch.count], np.float64).reshape(batch.count, -1) for v in (a, b))
                rows = np.stack([((x - y) ** 2).sum(1), (x**2).sum(1), (y**2).sum(1), (x * y).sum(1)], axis=1)
                collected.setdefault(name, []).append(rows)
                if a.ndim == 2 and a.shape[1] > 1:
                    agreed.setdefault(name, []).append(x.argmax(1) == y.argmax(1))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}") from error
    return [_of(name, np.concatenate(rows), agreed.get(name)) for name, rows in collected.items()]


def _fed(session: object, feeds: dict[str, NDArray[np.float64]]) -> list[str]:
    return [i.name for i in session.get_inputs() if i.name in feeds]  # type: ignore[attr-defined]


def _of(name: str, rows: NDArray[np.float64], agreed: list[NDArray[np.bool_]] | None) -> Fidelity:
    """From sums of squares: of the difference, of both outputs, and their product `(N, 4)`."""
    difference, before, after, product = rows.T
    norm = np.sqrt(before * after)
    cosine = np.divide(product, norm, out=np.ones_like(norm), where=norm > 0)
    own = np.sqrt(difference / np.maximum(before, 1e-30))
    worst = [(int(k), float(own[k])) for k in np.argsort(-own, kind="stable")[:_WORST]]
    found = Fidelity(name, len(rows), float(np.sqrt(difference.sum() / max(before.sum(), 1e-30))), float(cosine.mean()))
    found.worst = worst
    if agreed:
        from scipy.stats import binomtest

        same = np.concatenate(agreed)
        found.agreement = float(same.mean())
        interval = binomtest(int(same.sum()), len(same)).proportion_ci(method="wilson")
        found.interval = (float(interval.low), float(interval.high))
    return found
