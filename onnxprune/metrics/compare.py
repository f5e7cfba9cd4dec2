"""Which output of a model is compared, and what with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibrate.signature import described, listed
from onnxprune.errors import ModelError, UsageError
from onnxprune.metrics.registry import Array, Metric, Observed, find_metric

LABELS = "labels"
_IDS = "input_ids"


@dataclass(frozen=True)
class Aligned:
    """Labels next to the scores they judge: n samples of P positions (1 where a sample has one label).

    Attributes:
        scores: `(n, P, C)`; None where the output holds classes, not scores.
        classes: predicted classes `(n, P)`, of outputs that hold classes.
        labels: `(n, P)`.
        counted: `(n, P)`; padding and labels below 0 do not count.
    """

    scores: Array | None
    classes: Array | None
    labels: NDArray[np.int64]
    counted: NDArray[np.bool_]


def choose(metric: Metric | None, seen: Observed, *, labelled: bool = False) -> tuple[Metric, Observed]:
    """The metric, and the same samples with the output that it compares and what with.

    Where no metric is given: accuracy if there are labels that fit an output, else the mean squared error from targets, else
    from the input itself, for an output of the input's shape (an autoencoder).

    Args:
        metric: that was asked for.
        seen: the first samples.
        labelled: labels were asked for, so that they have to fit.

    Raises:
        ModelError: nothing in the data fits an output.
        UsageError: the metric compares with labels or tokens, and it is open which.
    """
    if metric is not None:
        pair = _PAIRS[metric.needs](seen)
        return metric, replace(seen, output=pair[0], against=pair[1])
    if LABELS in seen.extras:
        output = _scores_for(seen, check_integers(seen.where, seen.extras[LABELS]))
        if output or labelled:
            return find_metric("accuracy"), replace(seen, output=output or _labelled(seen)[0], against=LABELS)
    pair = _target(seen) or ("", "")
    if not pair[0]:
        if LABELS in seen.extras:
            _labelled(seen)  # says what is wrong with them
        shapes = shapes_text(seen.outputs)
        raise ModelError(f"{seen.where}: has no 'labels' or 'targets' that fit an output of the model ({shapes})")
    return find_metric("mse"), replace(seen, output=pair[0], against=pair[1])


def _labelled(seen: Observed) -> tuple[str, str]:
    """An output with a class, or scores of classes, for each label."""
    if LABELS not in seen.extras:
        arrays = listed(seen.extras)
        raise ModelError(
            f"{seen.where}: has no 'labels' to compare with; give --labels, a file or one of the arrays ({arrays})"
        )
    labels = check_integers(seen.where, seen.extras[LABELS])
    output = _scores_for(seen, labels)
    if output:
        return output, LABELS
    for name, array in seen.outputs.items():  # the shape fits, so the labels don't
        if class_axis(array, labels) is not None:
            align(replace(seen, output=name, against=LABELS))
    raise ModelError(
        f"{seen.where}: {described(labels)} 'labels' do not fit an output of the model ({shapes_text(seen.outputs)}); "
        "needs scores (N, classes) for labels (N,)"
    )


def _scores_for(seen: Observed, labels: Array) -> str:
    """The first output that has a class, or scores of more classes than the largest label, for each label."""
    largest = max(int(labels.max(initial=0)), 1)
    for name, array in seen.outputs.items():
        axis = class_axis(array, labels)
        if axis == -1 or (axis is not None and array.shape[axis] > largest):
            return name
    return ""


def class_axis(output: Array, labels: Array) -> int | None:
    """Axis of an output that holds scores of classes for each label: the last one, or 1; -1 where it holds the classes.

    Axes of length 1 behind them are allowed; None where the shapes don't fit.
    """
    if output.dtype.kind in "iu" and _trimmed(output.shape) == _trimmed(labels.shape):
        return -1
    if output.dtype.kind != "f" or output.ndim < 2:
        return None
    wanted = _trimmed(labels.shape)
    if output.ndim > 2 and _trimmed(output.shape[:-1]) == wanted and output.shape[-1] > 1:
        return output.ndim - 1
    return 1 if _trimmed((output.shape[0], *output.shape[2:])) == wanted else None


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without axes of length 1 at its end, but for the first."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def align(seen: Observed) -> Aligned:
    """Scores and labels, position by position.

    Raises:
        ModelError: a label is no class of the output; names the sample.
    """
    output, labels = seen.outputs[seen.output], check_integers(seen.where, seen.wanted).astype(np.int64)
    count, axis = len(output), class_axis(output, labels)
    single = _trimmed(labels.shape) == (count,)
    flat = labels.reshape(count, -1)
    counted = np.ones(flat.shape, bool) if single else flat >= 0
    if seen.mask is not None and seen.mask.shape == labels.shape and not single:
        counted &= seen.mask.reshape(count, -1) != 0
    if axis is None:
        raise ModelError(
            f"{seen.where}: {described(labels)} 'labels' do not fit output {seen.output!r} {list(output.shape)} "
            f"of {seen.name(int(seen.samples[0]))}"
        )
    if axis == -1:
        return Aligned(None, output.reshape(count, -1), flat, counted)
    scores = np.moveaxis(output, axis, -1).reshape(count, flat.shape[1], output.shape[axis])
    wrong = counted & ((flat < 0) | (flat >= scores.shape[2]))
    if wrong.any():
        k, position = (int(i) for i in np.argwhere(wrong)[0])
        raise ModelError(
            f"{seen.where}: label {flat[k, position]} of {seen.name(int(seen.samples[k]))} is no class: "
            f"output {seen.output!r} has the classes 0 to {scores.shape[2] - 1}"
        )
    return Aligned(scores, None, flat, counted)


def _targets(seen: Observed) -> tuple[str, str]:
    pair = _target(seen)
    if pair:
        return pair
    raise ModelError(
        f"{seen.where}: has no 'targets', nor an array with the name of an output, that fits an output of the model "
        f"({shapes_text(seen.outputs)})"
    )


def _target(seen: Observed) -> tuple[str, str] | None:
    for name, array in seen.outputs.items():
        for target in (name, "targets"):
            if target in seen.extras and seen.extras[target].shape[1:] == array.shape[1:]:
                return name, target
    for name, array in seen.outputs.items():
        for given, value in seen.feeds.items():
            if value.shape == array.shape and array.dtype.kind == "f":
                return name, given
    return None


def _tokens(seen: Observed) -> tuple[str, str]:
    """Labels where there are some, else the input whose tokens the outputs `(n, T, V)` predict."""
    if LABELS in seen.extras:
        return _labelled(seen)
    for name, array in seen.outputs.items():
        if array.dtype.kind != "f" or array.ndim != 3 or array.shape[2] < 2:
            continue
        fits = [
            n
            for n, a in seen.feeds.items()
            if a.dtype.kind in "iu" and a.shape == array.shape[:2] and a is not seen.mask and "mask" not in n
        ]
        if _IDS in fits or len(fits) == 1:
            return name, _IDS if _IDS in fits else fits[0]
        if fits:
            raise UsageError(f"{seen.where}: which of the inputs {listed(fits)} holds the tokens? Give --labels")
    raise ModelError(
        f"{seen.where}: perplexity needs an output (N, T, V) for tokens (N, T) of an input, or labels; the outputs are "
        f"{shapes_text(seen.outputs)}"
    )


def _nothing(seen: Observed) -> tuple[str, str]:
    return "", ""


_PAIRS = {"labels": _labelled, "targets": _targets, "tokens": _tokens, "nothing": _nothing}


def check_integers(where: str, labels: Array) -> Array:
    """Labels, which have to be integers.

    Raises:
        ModelError: they are not.
    """
    if labels.dtype.kind not in "iu":
        raise ModelError(f"{where}: 'labels' has to be integers (N,), not {described(labels)}")
    return labels


def shapes_text(arrays: Mapping[str, Any]) -> str:
    """Names and shapes."""
    return ", ".join(f"{n!r} {list(getattr(a, 'shape', ()))}" for n, a in arrays.items())
