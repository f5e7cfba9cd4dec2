"""The proof: the pruned weights back in the source graph, with zeros where slices were removed.

For exact groups the inflated and the pruned model compute the same function, whatever the graph is: every live path from a
removed channel ends in a zero weight. So one run of both on random inputs proves the surgery.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.surgeon import constant_array, export_model, import_graph, set_constant
from onnxprune.surgery.apply import stored_weights
from onnxprune.surgery.weights import cut, keep_of, neutral_values, put_back
from onnxprune.trace.tracer import Trace, Weight


def inflated_weights(
    source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask
) -> Iterator[tuple[Weight, NDArray[Any]]]:
    """The weights of the pruned model in their old shapes: zeros, or the neutral value, where slices were removed.

    Args:
        source: as it was traced.
        pruned: result of `apply_alive`, possibly with weights changed by compensation.
        groups: analysis of the source.
        alive: for each label whether it stayed.
    """
    trace = groups.trace
    constants, small = stored_weights(import_graph(source)), stored_weights(import_graph(pruned))
    for clone, original in trace.clones.items():
        small.setdefault(clone, small.get(original, constants[original]))
    neutral = neutral_values(trace.space)
    for weight in trace.weights.values():
        keep = keep_of(weight, alive)
        fill = {a: neutral[labels] for a, labels in weight.labels.items() if labels.ndim == 1 and neutral[labels].any()}
        if weight.stored and weight.name in small:  # else no node reads it
            cut_weight = constant_array(small[weight.name])
            yield weight, put_back(cut_weight, weight.shape, keep, fill) if keep else cut_weight
        elif keep and not weight.stored:  # ConstantOfShape: the same constant with zeros in it
            yield weight, put_back(cut(_made(trace, weight), keep), weight.shape, keep, fill)


def _made(trace: Trace, weight: Weight) -> NDArray[Any]:
    node = next(n for g in [trace.graph, *trace.graph.subgraphs(recursive=True)] for n in g.nodes if n.outputs[0].name == weight.name)
    held = node.attrs.get("value")
    sample = np.zeros(1, np.float32) if held is None else np.asarray(constant_array(held))
    return np.full(weight.shape, sample.ravel()[0], sample.dtype)


def inflate(source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask) -> onnx.ModelProto:
    """The source graph with the weights of the pruned model; see `inflated_weights`."""
    graph = import_graph(source)
    constants = stored_weights(graph)
    producers = {t.name: n for g in [graph, *graph.subgraphs(recursive=True)] for n in g.nodes for t in n.outputs}
    for weight, array in inflated_weights(source, pruned, groups, alive):
        if weight.stored:
            set_constant(constants[weight.name], array)
        else:
            node = producers[weight.name]
            tensor = gs.Constant(f"{weight.name}_inflated", array)
            node.op, node.attrs, node.inputs = "Identity", {}, [tensor]
    return export_model(graph, source)
