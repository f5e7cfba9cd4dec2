"""The metrics of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from onnxprune.calibrate.signature import listed
from onnxprune.errors import ModelError
from onnxprune.metrics.compare import LABELS, align
from onnxprune.metrics.registry import Metric, Observed, Parts, add

Floats = NDArray[np.float64]

_TOP = 5


def _accuracy(seen: Observed) -> Parts:
    """Share of labels that have the highest score; the first one of equals, as argmax does it."""
    found = align(seen)
    classes = found.classes if found.scores is None else found.scores.argmax(axis=2)
    assert classes is not None
    right = (classes == found.labels) & found.counted
    single = classes[:, 0].astype(np.int64) if classes.shape[1] == 1 else None
    return Parts(right.sum(1).astype(np.float64), found.counted.sum(1).astype(np.float64), single)


def _top5(seen: Observed) -> Parts:
    """Share of labels that are among the five highest scores; of equals, those before the label count as higher."""
    found = align(seen)
    if found.scores is None or found.scores.shape[2] <= _TOP:
        have = "classes" if found.scores is None else f"scores of {found.scores.shape[2]} classes"
        raise ModelError(f"top5 needs scores of more than {_TOP} classes, but output {seen.output!r} holds {have}")
    labels = np.where(found.counted, found.labels, 0)[..., None]
    own = np.take_along_axis(found.scores, labels, axis=2)
    before = np.arange(found.scores.shape[2]) < labels
    rank = ((found.scores > own) | ((found.scores == own) & before)).sum(2)
    right = (rank < _TOP) & found.counted
    single = found.scores[:, 0].argmax(1).astype(np.int64) if rank.shape[1] == 1 else None
    return Parts(right.sum(1).astype(np.float64), found.counted.sum(1).astype(np.float64), single)


def _mse(seen: Observed) -> Parts:
    """Mean over all elements."""
    actual, wanted = _pair(seen)
    error = ((actual - wanted) ** 2).sum(1)
    return Parts(error, np.full(len(error), float(actual.shape[1])))


def _cosine(seen: Observed) -> Parts:
    """Mean over samples of the cosine between output and target; 1 where both are zero, 0 where one is."""
    actual, wanted = _pair(seen)
    norms = np.linalg.norm(actual, axis=1), np.linalg.norm(wanted, axis=1)
    product = norms[0] * norms[1]
    alike = ((norms[0] == 0) & (norms[1] == 0)).astype(np.float64)
    cosine = np.divide((actual * wanted).sum(1), product, out=alike, where=product > 0)
    return Parts(cosine, np.ones(len(cosine)))


def _perplexity(seen: Observed) -> Parts:
    """Exponential of the mean negative log-likelihood over all tokens that count, in float64.

    Outputs `(n, T, V)` are logits, or probabilities that sum to 1. Given `labels` belong to the same position; a label below
    0 does not count. Without labels position t predicts the token of the input at t + 1, which counts where neither is
    padding.

    Source: Jelinek, Mercer, Bahl, Baker: Perplexity - a measure of the difficulty of speech recognition tasks (1977).
    """
    if seen.against == LABELS:
        found = align(seen)
        if found.scores is None:
            raise ModelError(f"perplexity needs scores of classes, but output {seen.output!r} holds classes")
        return _likelihood(seen, found.scores, found.labels, found.counted)
    ids = seen.wanted.astype(np.int64)
    logits, labels = seen.outputs[seen.output][:, :-1], ids[:, 1:]
    counted = np.ones(labels.shape, bool)
    if seen.mask is not None and seen.mask.shape == ids.shape:
        counted = (seen.mask[:, 1:] != 0) & (seen.mask[:, :-1] != 0)
    wrong = counted & ((labels < 0) | (labels >= logits.shape[2]))
    if wrong.any():
        k, t = (int(i) for i in np.argwhere(wrong)[0])
        sample = seen.name(int(seen.samples[k]))
        raise ModelError(
            f"{seen.where}: token {labels[k, t]} of {sample} is beyond the {logits.shape[2]} of output {seen.output!r}"
        )
    return _likelihood(seen, logits, labels, counted)


def _likelihood(seen: Observed, scores: Any, labels: NDArray[np.int64], counted: NDArray[np.bool_]) -> Parts:
    """Sums of negative log-likelihoods `(n,)` and how many; one sample at a time, as vocabularies are large."""
    total = np.zeros(len(scores))
    for k, own in enumerate(scores):
        rows = own[counted[k]].astype(np.float64)
        if not len(rows):
            continue
        picked = np.take_along_axis(rows, labels[k][counted[k]][:, None], axis=1)[:, 0]
        if rows.min() >= 0 and np.allclose(rows.sum(1), 1, atol=1e-3):
            with np.errstate(divide="ignore"):
                total[k] = -np.log(picked).sum()
        else:
            total[k] = (logsumexp(rows, axis=1) - picked).sum()
        if not np.isfinite(total[k]):
            raise ModelError(f"output {seen.output!r} gives {seen.name(int(seen.samples[k]))} a likelihood of 0")
    return Parts(total, counted.sum(1).astype(np.float64))


def _pair(seen: Observed) -> tuple[Floats, Floats]:
    """Output and target `(n, elements)`."""
    actual, wanted = seen.outputs[seen.output], seen.wanted
    if actual.shape != wanted.shape:
        raise ModelError(
            f"{seen.where}: {seen.against!r} {list(wanted.shape)} does not fit output {seen.output!r} {list(actual.shape)} "
            f"of {listed([seen.name(int(seen.samples[0]))])}"
        )
    flat = (len(actual), -1)
    return actual.reshape(flat).astype(np.float64), wanted.reshape(flat).astype(np.float64)


add(Metric("accuracy", _accuracy, "top-1 accuracy", True, "percent", "labels"))
add(Metric("top5", _top5, "top-5 accuracy", True, "percent", "labels"))
add(Metric("mse", _mse, "mean squared error", False, needs="targets"))
add(Metric("cosine", _cosine, "cosine", True, needs="targets"))
add(Metric("perplexity", _perplexity, "perplexity", False, needs="tokens", finish=np.exp))
