"""Places for new values in a pruned model: biases that nodes get or share no longer, weights that are written back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.groups.classes import Mask
from onnxprune.groups.group import Groups
from onnxprune.recover.scales import find_scales
from onnxprune.recover.target import follow
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Linear

Array = NDArray[Any]


def give_slots(result: onnx.ModelProto, work: onnx.ModelProto, linears: list[Linear], groups: Groups) -> set[str]:
    """Gives each node a bias of its own, where it can have one and shares it or has none; returns those of the latter."""
    flow = Flow(work)
    fresh: set[str] = set()
    added: set[str] = set()
    nodes = {n.output[0]: n for n in result.graph.node}
    taken: set[str] = set()
    for linear in linears:
        value = groups.trace.values.get(linear.y)
        if value is None or value.shape is None:
            continue
        stored = numpy_helper.to_array(flow.initializers[linear.weight])
        matrix = linear.matrix(stored)
        outputs = matrix.shape[0] * matrix.shape[2]
        slot = follow(flow, linear, linear.form.made_axes(value.rank), value.rank, outputs).slot
        if slot is None:
            continue
        shared = len(flow.readers.get(slot.tensor, ())) > 1 or slot.tensor in taken or slot.tensor in flow.outputs
        if slot.tensor and not shared:
            taken.add(slot.tensor)
            continue
        reader = nodes[flow.nodes[slot.node].output[0]]
        name = f"{reader.output[0]}_bias"
        while name in flow.initializers or name in flow.producer or name in flow.inputs or name in fresh:
            name += "_bias"
        fresh.add(name)
        added |= set() if slot.tensor else {name}
        array = np.zeros(outputs, stored.dtype) if not slot.tensor else numpy_helper.to_array(flow.initializers[slot.tensor])
        result.graph.initializer.append(numpy_helper.from_array(np.array(array), name))
        if slot.position < len(reader.input):
            reader.input[slot.position] = name
        else:
            reader.input.append(name)
    return added


def give_vectors(result: onnx.ModelProto, source: onnx.ModelProto, groups: Groups, alive: Mask) -> None:
    """Normalizations over a pruned width get vectors of their own, where surgery made one of what the trace told apart."""
    flow = Flow(lift(result))
    nodes = {n.output[0]: n for n in result.graph.node if n.output}
    before = {n.output[0]: n for n in source.graph.node if n.output}
    for scale in find_scales(flow, groups, alive, set(), shared=True):
        for output in (flow.nodes[k].output[0] for k in scale.nodes):
            for i, name in enumerate(nodes[output].input):
                own = before[output].input[i] if output in before else ""
                if name in (scale.scale, scale.shift) and groups.trace.clones.get(own) == name:
                    tensor = result.graph.initializer.add()
                    tensor.CopyFrom(flow.initializers[name])
                    tensor.name = own
                    nodes[output].input[i] = own


def drop_zeros(model: onnx.ModelProto, added: set[str]) -> None:
    """Takes biases that nodes were given away again where they stayed 0."""
    zeros = {t.name for t in model.graph.initializer if t.name in added and not numpy_helper.to_array(t).any()}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "ConvTranspose") and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    used = {n for node in model.graph.node for n in node.input}
    kept = [t for t in model.graph.initializer if t.name not in added or t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def write_weights(model: onnx.ModelProto, weights: dict[str, Array]) -> None:
    """Puts new values into initializers and Constant nodes."""
    tensors = {t.name: t for t in model.graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    for name, array in weights.items():
        kept = tensors[name].name
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), kept))
