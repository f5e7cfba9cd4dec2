"""What a piece has to do at given widths: multiply-accumulates, elements that go in and out, elements of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune.budget.axes import Axes, Shape, sizes, touched
from onnxprune.latency.pieces import Piece
from onnxprune.profiling.macs import node_macs
from onnxprune.trace.value import Value

Floats = NDArray[np.float64]
Gone = Mapping[str, int]

KINDS = ("start", "multiply-accumulates", "elements in", "elements out", "elements of weights")


@dataclass(frozen=True)
class _Counted:
    """A node that multiplies and adds."""

    node: gs.Node
    attributes: Mapping[str, Any]
    ins: Sequence[Shape | None]
    outs: Sequence[Shape | None]

    def macs(self, gone: Gone) -> int:
        ins, outs = ([sizes(s, gone) for s in part] for part in (self.ins, self.outs))
        return node_macs(self.node.op, self.node.domain or "", self.attributes, ins, outs)


class Work:
    """The work of one piece, as shares of what it is in the source.

    Args:
        axes: lengths by widths.
        graph: that was traced; its nodes are those of the model that the piece was cut from.
        values: of that graph.
        piece: of it.

    Attributes:
        groups: ids of the groups on whose widths it depends.
        tensor: the first one that the piece computes.
    """

    def __init__(self, axes: Axes, graph: gs.Graph, values: Mapping[str, Value], piece: Piece) -> None:
        self.tensor = piece.name
        nodes = [graph.nodes[k] for k in piece.nodes]

        def shapes(names: Sequence[str]) -> list[Shape | None]:
            return [axes.shape_of(values[n]) if n in values else None for n in names]

        self._counted = []
        for node in nodes:
            attributes = {k: v for k, v in node.attrs.items() if not isinstance(v, gs.Graph)}
            ins, outs = shapes([t.name for t in node.inputs]), shapes([t.name for t in node.outputs])
            found = _Counted(node, attributes, ins, outs)
            if found.macs({}):
                self._counted.append(found)
        made = {t.name for n in nodes for t in n.outputs}
        read = dict.fromkeys(t.name for n in nodes for t in n.inputs if t.name)
        weights = [n for n in read if n not in made and n not in piece.inputs]
        self._moved = [shapes(part) for part in (piece.inputs, piece.outputs, weights)]
        inner = shapes([*made, *read])
        self.groups = touched([s for c in self._counted for s in (*c.ins, *c.outs)] + inner)
        self._order = sorted(self.groups)
        self._known: dict[tuple[int, ...], Floats] = {}
        self._dense = np.ones(len(KINDS))
        self._dense = np.maximum(self.at({}), 1.0)
        self._known.clear()

    def at(self, gone: Gone) -> Floats:
        """Share of each kind of work `(5,)` with that many units of each group gone; the start of the piece is 1."""
        key = tuple(gone.get(g, 0) for g in self._order)
        if key not in self._known:
            counts = [1.0, float(sum(c.macs(gone) for c in self._counted))]
            counts += [sum(_elements(s, gone) for s in part) for part in self._moved]
            self._known[key] = np.array(counts) / self._dense
        return self._known[key]

    def along(self, group: str, gone: Gone, counts: NDArray[np.int64]) -> Floats:
        """The same for different numbers of units of one group gone `(N, 5)`.

        Work is a product of lengths, of which a group decides two at most: a parabola through three points tells all others.
        """
        some = np.unique([counts.min(), (counts.min() + counts.max()) // 2, counts.max()])
        known = np.array([self.at({**gone, group: int(n)}) for n in some])
        result = np.zeros((len(counts), len(KINDS)))
        for k, n in enumerate(some):
            others = np.delete(some, k)
            result += np.outer(np.prod([(counts - o) / (n - o) for o in others], axis=0), known[k])
        return result


def _elements(shape: Shape | None, gone: Gone) -> float:
    return float(np.prod(sizes(shape, gone) or (1,))) if shape is not None else 0.0
