"""A model without some branches: their summands become stored constants of the same name.

No reader changes: what reads the summand reads the constant. So a label, a fit or a comparison finds what the summand was in
the source by the constant's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.depth.branches import Branch, dead_nodes
from onnxprune.statistics.flow import Flow

Array = NDArray[Any]


def without(model: onnx.ModelProto, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with some tensors as constants, and without what only these needed. The model given stays as it is.

    Args:
        model: any model.
        constants: by tensor of the main graph; arrays of its type and rank, of length 1 along all axes but its channels'.
    """
    flow = Flow(model)
    dead = dead_nodes(flow, list(constants))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for k, n in enumerate(graph.node) if k not in dead]
    del graph.node[:]
    graph.node.extend(kept)
    rest = Flow(result)
    gone = {o for k in dead for o in flow.nodes[k].output}
    unread = {n for k in dead for n in flow.reads(k) if not rest.readers.get(n) and n not in flow.outputs}
    drop_stored(graph, unread)
    _keep(graph.value_info, lambda v: v.name not in gone)
    _keep(graph.quantization_annotation, lambda a: a.tensor_name not in gone | unread)
    for name, array in constants.items():
        if not rest.readers.get(name):
            continue  # another branch that went had it
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        graph.initializer.append(tensor)
        if model.ir_version < 4:  # initializers are listed as inputs
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return result


def constant_of(branch: Branch, values: Array, rank: int, dtype: Any) -> Array:
    """Numbers by channel as a constant that stands for a summand.

    Args:
        branch: the branch.
        values: of the channels, as they lie on its axes.
        rank: of the summand.
        dtype: of the summand.
    """
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if a in branch.axes else 1 for a in range(rank)]).astype(dtype)


def drop_stored(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Takes initializers out of a graph, and out of its inputs where they are listed there."""
    stored = {t.name for t in graph.initializer if t.name in names}
    _keep(graph.initializer, lambda t: t.name not in stored)
    _keep(graph.input, lambda i: i.name not in stored)


def _keep(repeated: Any, wanted: Any) -> None:
    held = [x for x in repeated if wanted(x)]
    if len(held) < len(repeated):
        copies = [type(x).FromString(x.SerializeToString()) for x in held]
        del repeated[:]
        repeated.extend(copies)
