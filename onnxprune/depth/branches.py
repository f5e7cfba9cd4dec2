"""Branches of sums that can go: a summand becomes a constant, and all that it alone needed is gone.

No block is matched. A summand s of a sum of two activations is a branch if

1. it has the shape of the sum, nothing else reads it, and it is no graph output;
2. all ways from the inputs to s lead through linear nodes with stored weights, the *ends* of the branch (shapes and
   constants aside). With zeros as their weights s does not depend on the input any more;
3. nothing outside of the branch needs one of these nodes: they go with it;
4. some axes of s carry the channels that they make, by the labels of the trace: s becomes one number for each;
5. every graph output still depends on every input that it depended on.

So it is exact in the sense of the oracle: removal equals zeros in the weights of the ends, and what is then added behind
(`onnxprune.depth.proof`). Attention, feed-forward, bottleneck, inverted and projection branches all are such summands; the
other way through the sum (the identity) fails 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.groups.group import Groups
from onnxprune.statistics.flow import Flow, lift
from onnxprune.statistics.linear import Linear, find_linear

_SUMS = ("Add", "Sub", "Sum")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class Branch:
    """A summand that can become a constant.

    Attributes:
        tensor: the summand.
        reader: name of the sum, or its output.
        ends: outputs of the linear nodes through which it depends on the input.
        axes: of the summand that channels lie on, ascending.
        nodes: names of the linear nodes that go with it, in graph order.
        weights: those of these nodes, in the same order; others may read them too.
        gone: all tensors that go with it, stored ones among them.
    """

    tensor: str
    reader: str
    ends: tuple[str, ...]
    axes: tuple[int, ...]
    nodes: tuple[str, ...]
    weights: tuple[str, ...]
    gone: frozenset[str]


@dataclass
class Branches:
    """Result of `find_branches`.

    Attributes:
        found: in graph order.
        refused: summand -> why it has to stay.
    """

    found: list[Branch] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    _search: _Search | None = None

    def together(self, tensors: Collection[str]) -> bool:
        """Whether some branches can go at the same time: no two of one sum, and rule 5 for all of them."""
        readers = [b.reader for b in self.found if b.tensor in tensors]
        assert self._search is not None
        return len(set(readers)) == len(readers) and not self._search.cut_off(sorted(tensors))


def find_branches(model: onnx.ModelProto, groups: Groups) -> Branches:
    """What can go.

    Args:
        model: the model that `groups` analyses.
        groups: its analysis.
    """
    search = _Search(model, groups)
    result = Branches(_search=search)
    for sum_node, tensor in search.summands():
        branch = search.branch(sum_node, tensor)
        if isinstance(branch, str):
            result.refused[tensor] = branch
        else:
            result.found.append(branch)
    return result


def dead_nodes(flow: Flow, tensors: Sequence[str]) -> set[int]:
    """Nodes that nothing needs any more when some tensors are given."""
    outputs = sorted(flow.outputs)
    return flow.ancestors(outputs) - flow.ancestors(outputs, known=set(tensors))


def gone_tensors(flow: Flow, tensors: Sequence[str]) -> frozenset[str]:
    """What dead nodes make, and what was stored for them alone."""
    dead = dead_nodes(flow, tensors)
    made = {o for k in dead for o in flow.nodes[k].output if o}
    read = {n for k in dead for n in flow.reads(k) if n in flow.initializers}
    own = {n for n in read if all(k in dead for k, _ in flow.readers[n]) and n not in flow.outputs}
    return frozenset(made | own)


class _Search:
    def __init__(self, model: onnx.ModelProto, groups: Groups) -> None:
        self.flow, self.groups = Flow(lift(model)), groups
        self.linear = {x.y: x for x in find_linear(self.flow, groups.trace.shape_of)}
        self.fed = {o: self.inputs([o]) for o in self.flow.outputs}

    def inputs(self, names: Sequence[str], known: Sequence[str] = ()) -> set[str]:
        """Graph inputs that tensors depend on."""
        nodes = self.flow.ancestors(names, known=set(known))
        return {n for k in nodes for n in self.flow.reads(k) if n in self.flow.inputs}

    def depends(self, name: str) -> bool:
        """The values of a tensor depend on what is fed, not on its shape alone."""
        if name in self.flow.inputs:
            return True
        value, k = self.groups.trace.values.get(name), self.flow.producer.get(name)
        still = value is not None and (value.constant or value.static is not None)
        return k is not None and self.flow.varying[k] and not still

    def summands(self) -> Iterator[tuple[int, str]]:
        """Sums of activations of one shape, and each of what they add."""
        for k, node in enumerate(self.flow.nodes):
            if node.op_type not in _SUMS or sum(self.depends(n) for n in node.input) < 2 or len(set(node.input)) < 2:
                continue
            shape = self.groups.trace.shape_of(node.output[0])
            for name in node.input:
                if self.depends(name) and shape and self.groups.trace.shape_of(name) == shape:
                    yield k, name

    def branch(self, reader: int, tensor: str) -> Branch | str:
        """A branch, or why it has to stay."""
        flow = self.flow
        if tensor in flow.outputs:
            return "it is a graph output"
        if len(flow.readers[tensor]) > 1:
            return "other nodes read it too"
        if tensor in flow.inputs:
            return "it is a graph input"
        if len([o for o in flow.nodes[flow.producer[tensor]].output if o]) > 1:
            return "the node that makes it has other outputs"
        ends = self.ends(tensor)
        if isinstance(ends, str):
            return ends
        dead = dead_nodes(flow, [tensor])
        for end in ends:
            if end.node not in dead:
                return f"something else needs {end.name!r} too"
        value = self.groups.trace.values[tensor]
        axes = self.channels(tensor, ends)
        if not axes or value.dtype not in _FLOATS:
            return "no axis of it carries the channels of a weight"
        if lost := self.cut_off([tensor]):
            return lost
        nodes = sorted((x for x in self.linear.values() if x.node in dead), key=lambda x: x.node)
        node = flow.nodes[reader]
        return Branch(
            tensor,
            node.name or node.output[0],
            tuple(x.y for x in ends),
            axes,
            tuple(x.name for x in nodes),
            tuple(x.weight for x in nodes),
            gone_tensors(flow, [tensor]),
        )

    def cut_off(self, tensors: Sequence[str]) -> str:
        """An output that would not depend on an input any more; empty where there is none."""
        for output, inputs in self.fed.items():
            lost = inputs - self.inputs([output], known=tensors)
            if lost:
                return f"output {output!r} would not depend on input {min(lost)!r} any more"
        return ""

    def ends(self, tensor: str) -> list[Linear] | str:
        """The last linear nodes on all ways to a tensor."""
        found: dict[int, Linear] = {}
        seen = {tensor}
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            linear = self.linear.get(name)
            if linear is not None:
                found[linear.node] = linear
                continue
            read = (
                [n for n in self.flow.reads(self.flow.producer[name]) if self.depends(n)]
                if name in self.flow.producer
                else []
            )
            if not read:
                return f"it depends on {name!r} past all linear nodes"
            waiting += [n for n in read if n not in seen]
            seen |= set(read)
        return [found[k] for k in sorted(found)]

    def channels(self, tensor: str, ends: Sequence[Linear]) -> tuple[int, ...]:
        """Axes of a tensor with the channels that linear nodes make."""
        values, of_label = self.groups.trace.values, self.groups.classes.of_label
        made: set[int] = set()
        for end in ends:
            value = values[end.y]
            own = set(end.form.made_axes(value.rank)) if value.shape else set()
            made |= {c for f in value.fields if own & set(f.axes) for c in np.unique(of_label[f.labels]).tolist()}
        carried = [f for f in values[tensor].fields if made & set(np.unique(of_label[f.labels]).tolist())]
        return tuple(sorted({a for f in carried for a in f.axes}))
