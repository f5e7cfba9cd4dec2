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
    pass

Shapes = Mapping[str, Sequence[int]]
Arrays = dict[str, NDArray[Any]]


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
