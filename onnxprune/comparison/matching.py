"""Which tensors of two graphs are meant to be the same.

1. By name, where names can be trusted: most tensors of a common name come from the same operator. Numbers that an exporter
   gave ("123") are common to unrelated graphs. Where one model has folded into a node what follows it in the other, the
   tensor behind it is meant.
2. By structure: the same operator with the same attributes, on inputs that match. Where several nodes look alike, such as
   the projections of an attention, they are taken in the order of the graph.
3. By weights, where that says little: nodes of the same operator that read the same numbers, which no other node reads.

Where that says little, too, `values.py` goes by what the tensors hold.

Only tensors of the main graphs that depend on what is fed can match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.comparison.sides import Interface, Side
from onnxprune.comparison.values import content
from onnxprune.shapes.infer import infer
from onnxprune.trace.value import Value

FEW = 0.5  # share of matched tensors below which weights count, then values
_SMALL = 8  # elements of a constant that is no fingerprint
_TRUSTED = 0.7  # share of common names that come from the same operator
Keep = tuple[NDArray[np.intp] | None, ...]
Kept = Mapping[str, Keep]


@dataclass
class Matching:
    """Pairs of tensors.

    Attributes:
        pairs: tensor of the first model -> tensor of the second, in the order of the first graph.
        how: number of pairs by `name`, `structure`, `weights` and `values`.
        only_first: tensors of the first model without a partner.
        only_second: the same of the second.
        sizes: bytes of each tensor of the first model; 0 where they are not known.
        types: element type of each tensor of the second model, as `TensorProto.DataType`; 0 where it is not known.
        keep: tensor of the first model -> per axis the slices that the second has, None for all; whole tensors are left out.
        resized: pairs of different shape, which can't be compared, as a removal of channels explains that.
        order: tensors of the first model, in the order of its graph.
    """

    pairs: dict[str, str]
    how: dict[str, int]
    only_first: list[str]
    only_second: list[str]
    sizes: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    keep: dict[str, Keep] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the first model's tensors that have a partner, or one of another size."""
        return (len(self.pairs) + len(self.resized)) / max(len(self.order), 1)

    def add(self, pairs: Mapping[str, str], how: str) -> None:
        """Takes in more pairs."""
        self.how[how] += len(pairs)
        every = {**self.pairs, **pairs}
        self.pairs = {n: every[n] for n in self.order if n in every}
        taken = set(pairs.values())
        self.only_first = [n for n in self.only_first if n not in pairs]
        self.only_second = [n for n in self.only_second if n not in taken]


def match(
    first: Side, second: Side, between: Interface, feeds: Mapping[str, NDArray[np.generic]], kept: Kept | None = None
) -> Matching:
    """Matches the tensors of two models.

    Args:
        first: whose tensors are looked for.
        second: where they are looked for.
        between: inputs and outputs of both.
        feeds: of one run, by names of the first model, for shapes.
        kept: what a plan leaves of tensors of the first model; None where there is no plan.
    """
    from onnxprune.io.surgeon import import_graph

    scopes = []
    for side, names in ((first, {n: n for n in feeds}), (second, between.inputs)):
        graph = import_graph(side.model)
        shapes = {own: tuple(feeds[n].shape) for n, own in names.items() if n in feeds}
        scopes.append(infer(graph, shapes).scopes[id(graph)])
    ours, theirs = _Tensors(first, scopes[0]), _Tensors(second, scopes[1])
    known = dict(between.inputs)
    pairs = {n: m for n, m in between.outputs.items() if n in ours.made and m in theirs.made}
    how = {"name": 0, "structure": 0, "weights": 0, "values": 0}
    named = _by_name(ours, theirs, pairs)
    how["name"] = len(named)
    pairs |= _with_absorbed(ours, theirs, named)
    if len(pairs) < len(ours.made):
        alike = _by_structure(ours, theirs, {**known, **pairs})
        how["structure"] = len(alike)
        pairs |= alike
    if len(pairs) < FEW * len(ours.made):
        read = _by_weights(ours, theirs, pairs)
        how["weights"] = len(read)
        pairs |= read
        alike = _by_structure(ours, theirs, {**known, **pairs})
        how["structure"] += len(alike)
        pairs |= alike
    return _finish(ours, theirs, pairs, how, kept)


