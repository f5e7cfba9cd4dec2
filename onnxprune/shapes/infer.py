"""One pass in topological order: type, shape and static value of every tensor, bodies of control flow included.

Standard operators are inferred by ONNX's own per-node inference, which is given the static values; operators it does not
know (`com.microsoft` and others) by asking ONNX Runtime for the output shapes of a model of that one node. A dimension that
depends on data (NonZero) gets a size of its own, like a symbolic one.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.io.constants import constant_array
from onnxprune.io.surgeon import source_proto
from onnxprune.shapes import evaluate
from onnxprune.trace.value import Value

_INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8}
_LIKE_FIRST_INPUT = {"MeanVarianceNormalization"}  # its schema infers a type but no shape
_MADE = {"ConstantOfShape", "Expand"}  # constants of any length: they get labels, and their length follows
_LISTED = ("value_int", "value_ints", "value_float", "value_floats")
_PRIMES = [n for n in range(3, 200) if all(n % k for k in range(2, n))]
Scope = MutableMapping[str, Value]


@dataclass
class Inferred:
    """Result of `infer`.

    Attributes:
        scopes: values by tensor name, for the main graph and each body by `id(graph)`; inner scopes see outer ones.
        errors: one line for each node whose outputs could not be inferred.
        origins: constant element behind an origin id: (tensor name, flat index).
    """

    scopes: dict[int, Scope] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    origins: list[tuple[str, int]] = field(default_factory=list)


def element_type(t: gs.Tensor) -> int:
    """`TensorProto.DataType` of a tensor, 0 where graphsurgeon knows none."""
    dtype = t.dtype
    if dtype is None:
        return 0
    return int(dtype) if isinstance(dtype, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def constant_of(node: gs.Node) -> gs.Constant | None:
    """The tensor in a Constant node, where it is one."""
    value = node.attrs.get("value") if node.op == "Constant" else None
    return value if isinstance(value, gs.Constant) else None


def infer(graph: gs.Graph, shapes: Mapping[str, Sequence[int]]) -> Inferred:
    """Shapes and static values of the whole graph.

    Args:
        graph: topologically sorted, model-local functions inlined.
        shapes: concrete shape of every input that is fed.
    """
    result = Inferred()
    scope: Scope = {}
    for t in graph.inputs:
        if isinstance(t, gs.Constant):
            continue
        dtype = element_type(t) if t.type == "tensor_type" else 0
        known = shapes.get(t.name) if dtype else None
        scope[t.name] = Value(t.name, dtype, None if known is None else tuple(known))
    symbols: dict[str, int] = {}
    for t in graph.inputs:
        declared = zip(t.shape or (), shapes.get(t.name, ()), strict=False)
        symbols |= {dim: size for dim, size in declared if isinstance(dim, str)}
    _Pass(graph.opset, graph.import_domains, result, symbols=symbols).run(graph, scope)
    return result


def mark_varying(inferred: Inferred, other: Inferred) -> None:
    """Marks static values that are not the same at other sizes (`Value.varies`).

    Args:
        inferred: of a graph.
        other: of the same graph at other sizes.
    """
    for key, scope in inferred.scopes.items():
        elsewhere = other.scopes.get(key, {})
        for name, value in scope.items():
            if value.static is None:
                continue
            there = elsewhere[name].static if name in elsewhere else None
            if there is None or there.shape != value.static.shape:
                value.varies = np.ones(value.static.shape, np.bool_)
            elif not np.array_equal(there, value.static):
                value.varies = np.asarray(there != value.static)


@dataclass
class _Pass:
    opset: int
    imports: Any
    result: Inferred
    sizes: Iterator[int] = field(default_factory=lambda: cycle(_PRIMES))
    hints: dict[str, NDArray[Any]] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    constants: dict[int, Value] = field(default_factory=dict)

    def run(self, graph: gs.Graph, scope: Scope) -> None:
        """Infers a graph into its scope."""
        self.result.scopes[id(graph)] = scope
        for name, t in graph.tensors().items():
            if isinstance(t, gs.Constant) and name not in scope:
                # bodies that capture one weight share what is known of it, also where no outer node reads it
                if id(t) not in self.constants:
                    self.constants[id(t)] = self.constant(name, t)
                scope[name] = self.constants[id(t)]
        for node in graph.nodes:
            self.node(node, scope)

    def constant(self, name: str, t: gs.Constant) -> Value:
        """A constant tensor; integers and scalars are static."""
        dtype, shape = element_type(t), tuple(int(d) for d in t.shape)
        value = Value(name, dtype, shape, constant=True)
        size = int(np.prod(shape, dtype=np.int64))
        if size <= 64 and dtype not in _INTEGERS:
            self.hints[name] = np.asarray(constant_array(t))
        if (dtype in _INTEGERS and size <= evaluate.ELEMENTS) or size == 1:
            self.keep_static(value, np.asarray(constant_array(t)))
            if dtype in _INTEGERS and size <= 1024:
                value.origin = self.new_origins(name, size).reshape(shape)
        return value

    def new_origins(self, name: str, size: int) -> NDArray[np.int64]:
        """Origin ids for the elements of a constant."""
        start = len(self.result.origins)
        self.result.origins.extend((name, k) for k in range(size))
        return np.arange(start, start + size)

    @staticmethod
    def keep_static(value: Value, array: NDArray[Any]) -> None:
        """Notes a static value."""
        value.static = array
        value.origin = np.full(array.shape, -1, np.int64)

    def node(self, node: gs.Node, scope: Scope) -> None:
        """Infers the outputs of one node into the scope."""
        weight = constant_of(node)
        if weight is not None:
            scope[node.outputs[0].name] = self.constant(node.outputs[0].name, weight)
            return
        listed = next((node.attrs[k] for k in _LISTED if k in node.attrs), None) if node.op == "Constant" else None
        if listed is not None:
            integer = "value_int" in node.attrs or "value_ints" in node.attrs
            array = np.asarray(listed, np.int64 if integer else np.float32)
            dtype = TensorProto.INT64 if integer else TensorProto.FLOAT
            value = Value(node.outputs[0].name, dtype, array.shape, constant=True)
            self.keep_static(value, array)
            if integer:
                value.origin = self.new_origins(value.name, array.size).reshape(array.shape)
            scope[value.name] = value
            return
        ins = [scope.get(t.name) if t.name else None for t in node.inputs]
        bodies = {k: g for k, g in node.attrs.items() if isinstance(g, gs.Graph)}
        outs = self.control(node, bodies, ins, scope) if bodies else self.plain(node, ins)
        constant = not bodies and bool(ins) and all(v is None or v.constant or v.static is not None for v in ins)
        for t, value in zip(node.outputs, outs, strict=False):
            value.constant = constant and node.op not in evaluate.RANDOM
            if t.name:
                scope[t.name] = value

    def plain(self, node: gs.Node, ins: Sequence[Value | None]) -> list[Value]:
        """A node without bodies."""
        proto = source_proto(node) or onnx.NodeProto()
        outs = self.types(node, proto, ins)
        values = evaluate.evaluate(
            proto, self.opset, [v.static if v else None for v in ins], [v.shape if v else None for v in ins]
        )
        if values is None:
            return outs
        origins = evaluate.move_origins(
            proto, self.opset, [v.static if v else None for v in ins], [v.origin if v else None for v in ins], values
        )
        for out, value, origin in zip(outs, values, origins, strict=False):
            out.shape = value.shape
            integer = np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_
            few = 1 if node.op in _MADE else 64
            if value.size <= (evaluate.ELEMENTS if integer else few):
                out.static, out.origin = value, origin
        return outs

    def types(self, node: gs.Node, proto: onnx.NodeProto, ins: Sequence[Value | None]) -> list[Value]:
        """Types and shapes of the outputs."""
        blank = [Value(t.name, 0, None) for t in node.outputs]
        if any(v is not None and v.dtype == 0 for v in ins) or any(
            v is None and n for v, n in zip(ins, proto.input, strict=False)
        ):
            return blank
        if any(v is not None and v.shape is None for v in ins):
            return blank
        known = [v for v in ins if v is not None]
        data = {v.name: v.static for v in known if v.static is not None and v.static.size <= 4096}
        data |= {v.name: self.hints[v.name] for v in known if v.name in self.hints}
        domain = proto.domain if proto.domain != "ai.onnx" else ""
        types: Mapping[str, onnx.TypeProto] = {}
        version = next((i.version for i in self.imports if i.domain in (domain, domain or "ai.onnx")), self.opset)
        try:
            schema = onnx.defs.get_schema(proto.op_type, version, domain)
            types = onnx.shape_inference.infer_node_outputs(
                schema,
                proto,
                {v.name: helper.make_tensor_type_proto(v.dtype, v.shape) for v in known},
                {name: numpy_helper.from_array(value, name) for name, value in data.items()},
                opset_imports=self.imports,
            )
        except Exception as error:  # no schema, or the node contradicts its inputs
            self.result.errors.append(f"{proto.op_type} node {proto.name!r}: {str(error).strip().splitlines()[-1]}")
        if proto.op_type in _LIKE_FIRST_INPUT:
            types = {proto.output[0]: helper.make_tensor_type_proto(known[0].dtype, known[0].shape)}
        if not types or any(
            n and n in types and types[n].HasField("tensor_type") and not types[n].tensor_type.HasField("shape")
            for n in proto.output
        ):
            types = _ask_runtime(proto, domain, self.imports, known, data) or types
        if (
            types
            and self.result.errors
            and domain
            and self.result.errors[-1].startswith(f"{proto.op_type} node {proto.name!r}")
        ):
            self.result.errors.pop()
        return [self.value(t, types.get(t.name)) for t in node.outputs]

    def value(self, t: gs.Tensor, proto: onnx.TypeProto | None) -> Value:
        """A value of an inferred type, else of the declared one; unknown dimensions get sizes of their own."""
        name = t.name
        if proto is None and name and isinstance(t, gs.Variable) and t.shape is not None and t.type == "tensor_type":
            shape = tuple(d if isinstance(d, int) else self.symbols.get(d, 0) for d in t.shape)
            return Value(name, element_type(t), shape if all(d > 0 for d in shape) else None)
        if proto is None or not proto.HasField("tensor_type"):
            return Value(name, 0, None)
        tensor = proto.tensor_type
        if not tensor.HasField("shape"):
            return Value(name, tensor.elem_type, None)
        shape = tuple(d.dim_value if d.HasField("dim_value") else next(self.sizes) for d in tensor.shape.dim)
        return Value(name, tensor.elem_type, shape)

    def control(
        self, node: gs.Node, bodies: Mapping[str, gs.Graph], ins: Sequence[Value | None], scope: Scope
    ) -> list[Value]:
        """If, Loop and Scan; the bodies of anything else stay unknown."""
        blank = [Value(t.name, 0, None) for t in node.outputs]
        inner = {k: ChainMap[str, Value]({}, scope) for k in bodies}
        for key, body in bodies.items():
            for t, value in zip(body.inputs, self.body_inputs(node, ins, len(body.inputs)), strict=False):
                inner[key][t.name] = Value(t.name, value.dtype, value.shape)
            self.run(body, inner[key])
        results = {k: [inner[k].get(t.name) for t in body.outputs] for k, body in bodies.items()}
        if node.op == "If":
            return [
                _common(t.name, a, b)
                for t, a, b in zip(node.outputs, results["then_branch"], results["else_branch"], strict=True)
            ]
        if node.op not in ("Loop", "Scan"):
            return blank
        skip = 1 if node.op == "Loop" else 0
        states = len(node.inputs) - 2 if node.op == "Loop" else len(node.inputs) - int(node.attrs["num_scan_inputs"])
        carried = ins[2:] if node.op == "Loop" else ins[:states]
        length = next(self.sizes)
        scanned = ins[states] if node.op == "Scan" and len(ins) > states else None
        if scanned is not None and scanned.shape:
            length = scanned.shape[_scan_axis(node, "scan_input_axes", 0, len(scanned.shape))]
        outs = []
        for k, (t, made) in enumerate(zip(node.outputs, results["body"][skip:], strict=False)):
            if k < states:
                outs.append(_common(t.name, carried[k], made))
            elif made is None or made.shape is None:
                outs.append(Value(t.name, 0, None))
            else:
                shape = list(made.shape)
                shape.insert(_scan_axis(node, "scan_output_axes", k - states, len(shape) + 1), length)
                outs.append(Value(t.name, made.dtype, tuple(shape)))
        return outs

    @staticmethod
    def body_inputs(node: gs.Node, ins: Sequence[Value | None], wanted: int) -> list[Value]:
        """What the body of a Loop or Scan is given."""
        unknown = Value("", 0, None)
        if node.op == "Loop":
            first = [Value("", TensorProto.INT64, ()), Value("", TensorProto.BOOL, ())]
            return first + [v or unknown for v in ins[2:]]
        if node.op == "Scan":
            states = len(ins) - int(node.attrs["num_scan_inputs"])
            values = [v or unknown for v in ins[:states]]
            for k, v in enumerate(ins[states:]):
                if v is None or v.shape is None:
                    values.append(unknown)
                    continue
                shape = list(v.shape)
                del shape[_scan_axis(node, "scan_input_axes", k, len(shape))]
                values.append(Value("", v.dtype, tuple(shape)))
            return values
        return [unknown] * wanted


def _scan_axis(node: gs.Node, attribute: str, position: int, rank: int) -> int:
    axes = node.attrs.get(attribute) or []
    return int(axes[position]) % rank if position < len(axes) else 0


def _common(name: str, a: Value | None, b: Value | None) -> Value:
    """The type of a value that is `a` or `b`."""
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return Value(name, a.dtype if a else 0, None)
    return Value(name, a.dtype, a.shape)


def _ask_runtime(
    proto: onnx.NodeProto, domain: str, imports: Any, known: Sequence[Value], data: Mapping[str, NDArray[Any]]
) -> dict[str, onnx.TypeProto] | None:
    """Output types of one node as ONNX Runtime infers them when it loads a model of that node."""
    import onnxruntime as ort

    from onnxprune.proof.session import dtype_of

    fed = {v.name: v for v in known if v.name not in data}
    graph = helper.make_graph(
        [proto],
        "one",
        [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in fed.values()],
        [helper.make_value_info(n, onnx.TypeProto()) for n in proto.output if n],
        [numpy_helper.from_array(value, name) for name, value in data.items()],
    )
    opsets = list(imports) if any(i.domain == domain for i in imports) else [*imports, helper.make_opsetid(domain, 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = helper.make_model(graph, opset_imports=opsets, ir_version=min(onnx.IR_VERSION, 11))
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # it does not know the operator either
        return None
    types = {}
    for out in session.get_outputs():
        if out.type.startswith("tensor(") and out.shape:  # an empty list says unknown as well as scalar
            types[out.name] = helper.make_tensor_type_proto(dtype_of(out.type), out.shape)
    return types
