"""Both models on random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, inliner

from onnxprune.io.surgeon import import_graph
from onnxprune.proof.branches import other_branches
from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import TOLERANCE, SourceError, Verification, compare
from onnxprune.proof.session import run
from onnxprune.shapes.dims import assignments, graph_inputs
from onnxprune.shapes.evaluate import RANDOM
from onnxprune.shapes.infer import infer

_SIZES = 2  # at how many sizes of symbolic dimensions the models are compared
_TOLERANCE = 1e-4


def verify_same(
    source: ModelProto,
    made: ModelProto,
    folder: Path | None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Verification | str:
    """Compares a result with its source; or why that is not possible, where the source itself does not run.

    Models with symbolic dimensions are compared at two sizes, models with branches on either side. Random operators are cut
    out of both, and both are given the same numbers in their place.

    Args:
        source: before.
        made: after.
        folder: where external data of both lies.
        shapes: concrete shapes of inputs.
        seed: of the random inputs.

    Raises:
        ModelError: a given shape fits no input.
    """
    if source.functions:
        source = inliner.inline_local_functions(source)
    for value in graph_inputs(source):
        if not value.type.HasField("tensor_type"):
            return f"input {value.name!r} is a sequence, an optional or a map, and random inputs are tensors"
    graph = import_graph(source)
    tolerance = max((TOLERANCE.get(t.data_type, _TOLERANCE) for t in source.graph.initializer), default=_TOLERANCE)
    results: list[Verification] = []
    used: list[dict[str, tuple[int, ...]]] = []
    reason = ""
    for sizes in assignments(source, shapes):
        if sizes in used:
            continue
        scope = infer(graph, sizes).scopes[id(graph)]
        feeds = random_inputs(graph, sizes, scope, seed)
        tried = [feeds, *other_branches(graph, feeds, scope)] if folder is None else [feeds]
        for k, each in enumerate(tried):
            try:
                expected, actual, given = _without_random(source, made, each, folder)
                results.append(compare(expected, actual, graph, given, tolerance, folder=folder))
            except SourceError as error:
                reason = reason or str(error)
                if k == 0:
                    break
            except RuntimeError as error:
                return Verification(False, float("inf"), tolerance, message=f"the result does not run: {error}")
        else:
            used.append(sizes)
        if len(used) == _SIZES or not all(r.passed for r in results):
            break
    if not results:
        return f"ONNX Runtime can't run the source: {reason}"
    return max(results, key=lambda r: (not r.passed, r.error))


def _without_random(
    source: ModelProto, made: ModelProto, feeds: dict[str, NDArray[Any]], folder: Path | None
) -> tuple[ModelProto, ModelProto, dict[str, NDArray[Any]]]:
    """Both models with what random operators make as inputs.

    Raises:
        SourceError: the source does not run.
    """
    names = [n.output[0] for n in source.graph.node if n.op_type in RANDOM - {"Dropout"}]
    if not names:
        return source, made, feeds
    try:
        values = dict(zip(names, run(_with_outputs(source, names), feeds, names, folder=folder), strict=True))
    except RuntimeError as error:
        raise SourceError(str(error)) from error
    return _fed(source, values), _fed(made, values), feeds | values


def _with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    known = {o.name for o in changed.graph.output}
    changed.graph.output.extend(helper.make_value_info(n, onnx.TypeProto()) for n in names if n not in known)
    return changed


def _fed(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    outputs = {o.name for o in graph.output}
    kept = [n for n in graph.node if not (set(n.output) & values.keys()) or set(n.output) & outputs]
    gone = {o for n in graph.node for o in n.output} - {o for n in kept for o in n.output}
    infos = [v for v in graph.value_info if v.name not in gone]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.value_info.extend(infos)
    for name in sorted(gone & values.keys()):
        array = np.asarray(values[name])
        graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
    return changed