class _Tensors:
    """Tensors of one model that depend on what is fed.

    Attributes:
        made: tensor -> the node that makes it, in the order of the graph.
        values: types and shapes.
    """

    def __init__(self, side: Side, values: Mapping[str, Value]) -> None:
        self.side, self.values = side, values
        flow = side.flow
        varying = [n for k, n in enumerate(flow.nodes) if flow.varying[k]]
        self.made = {o: n for n in varying for o in n.output if o and _is_tensor(values.get(o))}

    def shape(self, name: str) -> tuple[int, ...] | None:
        value = self.values.get(name)
        return None if value is None else value.shape

    def read_by(self, name: str) -> list[str]:
        """Operators that read a tensor; an output of the model is read by ''."""
        flow = self.side.flow
        ops = [flow.nodes[k].op_type for k, _ in flow.readers.get(name, ())]
        return sorted([*ops, ""] if name in flow.outputs else ops)

    def chain(self, name: str) -> Iterator[str]:
        """What is computed from a tensor and constants alone, as long as nothing else reads what lies between."""
        flow = self.side.flow
        while len(flow.readers.get(name, ())) == 1 and name not in flow.outputs:
            node = flow.nodes[flow.readers[name][0][0]]
            others = [n for n in node.input if n and n != name]
            if len(node.output) != 1 or any(n in self.made or n in flow.inputs for n in others):
                return
            name = node.output[0]
            yield name


def _is_tensor(value: Value | None) -> bool:
    return value is not None and (value.dtype != 0 or value.shape is None)


def _by_name(ours: _Tensors, theirs: _Tensors, taken: Mapping[str, str]) -> dict[str, str]:
    gone = set(taken.values())
    common = [n for n in ours.made if n in theirs.made and n not in taken and n not in gone]
    same = [n for n in common if ours.made[n].op_type == theirs.made[n].op_type]
    if len(same) < _TRUSTED * len(common):
        return {}
    return {n: n for n in common}


def _with_absorbed(ours: _Tensors, theirs: _Tensors, named: dict[str, str]) -> dict[str, str]:
    """Pairs by name, moved on where one model has folded into a node what the other computes behind it.

    A Conv that a BatchNormalization was folded into keeps its name, and computes what came out of the normalization. Those
    who read it tell: they are the readers of the tensor that is meant.
    """
    moved: dict[str, str] = {}
    for n, m in named.items():
        wanted, given = theirs.read_by(m), ours.read_by(n)
        if wanted == given:
            moved[n] = m
            continue
        further = next((t for t in ours.chain(n) if t in theirs.made or ours.read_by(t) == wanted), "")
        other = next((t for t in theirs.chain(m) if t in ours.made or theirs.read_by(t) == given), "")
        if further and further not in theirs.made:
            moved[further] = m
        elif other and other not in ours.made:
            moved[n] = other
        else:
            moved[n] = m
    return moved


def _by_structure(ours: _Tensors, theirs: _Tensors, known: Mapping[str, str]) -> dict[str, str]:
    """Tensors with the same digest, in the order of their graphs, where both have as many of them."""
    backwards = {m: n for n, m in known.items()}
    one = _digests(ours, {n: n for n in known})
    other = _digests(theirs, backwards)
    groups: dict[bytes, tuple[list[str], list[str]]] = {}
    for names, digests, place in ((ours.made, one, 0), (theirs.made, other, 1)):
        for name in names:
            if name not in (known if place == 0 else backwards):
                groups.setdefault(digests[name], ([], []))[place].append(name)
    return {a: b for x, y in groups.values() if len(x) == len(y) for a, b in zip(x, y, strict=True)}


