"""What is different about the nodes at which two models part: attributes, constants, wiring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.comparison.matching import Matching
from onnxprune.comparison.sides import Side
from onnxprune.comparison.values import content
from onnxprune.io.walk import nested_graphs
from onnxprune.statistics.flow import Flow, captures

_SHOWN = 8  # elements of a small constant


@dataclass
class Part:
    """What lies between the last matched tensors and one tensor, in both models.

    Attributes:
        first: nodes of the first model, by name.
        second: the same of the second model.
        op: operator of the node that makes the tensor in the first model.
        causes: one line for each difference; empty where nodes and constants are the same.
    """

    first: list[str]
    second: list[str]
    op: str
    causes: list[str] = field(default_factory=list)


def part(first: Side, second: Side, matching: Matching, inputs: Mapping[str, str], tensor: str) -> Part:
    """Compares how a tensor is made.

    Args:
        first: the first model.
        second: the second.
        matching: pairs of tensors.
        inputs: of the first model -> of the second.
        tensor: of the first model; it has a partner.
    """
    other = matching.pairs[tensor]
    known = {n: m for n, m in matching.pairs.items() if n != tensor} | dict(inputs)
    ours = _between(first.flow, tensor, known)
    theirs = _between(second.flow, other, {m: n for n, m in known.items()})
    names = [[_name(side.flow.nodes[k]) for k in nodes] for side, nodes in ((first, ours), (second, theirs))]
    found = Part(names[0], names[1], first.flow.nodes[first.flow.producer[tensor]].op_type)
    if len(ours) == len(theirs) == 1:
        causes = _Nodes(first.flow, second.flow, known).differences(ours[0], theirs[0])
    else:
        causes = _segments(first.flow, second.flow, ours, theirs)
    found.causes = list(dict.fromkeys(causes))
    return found


def _between(flow: Flow, tensor: str, known: Mapping[str, str]) -> list[int]:
    """Nodes that depend on what is fed, between known tensors and one."""
    return sorted(k for k in flow.ancestors([tensor], known=known) if flow.varying[k])


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)


class _Nodes:
    """Compares nodes of two models, one with one."""

    def __init__(self, first: Flow, second: Flow, known: Mapping[str, str]) -> None:
        self.first, self.second, self.known = first, second, known
        self.seen: set[tuple[int, int]] = set()

    def differences(self, k: int, j: int, where: str = "") -> Iterator[str]:
        """Attributes, constants and wiring that differ.

        Args:
            k: node of the first model.
            j: node of the second.
            where: which node that is, for the texts.
        """
        one, other = self.first.nodes[k], self.second.nodes[j]
        if (one.op_type, one.domain) != (other.op_type, other.domain):
            yield f"{one.op_type} in the first model, {other.op_type} in the second{where.rstrip(',')}"
            return
        yield from _attributes(one, other, where)
        for i in range(max(len(one.input), len(other.input))):
            a, b = (n.input[i] if i < len(n.input) else "" for n in (one, other))
            yield from self._inputs(i, a, b)
        for a, b in zip(sorted(captures(one)), sorted(captures(other)), strict=False):
            yield from self._inputs(-1, a, b)

    def _inputs(self, i: int, a: str, b: str) -> Iterator[str]:
        if not a and not b:
            return
        if not a or not b:
            yield f"input {i} is {a or 'missing'!r} in the first model, {b or 'missing'!r} in the second"
            return
        if self._varies(self.first, a) or self._varies(self.second, b):
            if a in self.known and self.known[a] != b:
                yield f"input {i} is {a!r} in the first model, and {b!r}, which is another tensor, in the second"
            return
        x, y = self.first.constant(a), self.second.constant(b)
        if x is not None and y is not None:
            yield from array_difference(a, b, x, y)
            return
        if x is None and y is None:  # both are computed from constants
            k, j = self.first.producer[a], self.second.producer[b]
            if (k, j) not in self.seen:
                self.seen.add((k, j))
                where = f"{self.first.nodes[k].op_type} {_name(self.first.nodes[k])!r}"
                yield from self.differences(k, j, f" of {where}, which computes a constant,")
            return
        yield from _leaves_difference(_leaves(self.first, [a]), _leaves(self.second, [b]))

    @staticmethod
    def _varies(flow: Flow, name: str) -> bool:
        return name in flow.inputs or (name in flow.producer and flow.varying[flow.producer[name]])


def _attributes(one: onnx.NodeProto, other: onnx.NodeProto, where: str) -> Iterator[str]:
    ours, theirs = ({a.name: a for a in n.attribute} for n in (one, other))
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        if a is not None and b is not None and a.type == onnx.AttributeProto.GRAPH:
            yield from _bodies(name, a.g, b.g)
        elif a is None or b is None or a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True):
            texts = [_value(x) for x in (a, b)]
            if texts[0] != texts[1]:
                yield f"attribute {name!r}{where} is {texts[0]} in the first model, {texts[1]} in the second"


def _value(attribute: onnx.AttributeProto | None) -> str:
    if attribute is None:
        return "not given"
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace"))
    if isinstance(value, onnx.TensorProto):
        return _short(numpy_helper.to_array(value))
    return str(list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value)


def _bodies(name: str, one: onnx.GraphProto, other: onnx.GraphProto) -> Iterator[str]:
    """Constants and attributes of two bodies with the same nodes."""
    ours, theirs = ([n for g in nested_graphs(b) for n in g.node] for b in (one, other))
    if [n.op_type for n in ours] != [n.op_type for n in theirs]:
        yield f"body {name!r} has other nodes"
        return
    for a, b in zip(ours, theirs, strict=True):
        if a.op_type not in ("If", "Loop", "Scan"):
            yield from _attributes(a, b, f" of {a.op_type} {_name(a)!r} in body {name!r}")
    weights = [{t.name: numpy_helper.to_array(t) for g in nested_graphs(b) for t in g.initializer} for b in (one, other)]
    for key, array in weights[0].items():
        if key in weights[1]:
            yield from array_difference(key, key, array, weights[1][key])


def array_difference(a: str, b: str, x: NDArray[np.generic], y: NDArray[np.generic]) -> Iterator[str]:
    """One line where two constants differ."""
    name = repr(a) if a == b else f"{a!r} / {b!r}"
    if x.shape != y.shape or x.dtype != y.dtype:
        if x.size <= _SHOWN and y.size <= _SHOWN:
            yield f"constant {name} is {_short(x)} in the first model, {_short(y)} in the second"
        else:
            yield f"constant {name} is {x.dtype} {list(x.shape)} in the first model, {y.dtype} {list(y.shape)} in the second"
        return
    if x.tobytes() == y.tobytes():
        return
    apart = np.not_equal(x, y)
    if x.size <= _SHOWN:
        yield f"constant {name} is {_short(x)} in the first model, {_short(y)} in the second"
        return
    text = f"constant {name} {list(x.shape)}: {int(apart.sum()):,} of {x.size:,} elements differ"
    if x.dtype.kind in "fiu":
        most = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
        text += f", by up to {most:.3g}"
        rows = np.flatnonzero(apart.reshape(len(x), -1).any(1))
        if x.ndim > 1 and len(rows) <= 3 and len(rows) < len(x):
            text += f" (index {', '.join(map(str, rows))} of axis 0)"
    yield text


def _short(array: NDArray[np.generic]) -> str:
    if array.size <= _SHOWN:
        return str(array.tolist())
    return f"{array.dtype} {list(array.shape)}"


def _leaves(flow: Flow, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Stored tensors that some constants are computed from."""
    found: dict[str, NDArray[np.generic]] = {}
    waiting, seen = list(names), set(names)
    while waiting:
        name = waiting.pop()
        array = flow.constant(name)
        if array is not None:
            found[name] = array
        elif name in flow.producer:
            new = [n for n in flow.reads(flow.producer[name]) if n not in seen]
            seen.update(new)
            waiting += new
    return found


