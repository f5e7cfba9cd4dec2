"""Constants where passes find them, and what is computed from constants alone."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.registry import Declined, model_pass
from onnxprune.cleanup.work import Array, Work, full_name
from onnxprune.shapes import evaluate

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_KEPT = {
    "Constant",
    "ConstantOfShape",
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
    "SequenceConstruct",
    "SequenceEmpty",
    "Optional",
}
_TRIVIAL = 1 << 12  # bytes; whatever is smaller is folded by the reference, which starts faster
_BY_VIEW = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Transpose"}


@model_pass("lift-constants", phase="fold")
def lift_constants(work: Work) -> int:
    """A Constant is an initializer in another place.

    1. Constants and initializers of bodies go to the main graph, where all bodies see them.
    2. A Constant that is an output stays, as an output has to be made by a node; so does one in a function, which has no
       initializers. Their values are known all the same.
    3. A Constant whose attribute the caller of a function gives is none.
    """
    count = 0
    main = work.model.graph
    for graph in main.subgraphs():
        for name, value in list(graph.initializers.items()):
            if not (value.is_graph_input() or value.is_graph_output()):
                del graph.initializers[name]
                value.name = work.fresh(name)
                main.register_initializer(value)
                count += 1
    for node in work.nodes(("Constant",)):
        tensor = constant_tensor(node)
        if tensor is None:
            continue
        old = node.outputs[0]
        if old.is_graph_output() or isinstance(work.root, ir.Function):
            old.const_value = tensor
            continue
        value = work.keep(tensor, old)
        ir.convenience.replace_all_uses_with(old, value)
        work.remove(node)
        count += 1
    return count


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor that a Constant holds, in whichever attribute; None for sparse ones and those a caller gives."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attributes) != 1:
        return None
    (held,) = node.attributes.values()
    if held.is_ref():
        return None
    match held.name:
        case "value":
            return held.as_tensor()
        case "value_int" | "value_ints":
            return ir.tensor(held.value, dtype=ir.DataType.INT64)
        case "value_float" | "value_floats":
            return ir.tensor(held.value, dtype=ir.DataType.FLOAT)
        case "value_string":
            return ir.StringTensor([held.as_string().encode()], shape=ir.Shape([]))
        case "value_strings":
            return ir.StringTensor([s.encode() for s in held.as_strings()])
    return None


@model_pass("fold-constants", phase="fold")
def fold_constants(work: Work) -> int:
    """f(constants) is a constant.

    1. f is an operator of the ONNX domain that is the same in every run: no random operator, no body.
    2. QuantizeLinear and DequantizeLinear stay: their pairs tell a runtime what to run in integers, and a weight is smaller
       before DequantizeLinear than behind it.
    3. The file does not grow by more than the threshold for one constant. A constant that only constants are made of counts
       as gone; what a ConstantOfShape makes counts as what it takes in the file.
    4. An output of a graph is made by a Constant, as it has to be made by a node.
    """
    region = {id(n): n for n in _computable(work)}
    left = {
        id(v): v.const_value.nbytes
        for n in region.values()
        for v in n.inputs
        if v is not None and v.const_value is not None and all(id(u.node) in region for u in v.uses())
    }
    count = 0
    for node in region.values():
        wanted = any(o.uses() or o.is_graph_output() for o in node.outputs)
        if not wanted or not all(v is None or work.is_constant(v) for v in node.inputs):
            continue
        try:
            _fold(work, node, left, region)
            count += 1
        except Declined as reason:
            work.decline(node, reason)
    return count


def _computable(work: Work) -> list[ir.Node]:
    """Nodes that depend on constants alone, in order."""
    found: list[ir.Node] = []
    made: set[int] = set()
    for node in work.nodes():
        if full_name(node) != node.op_type or node.op_type in _QUANTIZED | _KEPT | evaluate.RANDOM or not node.inputs:
            continue
        seen = any(o.is_graph_output() for o in node.outputs)
        if (seen and len(node.outputs) > 1) or isinstance(work.root, ir.Function):
            continue
        if all(v is None or id(v) in made or work.is_constant(v) for v in node.inputs):
            found.append(node)
            made |= {id(o) for o in node.outputs}
    return found


def _fold(work: Work, node: ir.Node, left: dict[int, int], region: dict[int, ir.Node]) -> None:
    """Computes one node; `left` are bytes that go with the constants it is made of, and are spent once."""
    used = [o for o in node.outputs if o.uses() or o.is_graph_output()]
    grows = sum(_size(work, o) for o in used)
    credit = sum(left.get(id(v), 0) for v in node.inputs)
    large = grows - credit
    if large > work.options.size_threshold and not all(_uniform(work, v) for v in node.inputs if v is not None):
        raise Declined(f"the file would grow by {large} bytes; --size-threshold {large} allows it")
    values = _computed(work, node)
    if values is None:
        raise Declined("neither the ONNX reference nor ONNX Runtime computes it")
    for out, array in zip(list(node.outputs), values, strict=False):
        if out.is_graph_output():
            made_of = ir.tensor(np.asarray(array, order="C"), name=out.name)
            work.replace(node, "Constant", [], {"value": made_of}).outputs[0].const_value = made_of
            return
        if not out.uses():
            continue
        made = work.weight(array, out, saved=credit)
        if made.const_value is not None:
            _spend(left, node, made.const_value.nbytes)
            if all(id(u.node) in region for u in out.uses()):
                left[id(made)] = made.const_value.nbytes
        work.substitute(out, made)


def _spend(left: dict[int, int], node: ir.Node, size: int) -> None:
    for value in node.inputs:
        taken = min(size, left.get(id(value), 0))
        if taken:
            left[id(value)] -= taken
            size -= taken


def _size(work: Work, value: ir.Value) -> int:
    """Bytes of a value, 0 where they are not known."""
    shape, dtype = work.static_shape(value), work.dtype(value)
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        return 0
    return int(math.prod(shape) * dtype.itemsize)


def _uniform(work: Work, value: ir.Value) -> bool:
    """A constant of one number, so what pointwise operators make of it is one too."""
    return work.constant(value, limit=64) is not None


def _computed(work: Work, node: ir.Node) -> list[Array] | None:
    inputs = [None if v is None else work.constant(v) for v in node.inputs]
    if all(x is None or x.size == 0 or all(s == 0 for s in x.strides) or x.nbytes <= _TRIVIAL for x in inputs) or (
        node.op_type in _BY_VIEW
    ):
        proto = ir.serde.serialize_node(node)
        return evaluate.evaluate(proto, work.opset, inputs, [None if x is None else x.shape for x in inputs]) or _by_runtime(
            work, node, inputs
        )
    return _by_runtime(work, node, inputs)


def _by_runtime(work: Work, node: ir.Node, inputs: list[Array | None]) -> list[Array] | None:
    """What ONNX Runtime makes of it, which is what a run would have made of it."""
    from onnx import TypeProto, helper, numpy_helper

    from onnxprune.proof.session import run

    proto = ir.serde.serialize_node(node)
    held = {n: x for n, x in zip(proto.input, inputs, strict=True) if n and x is not None}
    graph = helper.make_graph(
        [proto],
        "constants",
        [],
        [helper.make_value_info(n, TypeProto()) for n in proto.output if n],
        [numpy_helper.from_array(np.asarray(x, order="C"), n) for n, x in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", work.opset)], ir_version=10)
    try:
        found = dict(zip([n for n in proto.output if n], run(model, {}, [n for n in proto.output if n]), strict=True))
    except RuntimeError:
        return None
    return [found.get(n, np.zeros(0)) for n in proto.output]
