"""A model on its way, and the verbs with which passes change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import Array, Dim, Reading, all_values, full_name
from onnxprune.cleanup.registry import Declined
from onnxprune.cleanup.symbols import Symbols

Attribute: TypeAlias = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | ir.TensorProtocol | ir.Graph
_UNIFORM = 1024  # bytes; larger constants of one repeated number are made by ConstantOfShape
MARK = "/~"  # between the name of a value and the number of one that took its place
DECLARED = "onnxprune.declared"  # type and shape that the source declares for a value


@dataclass
class Work(Reading):
    """A model that is being simplified.

    Constants of the main graph and its bodies are initializers of the main graph, also those of Constant nodes. In functions
    they are Constant nodes.

    Attributes:
        model: the model; passes change it in place, by the verbs below, and read it by those of `Reading`.
        options: what may be done.
        root: graph or function that the present node lies in, at any depth.
        names: of all values; a name is never used for two of them.
        symbols: integers that follow from shapes, as of the start of the round.
        declined: why the present pass left a node alone that it was made for, by the name of the node.
    """

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