def _segments(first: Flow, second: Flow, ours: Sequence[int], theirs: Sequence[int]) -> Iterator[str]:
    """Several nodes in one model and several in the other: attributes where the operators are the same, and constants."""
    one, other = [first.nodes[k] for k in ours], [second.nodes[k] for k in theirs]
    if [n.op_type for n in one] == [n.op_type for n in other]:
        for a, b in zip(one, other, strict=True):
            yield from _attributes(a, b, f" of {a.op_type} {_name(a)!r}")
    ends = []
    for flow, nodes in ((first, ours), (second, theirs)):
        read = [n for k in nodes for n in flow.reads(k)]
        ends.append(_leaves(flow, [n for n in read if not _Nodes._varies(flow, n)]))
    yield from _leaves_difference(*ends)


def _leaves_difference(one: Mapping[str, NDArray[np.generic]], other: Mapping[str, NDArray[np.generic]]) -> Iterator[str]:
    """Stored tensors of the same name that differ, and those without an equal in the other model.

    Tensors of other names are equal if they hold the same numbers, in whatever order: exporters transpose weights.
    """
    for name in one:
        if name in other:
            yield from array_difference(name, name, one[name], other[name])
    prints = [{n: content(a) for n, a in held.items() if a.size > _SHOWN} for held in (one, other)]
    sides = ((prints[0], prints[1], other, "first"), (prints[1], prints[0], one, "second"))
    for held, against, names, which in sides:
        contents = set(against.values())
        alone = [n for n, content in held.items() if n not in names and content not in contents]
        if alone:
            shown = ", ".join(repr(n) for n in alone[:4]) + (f" and {len(alone) - 4} more" if len(alone) > 4 else "")
            yield f"constants of the {which} model without an equal in the other: {shown}"


@dataclass
class Constants:
    """Stored tensors of both models by name.

    Attributes:
        equal: how many are the same.
        different: names of those that are not.
        only_first: how many the second model lacks.
        only_second: how many the first one lacks.
    """

    equal: int
    different: list[str]
    only_first: int
    only_second: int


def constants(first: Side, second: Side) -> Constants:
    """Compares the initializers of the main graphs."""
    ours, theirs = first.flow.initializers, second.flow.initializers
    both = [n for n in ours if n in theirs]
    different = [n for n in both if not _same_tensor(ours[n], theirs[n])]
    return Constants(len(both) - len(different), different, len(ours) - len(both), len(theirs) - len(both))


def _same_tensor(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    if a.data_type != b.data_type or list(a.dims) != list(b.dims):
        return False
    if a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    return numpy_helper.to_array(a).tobytes() == numpy_helper.to_array(b).tobytes()
