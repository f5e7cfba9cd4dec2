"""Products of matrices: rows instead of stacks of rows, and Gemm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune.cleanup.reading import Dim, full_name
from onnxprune.cleanup.registry import Declined, model_pass, node_pass
from onnxprune.cleanup.rows import RESHAPES, Form, reshapes_rows, row_nodes
from onnxprune.cleanup.work import Work

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@model_pass("rows", phase="normalize")
def rows(work: Work) -> int:
    """f(x) = reshape(f(reshape(x, [-1, C]))) for an f that treats every row of C alike.

    MatMul and Add are one Gemm on matrices, so parts of the graph that hold them are computed there, if that is fewer nodes
    with the Reshapes around them (`cleanup/rows.py`).

    1. f: products with one matrix, pointwise functions; normalizations, Softmax, Concat and Split along the last axis.
    2. Constants in pointwise functions are numbers, differ by column, or by element.
    3. The way back is a Reshape to a constant: at most one dimension of the result is not known.
    """
    count = 0
    for graph in (work.model.graph, *work.model.graph.subgraphs()):
        chosen = row_nodes(work, graph) if work.opset >= 13 else {}
        if chosen:
            _Rewrite(work, chosen).run()
            count += len(chosen)
    return count


class _Rewrite:
    """Writes nodes anew, on rows."""

    def __init__(self, work: Work, chosen: dict[ir.Node, Form]) -> None:
        self.work = work
        self.chosen = chosen
        self.made: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        for node in list(self.chosen):
            self._node(node, self.chosen[node])
        for old, new in list(self.made.items()):
            if old.producer() in self.chosen:
                self._readers(old, new)

    def _node(self, node: ir.Node, form: Form) -> None:
        work, op = self.work, full_name(node)
        inputs = [self._input(node, k, form) for k in range(len(node.inputs))]
        made = work.emit(node, op, inputs, None, outputs=len(node.outputs), like=node.outputs[0])
        made.attributes.update(node.attributes)
        made.metadata_props.update(node.metadata_props)
        made.doc_string = node.doc_string
        if "axis" in node.attributes or op == "Split":
            work.set_attribute(made, "axis", 1)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            shape = work.shape(old)
            assert shape is not None
            new.type, new.shape = old.type, ir.Shape(_rows(shape))
            self.made[old] = new

    def _input(self, node: ir.Node, index: int, form: Form) -> ir.Value | None:
        value = node.inputs[index]
        if value is None:
            return None
        if index not in form.data:
            return self._operand(value) if index or full_name(node) != "MatMul" else value
        if value not in self.made:
            self.made[value] = self._enter(node, value)
        return self.made[value]

    def _operand(self, value: ir.Value) -> ir.Value:
        """A constant, of two axes at most."""
        array = self.work.constant(value)
        if array is None or array.ndim < 3:
            return value
        return self.work.weight(array.reshape(-1, array.shape[-1]), value, [value])

    def _enter(self, before: ir.Node, value: ir.Value) -> ir.Value:
        """The value as rows, straight from what a Reshape reads."""
        shape = self.work.shape(value)
        assert shape is not None
        producer = self.work.producer(value, *RESHAPES)
        source = value if producer is None else producer.inputs[0]
        target = self.work.weight(np.array([-1, shape[-1]], np.int64), value)
        made = self.work.emit(before, "Reshape", [source, target], like=value, shape=_rows(shape))
        return made.outputs[0]

    def _readers(self, old: ir.Value, new: ir.Value) -> None:
        """Lets those that are not on rows read a Reshape."""
        work = self.work
        for usage in list(old.uses()):
            if usage.node not in self.chosen and reshapes_rows(work, usage.node, usage.idx):
                out = usage.node.outputs[0]
                work.substitute(out, self._back(usage.node, new, out))
        others = [u.node for u in old.uses() if u.node not in self.chosen]
        alive = [n for n in others if any(o.uses() or o.is_graph_output() for o in n.outputs)]
        node = old.producer()
        assert node is not None
        if alive or old.is_graph_output():
            work.substitute(old, self._back(node, new, old))

    def _back(self, before: ir.Node, new: ir.Value, like: ir.Value) -> ir.Value:
        shape = self.work.shape(like)
        assert shape is not None
        target = [n if isinstance(n, int) else -1 for n in shape]
        constant = self.work.weight(np.array(target, np.int64), like)
        return self.work.emit(before, "Reshape", [new, constant], like=like).outputs[0]


def _rows(shape: tuple[Dim, ...]) -> tuple[Dim, Dim]:
    count: Dim = 1
    for n in shape[:-1]:
        count = count * n if isinstance(count, int) and isinstance(n, int) else None
    return count, shape[-1]


@node_pass("gemm", phase="absorb", ops=("Add",))
def gemm(work: Work, node: ir.Node) -> bool:
    """A·B + C = Gemm(A, B, C).

    1. A and B are matrices, and nobody else reads A·B.
    2. C broadcasts to A·B, and not the other way round.
    3. Floats; Gemm broadcasts C since opset 7.
    """
    if work.opset < 7:
        return False
    for index in (0, 1):
        product = work.producer(node.inputs[index], "MatMul")
        if product is None or not all(work.rank(v) == 2 for v in product.inputs):
            continue
        if work.dtype(node.inputs[index]) not in _FLOATS:
            return False
        if not work.private(product.outputs[0]):
            raise Declined("others read the product")
        added, shape = node.inputs[1 - index], work.shape(product.outputs[0])
        if shape is None or not _broadcasts(work.shape(added), shape):
            raise Declined("what is added may be larger than the product")
        work.replace(node, "Gemm", [*product.inputs, added])
        return True
    return False


def _broadcasts(small: tuple[Dim, ...] | None, large: tuple[Dim, ...]) -> bool:
    if small is None or len(small) > 2:
        return False
    padded = (1,) * (2 - len(small)) + small
    return all(n == 1 or (n == m and n is not None) for n, m in zip(padded, large, strict=True))
