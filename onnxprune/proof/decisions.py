"""Discrete operators: a rounding error before them becomes another choice behind them.

Two models that compute the same function up to rounding may rank two equal scores differently and then differ everywhere
behind. So the choices of one are given to both: the operators are cut out, their outputs become inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnxprune.proof.session import run

DISCRETE = {
    "TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Unique", "Hardmax", "Round", "Floor", "Ceil", "Sign",
    "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "QuantizeLinear", "DynamicQuantizeLinear", "Multinomial",
}  # fmt: skip
_SIZED_BY_DATA = {"NonZero", "NonMaxSuppression", "Unique"}


@dataclass
class Cut:
    """Both models without their discrete operators.

    Attributes:
        expected: the first model, with the choices as inputs.
        actual: the second.
        feeds: inputs and choices.
        inputs: what the operators that were cut out read, as further outputs of both.
        decided: outputs of the models that are choices themselves.
    """

    expected: onnx.ModelProto
    actual: onnx.ModelProto
    feeds: dict[str, NDArray[Any]]
    inputs: list[str]
    decided: set[str]


def behind_decisions(graph: gs.Graph) -> set[str]:
    """Tensors of the main graph that depend on a discrete operator."""
    behind: set[str] = set()
    for node in graph.nodes:
        if node.op in DISCRETE or any(t.name in behind for t in node.inputs):
            behind |= {t.name for t in node.outputs}
    return behind


def same_decisions(
    expected: onnx.ModelProto,
    actual: onnx.ModelProto,
    graph: gs.Graph,
    feeds: Mapping[str, NDArray[Any]],
    weights: Mapping[str, NDArray[Any]] | None,
) -> Cut:
    """Cuts discrete operators out of both models and feeds the choices of the first to both.

    An operator stays where its output has another shape in the second model (it works per channel, and channels went), or is
    not there any more.

    Raises:
        RuntimeError: a model can't be run.
    """
    there = {o for n in actual.graph.node for o in n.output}
    nodes = [n for n in graph.nodes if n.op in DISCRETE and all(t.name in there for t in n.outputs if t.name)]
    outputs = {o.name for o in expected.graph.output}
    names = [t.name for n in nodes for t in n.outputs if t.name]
    a = dict(zip(names, run(with_outputs(expected, names), feeds, names, weights), strict=True))
    b = dict(zip(names, run(with_outputs(actual, names), feeds, names), strict=True))
    chosen, decided, inputs = [], set(), []
    for node in nodes:
        own = [t.name for t in node.outputs if t.name]
        same = all(a[n].dtype == b[n].dtype and a[n].shape == b[n].shape for n in own)
        if not same and node.op not in _SIZED_BY_DATA:
            continue
        inputs += [t.name for t in node.inputs if t.name in there and not isinstance(t, gs.Constant) and t.inputs]
        if outputs & set(own):
            decided |= outputs & set(own)
        else:
            chosen += own
    choices = {n: a[n] for n in chosen}
    read = [n for n in dict.fromkeys(inputs) if n not in choices]
    models = [_without(m, choices, [*outputs, *[n for n in read if n not in outputs]]) for m in (expected, actual)]
    x = run(models[0], {**feeds, **choices}, read, weights)
    y = run(models[1], {**feeds, **choices}, read)
    kept = [n for n, p, q in zip(read, x, y, strict=True) if p.shape == q.shape and n not in outputs]
    return Cut(models[0], models[1], {**feeds, **choices}, kept, decided)


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with other outputs."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(helper.make_value_info(n, onnx.TypeProto()) for n in names)
    return changed


def _without(model: onnx.ModelProto, choices: Mapping[str, NDArray[Any]], outputs: list[str]) -> onnx.ModelProto:
    """The model without the nodes that make the choices, which become inputs."""
    changed = with_outputs(model, outputs)
    graph = changed.graph
    nodes = [n for n in graph.node if not set(n.output) & choices.keys()]
    values = [v for v in graph.value_info if v.name not in choices]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(values)
    for name, array in choices.items():
        dtype = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
        graph.input.append(helper.make_tensor_value_info(name, dtype, array.shape))
    return changed
