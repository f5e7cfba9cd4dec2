"""What passes read of a model on its way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxprune.cleanup.registry import Declined

Array: TypeAlias = NDArray[Any]
Dim: TypeAlias = int | str | None


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
class Reading:
    """A model, and what passes ask it.

    Attributes:
        model: the model.
        options: what may be done.
        root: graph or function that the present node lies in, at any depth.
    """

    model: ir.Model
    options: Options = field(default_factory=Options)
    root: ir.Graph | ir.Function | None = None

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
