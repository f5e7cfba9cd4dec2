"""What an axis of a weight does at the node that reads it: it writes channels, reads them, or holds their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

Role = Literal["writes", "reads", "parameter"]
_Find = Callable[[gs.Node, int, int, int], Role]  # node, slot, axis, rank


@dataclass(frozen=True)
class Use:
    """One axis of a weight at one node.

    Attributes:
        role: what it does there.
        reader: operator type; empty where nothing reads the weight.
        slot: input position.
    """

    role: Role
    reader: str = ""
    slot: int = 0


class Roles:
    """Uses of all weights of a graph and its bodies."""

    def __init__(self, graph: gs.Graph) -> None:
        self._readers: dict[str, tuple[gs.Node, int]] = {}
        for g in [graph, *graph.subgraphs(recursive=True)]:
            for node in g.nodes:
                for slot, tensor in enumerate(node.inputs):
                    self._readers.setdefault(tensor.name, (node, slot))

    def of(self, weight: str, axis: int) -> Use:
        """The use at the first node that reads the weight, behind conversions of its type."""
        name = weight
        while name in self._readers:
            node, slot = self._readers[name]
            if node.op in _CONVERSIONS and slot == 0:
                name = node.outputs[0].name
                continue
            if node.op == "Transpose" and slot == 0:
                perm = node.attrs.get("perm")
                if perm is None:
                    break
                axis, name = list(perm).index(axis), node.outputs[0].name
                continue
            rank = len(node.inputs[slot].shape or ()) or axis + 1
            find = _FAMILIES.get(node.op)
            return Use(find(node, slot, axis, rank) if find else "parameter", node.op, slot)
        return Use("parameter")


def _conv(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """(C_out, C_in / g, ...): a depthwise filter counts as writing its channel."""
    return "parameter" if slot != 1 or axis > 1 else "writes" if axis == 0 else "reads"


def _conv_transpose(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """(C_in, C_out / g, ...)."""
    return "parameter" if slot != 1 or axis > 1 else "reads" if axis == 0 else "writes"


def _matmul(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """(..., M, K) @ (..., K, N); a vector is all K."""
    if slot > 1 or axis < rank - 2:
        return "parameter"
    turned = bool(node.attrs.get("transB" if slot else "transA", 0))
    summed = rank - 1 if rank == 1 or (slot == 0) is not turned else rank - 2
    return "reads" if axis == summed else "writes"


def _recurrent(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """W and R are (directions, gates * H, I or H)."""
    return "parameter" if slot not in (1, 2) or axis == 0 else "writes" if axis == 1 else "reads"


def _attention(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """The fused projection is (I, Q + K + V)."""
    return "parameter" if slot != 1 else "writes" if axis == 1 else "reads"


def _gather(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """Rows of a table."""
    return "writes" if slot == 0 else "parameter"


def _einsum(node: gs.Node, slot: int, axis: int, rank: int) -> Role:
    """A letter that no other operand has is written, one that is not in the output is read."""
    terms, _, output = str(node.attrs["equation"]).replace(" ", "").partition("->")
    names = terms.split(",")
    if "..." in names[slot]:
        return "parameter"
    letter = names[slot][axis]
    if letter not in output:
        return "reads"
    return "parameter" if any(letter in name for k, name in enumerate(names) if k != slot) else "writes"


_CONVERSIONS = {"Cast", "CastLike", "DequantizeLinear", "Identity"}
_FAMILIES: dict[str, _Find] = {
    **dict.fromkeys(("Conv", "FusedConv", "DeformConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm", "FusedGemm"), _matmul),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Attention": _attention,
    "Gather": _gather,
    "Einsum": _einsum,
}
