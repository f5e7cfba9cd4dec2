"""The proof: the pruned weights back in the source graph, with zeros where slices were removed.

For exact groups the inflated and the pruned model compute the same function, whatever the graph is: every live path from a
removed channel ends in a zero weight. So one run of both on random inputs proves the surgery.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.io.surgeon import constant_array, export_model, import_graph, set_constant
from onnxprune.surgery.apply import stored_weights
from onnxprune.surgery.weights import cut, keep_of, neutral_values, put_back


def inflate(source: onnx.ModelProto, pruned: onnx.ModelProto, groups: Groups, alive: Mask) -> onnx.ModelProto:
    """The source graph with the weights of the pruned model.

    Args:
        source: as it was traced.
        pruned: result of `apply_alive`, possibly with weights changed by compensation.
        groups: analysis of the source.
        alive: for each label whether it stayed.
    """
    trace = groups.trace
    graph = import_graph(source)
    constants = stored_weights(graph)
    small = stored_weights(import_graph(pruned))
    for clone, original in trace.clones.items():
        small.setdefault(clone, small.get(original, constants[original]))
    neutral = neutral_values(trace.space)
    producers = {t.name: n for n in graph.nodes for t in n.outputs}
    for weight in trace.weights.values():
        keep = keep_of(weight, alive)
        if weight.stored and weight.name not in small:
            continue  # a weight that no node reads
        fill = {a: neutral[labels] for a, labels in weight.labels.items() if labels.ndim == 1 and neutral[labels].any()}
        if not keep:
            if weight.stored:
                set_constant(constants[weight.name], constant_array(small[weight.name]))
            continue
        if weight.stored:
            full = put_back(constant_array(small[weight.name]), weight.shape, keep, fill)
            set_constant(constants[weight.name], full)
            continue
        node = producers[weight.name]  # ConstantOfShape: the same constant with zeros in it
        held = node.attrs.get("value")
        sample = np.zeros(1, np.float32) if held is None else np.asarray(constant_array(held))
        whole = np.full(weight.shape, sample.ravel()[0], sample.dtype)
        tensor = gs.Constant(f"{weight.name}_inflated", put_back(cut(whole, keep), weight.shape, keep, fill))
        node.op, node.attrs, node.inputs = "Identity", {}, [tensor]
    return export_model(graph, source)
