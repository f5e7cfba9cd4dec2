"""Constants where passes find them, and what is computed from constants alone."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import Array, full_name
from onnxprune.cleanup.registry import Declined, model_pass
from onnxprune.cleanup.work import Work
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
    3. The file does not grow by more than the threshold for one constant. Constants that only folded ones are made of count
       as gone, once. What is computed on the way does not count, nor what a ConstantOfShape can make.
    4. An output of a graph is made by a Constant, as it has to be made by a node.
    """
    region = {id(n): n for n in _computable(work)}
    chosen = _choose(work, region)
    arrays = _Arrays(work, region, [node for node, _ in chosen])
    count = 0
    for node, room in chosen:
        try:
            count += _fold(work, node, arrays, room=room)
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


def _choose(work: Work, region: dict[int, ir.Node]) -> list[tuple[ir.Node, bool]]:
    """Nodes whose results are kept, in order: the last ones that the file has room for, and whether that is known.

    It is not where no shape is, or where what is made of single numbers may be a single number again.
    """
    left = {
        id(v): v.const_value.nbytes
        for n in region.values()
        for v in n.inputs
        if v is not None and v.const_value is not None and all(id(u.node) in region for u in v.uses())
    }
    chosen: list[tuple[ir.Node, bool]] = []
    refused: set[int] = set()
    for key, node in reversed(region.items()):
        readers = [u.node for o in node.outputs for u in o.uses()]
        kept = any(id(r) not in region or id(r) in refused for r in readers)
        if not kept and not any(o.is_graph_output() for o in node.outputs):
            continue  # on the way to others
        grows = sum(_size(work, o) for o in node.outputs if o.uses() or o.is_graph_output())
        leaves = _leaves(node, region) if grows > work.options.size_threshold else set()
        large = grows - sum(left.get(leaf, 0) for leaf in leaves)
        fits = large <= work.options.size_threshold
        if not fits and not all(_uniform(work, v) for v in node.inputs if v is not None):
            refused.add(key)
            work.decline(node, f"the file would grow by {large} bytes; --size-threshold {large} allows it")
            continue
        _spend(left, leaves, grows)
        chosen.append((node, fits and grows > 0))
    return chosen[::-1]


def _leaves(node: ir.Node, region: dict[int, ir.Node]) -> set[int]:
    """Constants that a node is made of, by `id`."""
    found: set[int] = set()
    seen: set[int] = set()
    queue = [node]
    while queue:
        at = queue.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        for value in at.inputs:
            maker = None if value is None else value.producer()
            if maker is not None and id(maker) in region:
                queue.append(maker)
            elif value is not None:
                found.add(id(value))
    return found


def _spend(left: dict[int, int], leaves: set[int], size: int) -> None:
    for leaf in leaves:
        taken = min(size, left.get(leaf, 0))
        if taken:
            left[leaf] -= taken
            size -= taken


class _Arrays:
    """Values of a region, computed when they are asked for and kept as long as somebody needs them."""

    def __init__(self, work: Work, region: dict[int, ir.Node], chosen: list[ir.Node]) -> None:
        self.work, self.region = work, region
        self.held: dict[int, Array] = {}
        self.waiting: dict[int, int] = {}
        queue, seen = list(chosen), set()
        while queue:
            node = queue.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            for value in node.inputs:
                if value is not None and (maker := value.producer()) is not None and id(maker) in region:
                    self.waiting[id(value)] = self.waiting.get(id(value), 0) + 1
                    queue.append(maker)

    def of(self, node: ir.Node) -> list[Array]:
        """Outputs of a node.

        Raises:
            Declined: it can't be computed.
        """
        order: list[ir.Node] = []
        stack = [node]
        while stack:  # a chain may be longer than Python's stack
            at = stack[-1]
            missing = [
                maker
                for v in at.inputs
                if v is not None
                and id(v) not in self.held
                and (maker := v.producer()) is not None
                and id(maker) in self.region
            ]
            if missing:
                stack += missing
            else:
                order.append(stack.pop())
                if at is not node and id(at.outputs[0]) not in self.held:
                    self.held |= {id(o): x for o, x in zip(at.outputs, self._compute(at), strict=False)}
        return self._compute(node)

    def _compute(self, node: ir.Node) -> list[Array]:
        if id(node.outputs[0]) in self.held:
            return [self.held.get(id(o), np.zeros(0)) for o in node.outputs]
        inputs = [None if v is None else self.held.get(id(v)) for v in node.inputs]
        inputs = [
            self.work.constant(v) if x is None and v is not None else x for x, v in zip(inputs, node.inputs, strict=True)
        ]
        values = _computed(self.work, node, inputs)
        if values is None:
            raise Declined("neither the ONNX reference nor ONNX Runtime computes it")
        for value in node.inputs:
            if value is not None and id(value) in self.waiting:
                self.waiting[id(value)] -= 1
                if not self.waiting[id(value)]:
                    self.held.pop(id(value), None)
        return values


def _fold(work: Work, node: ir.Node, arrays: _Arrays, *, room: bool) -> bool:
    """Puts the results of a node in its place; `room`: the file is known to have room for them."""
    values = arrays.of(node)
    for out, array in zip(list(node.outputs), values, strict=False):
        if out.is_graph_output():
            made_of = ir.tensor(np.asarray(array, order="C"), name=out.name)
            work.replace(node, "Constant", [], {"value": made_of}).outputs[0].const_value = made_of
            return True
        if out.uses():
            work.substitute(out, work.weight(array, out, saved=array.nbytes if room else 0))
    return True


def _size(work: Work, value: ir.Value) -> int:
    """Bytes of a value, 0 where they are not known."""
    shape, dtype = work.static_shape(value), work.dtype(value)
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        return 0
    return int(math.prod(shape) * dtype.itemsize)


def _uniform(work: Work, value: ir.Value) -> bool:
    """A constant of one number, so what pointwise operators make of it is one too."""
    return work.constant(value, limit=64) is not None


def _computed(work: Work, node: ir.Node, inputs: list[Array | None]) -> list[Array] | None:
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