def _digests(tensors: _Tensors, known: Mapping[str, str]) -> dict[str, bytes]:
    """A digest of how each tensor is computed from those that are known, weights by their shapes alone."""
    flow = tensors.side.flow
    found: dict[str, bytes] = {}

    def of(name: str) -> bytes:
        if name in known:
            return f"known {known[name]}".encode()
        return found.get(name) or f"constant {tensors.shape(name)}".encode()

    for k, node in enumerate(flow.nodes):
        if not flow.varying[k]:
            continue
        digest = blake2b(digest_size=16)
        digest.update(f"{node.domain} {node.op_type}".encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            digest.update(_plain(attribute))
        for name in node.input:
            digest.update(of(name) if name else b"-")
        for i, name in enumerate(node.output):
            found[name] = digest.digest() + bytes([i % 256])
    return found


def _by_weights(ours: _Tensors, theirs: _Tensors, taken: Mapping[str, str]) -> dict[str, str]:
    """Outputs of nodes with the same operator, shape and weight, where one node of each model has it."""
    gone = set(taken.values())
    found: dict[str, str] = {}
    other = _readers_of_weights(theirs)
    for key, names in _readers_of_weights(ours).items():
        partners = other.get(key, [])
        if len(names) == len(partners) == 1 and names[0] not in taken and partners[0] not in gone:
            found[names[0]] = partners[0]
            gone.add(partners[0])
    return found


def _readers_of_weights(tensors: _Tensors) -> dict[tuple[object, ...], list[str]]:
    """(operator, shape, numbers) -> first outputs of the nodes that read a weight of these numbers."""
    flow = tensors.side.flow
    contents: dict[str, tuple[str, bytes]] = {}
    found: dict[tuple[object, ...], list[str]] = {}
    for node in flow.nodes:
        if not node.output or node.output[0] not in tensors.made:
            continue
        for name in node.input:
            array = None if name in contents or name in tensors.made else flow.constant(name)
            if array is not None and array.size > _SMALL and array.dtype.kind == "f":
                contents[name] = content(array)
            if name in contents:
                key = (node.op_type, tensors.shape(node.output[0]), contents[name])
                found.setdefault(key, []).append(node.output[0])
    return found


def _plain(attribute: onnx.AttributeProto) -> bytes:
    """Bodies by their operators, other attributes as they are."""
    if attribute.type == onnx.AttributeProto.GRAPH:
        return " ".join(n.op_type for n in attribute.g.node).encode()
    return bytes(attribute.SerializeToString(deterministic=True))


def _finish(ours: _Tensors, theirs: _Tensors, pairs: Mapping[str, str], how: dict[str, int], kept: Kept | None) -> Matching:
    ordered = {n: pairs[n] for n in ours.made if n in pairs}
    gone = set(ordered.values())
    found = Matching(ordered, how, [n for n in ours.made if n not in ordered], [n for n in theirs.made if n not in gone])
    pruned = kept is not None or _resized_weights(ours.side, theirs.side)
    found.order = list(ours.made)
    found.sizes = {n: _bytes(ours.values.get(n)) for n in ours.made}
    for n, m in list(ordered.items()):
        found.types[m] = theirs.values[m].dtype if m in theirs.values else 0
        shape, other = ours.shape(n), theirs.shape(m)
        keep = (kept or {}).get(n)
        if keep is not None and shape is not None:
            found.keep[n] = keep
            shape = tuple(s if k is None else k.size for s, k in zip(shape, keep, strict=True))
        if pruned and shape is not None and other is not None and shape != other:
            found.resized.append(n)
            found.keep.pop(n, None)
            del ordered[n]
    return found


def _bytes(value: Value | None) -> int:
    from onnxprune.profiling.memory import value_bytes

    return value_bytes(value) or 0


def _resized_weights(first: Side, second: Side) -> bool:
    """Some float weight has the same name and rank in both models, and another shape."""
    theirs = second.flow.initializers
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return any(
        t.data_type in floats and n in theirs and len(t.dims) == len(theirs[n].dims) and list(t.dims) != list(theirs[n].dims)
        for n, t in first.flow.initializers.items()
    )
