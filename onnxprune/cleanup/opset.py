"""Raises a model to a newer opset, for operators that only it has."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from onnxprune.errors import UsageError
from onnxprune.io.walk import nested_graphs


def raise_opset(model: ModelProto, target: int | None) -> ModelProto:
    """The model at opset `target` of the ONNX domain, by onnx's own converter; the model itself where it is there already.

    Raises:
        UsageError: the target is older than the model's opset, or newer than onnx knows; or the converter refuses the model.
    """
    now = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if target is None or target == now:
        return model
    newest = onnx.defs.onnx_opset_version()
    if not now < target <= newest:
        raise UsageError(f"--opset {target}: the model has opset {now}, onnx {onnx.__version__} knows up to {newest}")
    from onnx import version_converter

    try:
        converted: ModelProto = version_converter.convert_version(model, target)
    except Exception as error:  # whatever its C++ code raises
        text = " ".join(str(error).split())
        raise UsageError(f"--opset {target}: onnx can't convert the model ({text}); leave the option out") from None
    _restore(converted, model)
    return converted


def _restore(made: ModelProto, source: ModelProto) -> None:
    """Puts back what the converter loses (metadata of graph and nodes, denotations), and takes out shapes that it adds."""
    interface = {v.name: v for v in (*source.graph.input, *source.graph.output)}
    for value in (*made.graph.input, *made.graph.output):
        if value.name in interface:
            value.CopyFrom(interface[value.name])
    told = {v.name: v for graph in nested_graphs(source.graph) for v in graph.value_info}
    nodes = {(n.name, n.op_type): n for graph in nested_graphs(source.graph) for n in graph.node if n.name}
    for graph in nested_graphs(made.graph):
        kept = [told[v.name] for v in graph.value_info if v.name in told]
        del graph.value_info[:]
        graph.value_info.extend(kept)
        for node in graph.node:
            if (node.name, node.op_type) in nodes and not node.metadata_props:
                node.metadata_props.extend(nodes[node.name, node.op_type].metadata_props)
    for name in ("metadata_props", "quantization_annotation"):
        graph_field = getattr(made.graph, name)
        del graph_field[:]
        graph_field.extend(getattr(source.graph, name))
    del made.training_info[:]
    made.training_info.extend(source.training_info)
