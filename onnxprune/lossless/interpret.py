"""One reading of a graph: the content of every tensor, the sums where channels end, and what has to stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnxprune.groups.classes import Ids, Mask
from onnxprune.groups.group import Groups
from onnxprune.io.surgeon import source_proto
from onnxprune.lossless.content import SINGLE, Book, Content, constant
from onnxprune.lossless.sinks import Sink
from onnxprune.lossless.tensors import Array, Tensors
from onnxprune.shapes.evaluate import evaluate
from onnxprune.shapes.infer import constant_of
from onnxprune.trace.labels import Field, LabelSpace
from onnxprune.trace.op import Op
from onnxprune.trace.value import Value

_ELEMENTS = 1 << 20  # told apart in one tensor


_ENDS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "ReduceSum"}


class Unread(Exception):  # noqa: N818 - not an error: the node is taken as a whole
    """A rule does not know this form of its operator."""


@dataclass
class Reading:
    """What one pass over the nodes learns.

    A tensor whose operator has no rule is one slice with a basis of its own, and the labels that the operator reads have to
    stay, unless the channels are 0 before and after.

    Attributes:
        groups: analysis of the source.
        tensors: its constants.
        book: numbers of bases.
        contents: by tensor name.
        sinks: sums where channels end.
        dead: classes of slices that are 0 where an operator would need them otherwise.
        held: classes that stay -> those with which they can go all the same, none where nothing helps.
    """

    groups: Groups
    tensors: Tensors
    book: Book = field(default_factory=Book)
    contents: dict[str, Content] = field(default_factory=dict)
    sinks: list[Sink] = field(default_factory=list)
    held: dict[int, set[int]] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.useful: Mask = np.zeros(self.groups.classes.count, np.bool_)
        for group in self.groups.groups:
            if group.exact:
                for unit in (u for b in group.buckets for u in b):
                    self.useful[unit] = True

    # ---- walking ----

    def run(self) -> Reading:
        """Reads all nodes."""
        from onnxprune.lossless import channels, elementwise, moves  # noqa: F401 - they register rules

        graph = self.groups.trace.graph
        for node in graph.nodes:
            if constant_of(node) is None:
                self.node(node)
        for body in graph.subgraphs(recursive=True):
            scope = self.groups.trace.inferred.scopes.get(id(body), {})
            outer = self.groups.trace.values
            for value in (v for name, v in scope.items() if outer.get(name) is not v):
                self.hold(value)
        return self

    def node(self, node: gs.Node) -> None:
        """Reads one node."""
        values = self.groups.trace.values
        ins = [values.get(t.name) if t.name else None for t in node.inputs]
        outs = [values.get(t.name) or Value(t.name, 0, None) for t in node.outputs]
        domain = "" if node.domain in (None, "ai.onnx") else node.domain
        op = Op(node, self.groups.trace.graph.opset, ins, outs, LabelSpace())
        rule = rules.get(f"{domain}::{node.op}" if domain else node.op)
        if all(v.static is not None or v.constant for v in outs if v.name):
            if rule is None or node.op in _ENDS:
                self.keep_inputs(op)
            return
        known = all(v is None or v.shape is not None for v in ins) and all(v.shape is not None for v in outs if v.name)
        try:
            if rule is None or not known or any(node.subgraphs()):
                raise Unread
            with np.errstate(all="ignore"):
                results = rule(self, op)
        except Unread:
            self.whole(op)
            return
        for k, value in enumerate(outs):
            if value.name and value.shape is not None:
                found = results[k] if k < len(results) else None
                self.contents[value.name] = self.trim(value, self.checked(op, value, found))

    def checked(self, op: Op, value: Value, content: Content | None) -> Content:
        """The content of an output, unknown where a rule gives none."""
        if content is None:
            return self.book.opaque([1] * value.rank)
        if any(n not in (1, size) for n, size in zip(content.shape, value.sizes, strict=True)):
            raise ValueError(f"{op.what}: content {content.shape} of {value.name!r} {value.sizes}")
        return content

    def trim(self, value: Value, content: Content) -> Content:
        """Only axes with slices that can go are told apart."""
        axes = [a for a in range(value.rank) if content.shape[a] > 1 and not self.prunable(value, a)]
        return self.book.collapse(content, axes, self.eps(value))

    def whole(self, op: Op) -> None:
        """An operator without a rule."""
        self.keep_inputs(op)
        for value in op.outs:
            if value.name and value.shape is not None:
                self.contents[value.name] = self.book.opaque([1] * value.rank)

    def keep_inputs(self, op: Op) -> None:
        """What an operator reads stays, but for channels that are 0 and stay so."""
        for value in op.ins:
            if value is None:
                continue
            self.hold(value)
            for inner in value.blocked.values():
                self.hold_classes(self.classes(inner).ravel())
        bodies = list(op.node.subgraphs())
        bodies += [inner for body in bodies for inner in body.subgraphs(recursive=True)]
        for body in bodies:
            for name in {t.name for n in body.nodes for t in n.inputs} | {t.name for t in body.outputs}:
                outer = self.groups.trace.values.get(name)
                if outer is not None:
                    self.hold(outer)

    # ---- for rules ----

    def classes(self, labels: NDArray[np.int32]) -> Ids:
        """Class of each label."""
        return np.asarray(self.groups.classes.of_label[labels])

    def classes_on(self, value: Value, axis: int) -> Ids | None:
        """Class of each slice of an axis; None where its labels run over other axes too."""
        f = value.field_on(axis)
        if f is None:
            return np.full(value.sizes[axis], -1, np.int32)
        return None if f.joint else self.classes(f.labels)

    def prunable(self, value: Value, axis: int) -> bool:
        """Slices of this axis can go."""
        f = value.field_on(axis)
        return f is not None and bool(self.useful[self.classes(f.labels)].any())

    def content(self, value: Value) -> Content:
        """What is known of an input."""
        found = self.contents.get(value.name)
        if found is not None:
            return found
        array = self.tensors.array(value.name) if value.constant or value.static is not None else None
        if array is None or array.shape != value.sizes or array.size > _ELEMENTS or array.dtype.kind in "OUS":
            found = self.book.opaque([1] * value.rank)
        else:
            found = constant(array)
        self.contents[value.name] = found
        return found

    def only(self, value: Value, axes: Sequence[int]) -> Content:
        """The slices of some axes told apart, and no others."""
        content = self.content(value)
        content = self.book.collapse(content, [a for a in range(value.rank) if a not in axes], self.eps(value))
        for a in axes:
            content = self.book.resolve(content, a, value.sizes[a])
        return content

    def zero_cells(self, value: Value, f: Field) -> Mask:
        """Slices of a field that are 0."""
        if np.prod(f.labels.shape, dtype=np.int64) > _ELEMENTS:
            return np.zeros(f.labels.shape, np.bool_)
        if value.constant and value.name not in self.contents:
            array = self.tensors.array(value.name)
            others = tuple(a for a in range(value.rank) if a not in f.axes)
            if array is not None and array.shape == value.sizes and array.dtype.kind in "fiu":
                return np.asarray(~array.any(axis=others))
        zero = self.only(value, f.axes).zero
        return np.asarray(zero.reshape(f.labels.shape))

    def hold(self, value: Value) -> None:
        """Slices of a value stay, but for those that are 0 and are 0 too once their weights are."""
        if value.shape is not None and not any(self.prunable(value, a) for a in range(value.rank)):
            return
        for f in value.fields:
            needed = np.ones(f.labels.shape, np.bool_)
            if value.shape is not None and f.zero:
                needed = ~self.zero_cells(value, f)
            self.hold_classes(self.classes(f.labels[needed]).ravel())
            self.dead.update(self.classes(f.labels[~needed]).ravel().tolist())

    def hold_classes(self, classes: Ids, unless: Ids | None = None) -> None:
        """These classes stay, unless others go with them: one for each, -1 for none."""
        for k in np.flatnonzero(self.useful[classes]):
            own, other = int(classes[k]), -1 if unless is None else int(unless[k])
            if other < 0 or self.held.get(own) == set():
                self.held[own] = set()
            else:
                self.held.setdefault(own, set()).add(other)

    def eps(self, value: Value) -> float:
        """Unit in the last place of the numbers of a value."""
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.dtype)) if value.dtype else np.dtype(np.float32)
        return float(np.finfo(dtype).eps) if dtype in (np.float16, np.float32, np.float64) else SINGLE

    def evaluate(self, op: Op, arrays: Sequence[Array | None]) -> Array | None:
        """The first output of a node for known inputs; None where the reference does not know it."""
        proto = source_proto(op.node)
        typed = [
            None if a is None or v is None else a.astype(helper.tensor_dtype_to_np_dtype(v.dtype))
            for a, v in zip(arrays, op.ins, strict=True)
        ]
        shapes = [None if a is None else a.shape for a in typed]
        results = evaluate(proto, op.version, typed, shapes) if proto is not None else None
        return np.asarray(results[0], np.float64) if results and np.asarray(results[0]).dtype.kind in "fiub" else None


Rule = Callable[[Reading, Op], Sequence[Content | None]]
rules: dict[str, Rule] = {}


def reads(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers what an operator does to contents. A rule has to account for every channel that ends in its operator."""

    def register(function: Rule) -> Rule:
        for name in ops:
            rules[f"{domain}::{name}" if domain else name] = function
        return function

    return register
