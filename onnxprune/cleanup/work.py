"""A model on its way, and the verbs with which passes read and change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxprune.cleanup.registry import Declined
from onnxprune.cleanup.symbols import Symbols

Array: TypeAlias = NDArray[Any]
Dim: TypeAlias = int | str | None
Attribute: TypeAlias = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | ir.TensorProtocol | ir.Graph
_UNIFORM = 1024  # bytes; larger constants of one repeated number are made by ConstantOfShape
MARK = "/~"  # between the name of a value and the number of one that took its place
DECLARED = "onnxprune.declared"  # type and shape that the source declares for a value


@dataclass
class Options:
    """What a simplification may do.

    Attributes:
        size_threshold: bytes by which the file may grow for one constant that takes the place of nodes.
        keep_defaults: a caller may feed inputs that have an initializer, so they are no constants.
        may_grow: the threshold is the user's, who allows the whole file to grow by it for each constant.
    """

    size_threshold: int = 1 << 16
    keep_defaults: bool = False
    may_grow: bool = False


@dataclass
class Work:
    """A model that is being simplified.

    Constants of the main graph and its bodies are initializers of the main graph, also those of Constant nodes. In functions
    they are Constant nodes.

    Attributes:
        model: the model; passes change it in place, by the verbs below.
        options: what may be done.
        root: graph or function that the present node lies in, at any depth.
        names: of all values; a name is never used for two of them.
        symbols: integers that follow from shapes, as of the start of the round.
        declined: why the present pass left a node alone that it was made for, by the name of the node.
    """

    model: ir.Model
    options: Options = field(default_factory=Options)
    root: ir.Graph | ir.Function | None = None
    names: set[str] = field(default_factory=set)
    symbols: Symbols = field(default_factory=lambda: Symbols())
    declined: dict[str, str] = field(default_factory=dict)
    _counter: int = 0

    def __post_init__(self) -> None:
        self.root = self.model.graph
        self.names |= {name for value in all_values(self.model) if (name := value.name)}

    def decline(self, node: ir.Node, reason: object) -> None:
        """Notes why the present pass leaves a node alone."""
        self.declined[node.name or str(node.outputs[0].name)] = f"{node.op_type}: {reason}"

    # ---- reading ----

    @property
    def opset(self) -> int:
        """Version of the ONNX domain that the model imports."""
        return int(self.model.opset_imports.get("", 0) or self.model.opset_imports.get("ai.onnx", 0))

    def nodes(self, ops: Sequence[str] = ()) -> Iterator[ir.Node]:
        """Nodes of all graphs and functions, outer before inner; those that are removed meanwhile are left out."""
        wanted = set(ops)
        for root in roots(self.model):
            found = [n for n in ir.traversal.RecursiveGraphIterator(root) if not wanted or full_name(n) in wanted]
            for node in found:
                if node.graph is not None:
                    self.root = root
                    yield node

    def producer(self, value: ir.Value | None, *ops: str) -> ir.Node | None:
        """The node that makes a value, where its operator is one of `ops` (any where none is given)."""
        node = None if value is None else value.producer()
        return node if node is not None and (not ops or full_name(node) in ops) else None

    def reader(self, value: ir.Value, *ops: str) -> ir.Node | None:
        """The one node that reads a value, once, where nobody else sees it and its operator is one of `ops`."""
        if not self.private(value):
            return None
        (usage,) = value.uses()
        return usage.node if not ops or full_name(usage.node) in ops else None

    def private(self, value: ir.Value) -> bool:
        """Exactly one input of one node reads the value, and it is no output: it may change with its reader."""
        return len(value.uses()) == 1 and not value.is_graph_output()

    def is_constant(self, value: ir.Value | None) -> bool:
        """The value is the same in every run: not an input that a caller may feed."""
        if value is None or value.is_graph_input():
            return False
        return value.const_value is not None or self._fill(value) is not None

    def constant(self, value: ir.Value | None, limit: int | None = None) -> Array | None:
        """The constant in a value, `None` where it is none or holds more than `limit` bytes. Not to be written to.

        A ConstantOfShape of a constant shape is a constant too: a view of one element, of any size, without memory.
        Types that numpy lacks (bfloat16, float8, int4) come as those of `ml_dtypes`.
        """
        if value is None or value.is_graph_input():
            return None
        held = value.const_value
        if held is None:
            return self._fill(value)
        if limit is not None and held.nbytes > limit:
            return None
        if held.dtype == ir.DataType.STRING:
            return np.array(held.numpy(), dtype=object)
        return np.asarray(held.numpy())

    def scalar(self, value: ir.Value | None) -> float | int | bool | None:
        """The number in a constant of one repeated number (of any shape); None where it is none."""
        array = self.constant(value, limit=1 << 20)
        if array is None or array.size == 0 or array.dtype == object:
            return None
        first = array.reshape(-1)[0] if array.size == 1 else array.flat[0]
        if array.size > 1 and not (all(s == 0 for s in array.strides) or bool((array == first).all())):
            return None
        number = first.item() if array.dtype.kind in "fiub" else float(first)
        return number if isinstance(number, float | int | bool) else None

    def shape(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The shape as far as it is known: numbers, names of dimensions, None for unknown ones."""
        if value is None:
            return None
        if value.const_value is not None:
            return sizes(value.const_value)
        if value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else d.value for d in value.shape)

    def static_shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The shape where all of it is known as numbers."""
        shape = self.shape(value)
        if shape is None:
            return None
        known = tuple(d for d in shape if isinstance(d, int))
        return known if len(known) == len(shape) else None

    def rank(self, value: ir.Value | None) -> int | None:
        """Number of axes, where it is known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Element type, where it is known and the value is a tensor."""
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.dtype
        return value.dtype if isinstance(value.type, ir.TensorType) else None

    def attribute(self, node: ir.Node, name: str, default: Any = None) -> Any:
        """The value of an attribute: int, float, str, tuples of these, tensor or graph. `default` where it is not there.

        Raises:
            Declined: it refers to an attribute of the function, so it differs from call to call.
        """
        held = node.attributes.get(name)
        if held is None:
            return default
        if held.is_ref():
            raise Declined(f"attribute {name!r} is given by the caller of the function; inline it")
        value = held.value
        return tuple(value) if isinstance(value, list | tuple) else value

    def input(self, node: ir.Node, index: int) -> ir.Value | None:
        """Input `index`; None where it is omitted."""
        return node.inputs[index] if index < len(node.inputs) else None

    # ---- changing ----

    def weight(self, array: Array, like: ir.Value, replaces: Sequence[ir.Value | None] = (), saved: int = 0) -> ir.Value:
        """A new constant.

        Large ones of one repeated number are made by a ConstantOfShape, so that they take no space in the file.

        Args:
            array: its elements, of a numpy or ml_dtypes type.
            like: value whose name it takes, with a suffix; in a function, the constant is made before its readers.
            replaces: values that nobody reads any more once the rewrite is done, as far as they are private.
            saved: bytes by which the file shrinks elsewhere.

        Raises:
            Declined: the file would grow by more than the threshold.
        """
        if array.dtype != object and array.nbytes > _UNIFORM and array.size and _uniform(array):
            return self._made(array, like)
        freed = sum(_stored(v) for v in replaces if v is not None and self.private(v))
        grows = array.nbytes - freed - saved
        if grows > self.options.size_threshold:
            raise Declined(f"the file would grow by {grows} bytes; --size-threshold {grows} allows it")
        if array.dtype == object:
            return self.keep(
                ir.StringTensor([x.encode() if isinstance(x, str) else x for x in array.flat], shape=ir.Shape(array.shape)),
                like,
            )
        return self.keep(ir.tensor(np.ascontiguousarray(array).reshape(array.shape)), like)

    def emit(
        self,
        before: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        like: ir.Value | None = None,
        shape: Sequence[Dim] | None = None,
        dtype: ir.DataType | None = None,
        outputs: int = 1,
        domain: str = "",
        name: str | None = None,
    ) -> ir.Node:
        """A new node right before another one.

        Args:
            before: a node that stays until after it.
            op: operator.
            inputs: trailing ones that are None are left out.
            attributes: by name; None is no value.
            like: value that names the output (with a suffix) and gives type and shape unless these are given.
            shape: of the output.
            dtype: of the output.
            outputs: how many.
            domain: of the operator.
            name: of the node.
        """
        kept = list(inputs)
        while kept and kept[-1] is None:
            kept.pop()
        given = [ir.convenience.convert_attribute(k, v) for k, v in (attributes or {}).items()]
        node = ir.Node(domain, op, kept, given, num_outputs=outputs, name=name)
        template = like if like is not None else before.outputs[0]
        for out in node.outputs:
            out.name = self.fresh(template.name or op.lower())
            out.type = ir.TensorType(dtype) if dtype is not None else template.type if like is not None else None
            found = ir.Shape(shape) if shape is not None else template.shape if like is not None else None
            out.shape = found
        graph = before.graph
        assert graph is not None
        graph.insert_before(before, node)
        return node

    def replace(
        self,
        node: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
    ) -> ir.Node:
        """Puts one node in the place of another: its outputs take over name, type, shape and readers."""
        new = self.emit(node, op, inputs, attributes, outputs=len(node.outputs), domain=domain, name=node.name)
        new.doc_string = node.doc_string
        new.metadata_props.update(node.metadata_props)
        for old, made in zip(node.outputs, new.outputs, strict=True):
            made.type, made.shape = old.type, old.shape
            self.substitute(old, made)
            if made.name != (name := old.name) and not made.is_graph_output():
                old.name, made.name = made.name, name
            if DECLARED in old.meta:
                made.meta[DECLARED] = old.meta[DECLARED]
        self.remove(node)
        return new

    def substitute(self, old: ir.Value, new: ir.Value) -> None:
        """All that reads `old` reads `new`; an output of a graph keeps its name.

        Where `old` is an output and `new` can't take its name (an input, a constant, another output, a value of another
        graph), the outputs's producer becomes an Identity.
        """
        if new is old:
            return
        _keep_known(new, old)
        if not old.is_graph_output():
            ir.convenience.replace_all_uses_with(old, new)
            return
        graph = old.graph
        assert graph is not None
        node = new.producer()
        if node is not None and node.graph is graph and not new.is_graph_output() and not new.is_graph_input():
            name = old.name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            old.name = self.fresh(name or "value")
            new.name = name
            return
        producer = old.producer()
        for usage in list(old.uses()):
            usage.node.replace_input_with(usage.idx, new)
        if producer is None or (full_name(producer) == "Identity" and producer.inputs[0] is new):
            return
        stand_in = ir.Node("", "Identity", [new], num_outputs=1)
        graph.insert_before(producer, stand_in) if new.producer() is None else graph.insert_after(producer, stand_in)
        made, name = stand_in.outputs[0], old.name
        made.type, made.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
        old.name = self.fresh(name or "value")
        made.name = name

    def rename_twice_named(self) -> None:
        """Gives values that share a name, after an engine of others worked on the model, names of their own."""
        seen: set[str] = set()
        for value in all_values(self.model):
            name = value.name
            if not name:
                continue
            if name in seen and not (value.is_graph_input() or value.is_graph_output()):
                value.name = self.fresh(name)
            seen.add(name)
        self.names |= seen

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Lets a node read another value; inputs in between are omitted ones."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def set_attribute(self, node: ir.Node, name: str, value: Attribute | None) -> None:
        """Gives an attribute a new value; None removes it."""
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def remove(self, node: ir.Node) -> None:
        """Takes out a node whose outputs nobody reads."""
        graph = node.graph
        assert graph is not None
        graph.remove(node, safe=True)

    def fresh(self, name: str) -> str:
        """A name that nothing in the model has."""
        stem = name.split(MARK)[0]
        while True:
            self._counter += 1
            found = f"{stem}{MARK}{self._counter}"
            if found not in self.names:
                self.names.add(found)
                return found

    # ---- constants ----

    def _fill(self, value: ir.Value) -> Array | None:
        """The constant that a ConstantOfShape makes, as a view of one element."""
        node = value.producer()
        if node is None or full_name(node) != "ConstantOfShape" or node.inputs[0] is None:
            return None
        shape = node.inputs[0].const_value
        if shape is None or node.inputs[0].is_graph_input():
            return None
        held = node.attributes.get("value")
        if held is not None and held.is_ref():
            return None
        one = np.zeros(1, np.float32) if held is None else np.asarray(held.value.numpy())
        return np.broadcast_to(one.reshape(()), tuple(int(d) for d in shape.numpy()))

    def _made(self, array: Array, like: ir.Value) -> ir.Value:
        dims = self.keep(ir.tensor(np.array(array.shape, np.int64)), like)
        one = ir.tensor(np.array([array.flat[0]], array.dtype))
        node = ir.Node("", "ConstantOfShape", [dims], [ir.AttrTensor("value", one)], num_outputs=1)
        out = node.outputs[0]
        out.name = self.fresh(like.name or "constant")
        out.type, out.shape = ir.TensorType(one.dtype), ir.Shape(array.shape)
        self._first(node, dims.producer())
        return out

    def keep(self, tensor: Any, like: ir.Value) -> ir.Value:
        """A new constant of a tensor, whatever its size."""
        name = self.fresh(like.name or "constant")
        tensor.name = name
        if isinstance(self.root, ir.Function):
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1)
            value = node.outputs[0]
            value.name, value.const_value = name, tensor
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape)
            self._first(node)
            return value
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def _first(self, node: ir.Node, after: ir.Node | None = None) -> None:
        """Puts a node at the start of the root, where all readers come later."""
        root = self.root or self.model.graph
        if after is not None:
            root.insert_after(after, node)
        elif len(root):
            root.insert_before(root[0], node)
        else:
            root.append(node)


def full_name(node: ir.Node) -> str:
    """`Conv`, or `com.microsoft::Gelu` where the operator is not of the ONNX domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a tensor."""
    return tuple(d for d in tensor.shape if isinstance(d, int))


def roots(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The main graph, then the functions."""
    return [model.graph, *model.functions.values()]


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value: inputs, initializers and outputs of nodes, of all graphs and functions."""
    for root in roots(model):
        yield from root.inputs
        for graph in (root if isinstance(root, ir.Graph) else root.graph, *root.subgraphs()):
            yield from graph.initializers.values()
            yield from graph.inputs
        for node in ir.traversal.RecursiveGraphIterator(root):
            yield from node.outputs


def _keep_known(new: ir.Value, old: ir.Value) -> None:
    """What is known of the old value's type and shape holds for the new one."""
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape


def _stored(value: ir.Value) -> int:
    """Bytes that a constant takes in the file."""
    return 0 if value.const_value is None else int(value.const_value.nbytes)


def _uniform(array: Array) -> bool:
    if all(s == 0 for s in array.strides):
        return True
    first = array.flat[0]
    return bool(array.flat[array.size - 1] == first and (array == first).all())
