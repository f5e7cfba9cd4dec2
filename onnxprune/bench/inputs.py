"""Inputs to time models with: of the user's data, or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import ModelError, UsageError
from onnxprune.proof.session import first_line

if TYPE_CHECKING:
    from onnxprune.calibrate.batch import Samples

Shapes = Mapping[str, Sequence[int]]
Arrays = dict[str, NDArray[Any]]


def of_one_run(
    model: onnx.ModelProto,
    batch: int = 1,
    shapes: Shapes | None = None,
    samples: Samples | None = None,
    seed: int = 0,
) -> Arrays:
    """What a model that was given samples is timed with: samples of the usual size, or random numbers.

    Time depends on how long a text is or how large an image. So real samples tell, unless the user wants other shapes.

    Args:
        model: whose inputs are fed.
        batch: samples of a run, where the model leaves that open.
        shapes: shapes fixed by the user, by input name.
        samples: that were given, random ones among them.
        seed: of random numbers.

    Raises:
        ModelError: no shapes could be found that the model accepts.
    """
    if samples is not None and not samples.synthetic:
        feeds = _usual(model, samples, batch)
        if all(feeds[n].shape == tuple(shape) for n, shape in (shapes or {}).items() if n in feeds):
            return feeds
    return made_up(model, batch, shapes, seed)


def _usual(model: onnx.ModelProto, samples: Samples, batch: int) -> Arrays:
    """The first samples of the size that half of them do not exceed, repeated where there are too few of one shape."""
    from onnxprune.calibrate.batch import batch_size
    from onnxprune.calibrate.signature import signature

    sizes = [(sum(a.size for a in b.feeds.values()) / batch_size(b), b.count) for b in samples.batches]
    order = sorted(range(len(sizes)), key=lambda k: sizes[k][0])
    half = np.cumsum([sizes[k][1] for k in order])
    chosen = samples.batches[order[int(np.searchsorted(half, half[-1] / 2))]]
    wanted = signature(model)
    if not wanted.batched or wanted.batch is not None:
        return dict(chosen.feeds)
    rows = np.arange(batch) % chosen.count
    return {name: np.ascontiguousarray(array[rows]) for name, array in chosen.feeds.items()}


def made_up(model: onnx.ModelProto, batch: int = 1, shapes: Shapes | None = None, seed: int = 0) -> Arrays:
    """Random inputs: a symbolic first dimension is the batch, other symbolic ones are as in verification.

    Args:
        model: whose inputs are fed.
        batch: samples of a run, where the model leaves that open.
        shapes: shapes fixed by the user, by input name.
        seed: of the numbers.

    Raises:
        ModelError: no shapes could be found that the model accepts.
    """
    from onnxprune.prepare.prepare import prepare
    from onnxprune.proof.inputs import random_inputs
    from onnxprune.shapes.dims import assignments, graph_inputs, symbol_of

    given = dict(shapes or {})
    sizes = next(assignments(model, given))
    open_batch = {symbol_of(i, 0) for i in graph_inputs(model) if i.name not in given} - {""}
    for i in graph_inputs(model):
        if i.name not in given:
            sizes[i.name] = tuple(batch if symbol_of(i, k) in open_batch else n for k, n in enumerate(sizes[i.name]))
    try:
        prepared = prepare(model, sizes)
        if prepared.inferred.errors:
            prepared = prepare(model, given)
        scope = prepared.inferred.scopes[id(prepared.graph)]
        return random_inputs(prepared.graph, prepared.shapes, scope, seed)
    except Exception as error:
        raise ModelError(f"no inputs for one run could be made up ({first_line(error)}); give --shape") from error


def taken_from(
    data: Any, model: onnx.ModelProto, batch: int, preprocess: Any = None, shapes: Shapes | None = None
) -> tuple[Arrays, str]:
    """The first samples of data, as one batch, and where they come from in words.

    Args:
        data: in any form that `onnxprune.calibrate.read.read_samples` knows.
        model: whose inputs are fed.
        batch: samples of a run.
        preprocess: for images.
        shapes: of inputs that the model leaves open.

    Raises:
        ModelError: the data can't be read, or does not fit the model.
        UsageError: there are fewer samples of one shape than the batch has.
    """
    from onnxprune.calibrate.read import read_samples

    found = read_samples(data, model, samples=batch, batch=batch, preprocess=preprocess, shapes=shapes)
    first = found.batches[0]
    if first.count < batch:
        raise UsageError(f"--batch {batch}: there are only {first.count} samples of one shape in {found.origin}")
    return dict(first.feeds), found.origin


def natural_batch(model: onnx.ModelProto, shapes: Shapes | None = None) -> int:
    """Samples of a run where nobody says: what the model or a given shape fixes, else one."""
    from onnxprune.calibrate.signature import signature
    from onnxprune.shapes.dims import graph_inputs

    wanted = signature(model) if graph_inputs(model) else None
    if wanted is None or not wanted.batched:
        return 1
    given = {tuple(shapes[i.name])[:1] for i in wanted.inputs if i.name in shapes} if shapes else set()
    return wanted.batch or (max(given)[0] if len(given) == 1 and () not in given else 1)


def check_batch(model: onnx.ModelProto, batch: int, feeds: Arrays, shapes: Shapes | None) -> None:
    """Makes sure that inputs have the batch that was asked for.

    Raises:
        UsageError: the model fixes another one.
    """
    from onnxprune.shapes.dims import graph_inputs, symbol_of

    if any(symbol_of(i, 0) for i in graph_inputs(model) if i.name not in (shapes or {})):
        return
    rows = {a.shape[0] for a in feeds.values() if a.ndim}
    if batch not in rows and not shapes:
        sizes = ", ".join(map(str, sorted(rows))) or "none"
        raise UsageError(
            f"--batch {batch}: the model fixes the first dimension of its inputs ({sizes}); export it with an open one"
        )


def fitted(feeds: Arrays, model: onnx.ModelProto, name: str) -> Arrays:
    """The same inputs for a variant, which may take its floats in another precision.

    Raises:
        ModelError: it has an input of another name, type or shape.
    """
    from onnxprune.calibrate.signature import family, inputs_of

    found: Arrays = {}
    for wanted in inputs_of(model):
        array = feeds.get(wanted.name)
        if array is None:
            raise ModelError(f"{name}: input {wanted.name!r} is none of the first model's ({', '.join(map(repr, feeds))})")
        wanted.check_shape(name, array, batch=False)
        if array.dtype != wanted.dtype and not (family(array.dtype) == family(wanted.dtype) == "float"):
            raise ModelError(f"{name}: input {wanted.name!r} takes {wanted.dtype}, the first model's is {array.dtype}")
        found[wanted.name] = np.ascontiguousarray(array, wanted.dtype) if array.ndim else array.astype(wanted.dtype)
    return found
