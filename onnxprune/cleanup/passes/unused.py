"""Outputs that nobody reads."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxprune.cleanup.reading import full_name
from onnxprune.cleanup.registry import node_pass
from onnxprune.cleanup.work import Work

_BY_COUNT = {"BatchNormalization", "Dropout"}  # how many outputs there are says, or said, how the node computes


@node_pass("unused-outputs", phase="clean", ops=())
def unused_outputs(work: Work, node: ir.Node) -> bool:
    """Outputs that the operator need not make are not asked for where nobody reads them, such as the indices of MaxPool.

    1. The schema says that they are optional; variadic outputs are counted by the operator.
    2. The first output stays.
    """
    if len(node.outputs) < 2 or full_name(node) != node.op_type or node.op_type in _BY_COUNT:
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, work.opset)
    except onnx.defs.SchemaError:
        return False
    option = onnx.defs.OpSchema.FormalParameterOption
    changed = False
    for out, formal in zip(node.outputs[1:], schema.outputs[1:], strict=False):
        unread = not out.uses() and not out.is_graph_output()
        if out.name and unread and formal.option == option.Optional:
            out.name = ""
            changed = True
    count = len(node.outputs)
    while count > 1 and not node.outputs[count - 1].name:
        count -= 1
    node.resize_outputs(count)
    return changed
