"""What each node of a model costs, and the model as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from onnxprune.profiling.memory import Peak

FORMAT = "onnxprune.profile/1"


@dataclass(frozen=True)
class NodeCost:
    """Of one node, in one run of the model.

    Attributes:
        name: of the node, of its first output where it has none.
        op: operator, with its domain where that is not the standard one.
        times: how often it runs: more than once in a Scan or Loop, 0 in the cheaper branch of an If.
        macs: multiply-accumulates; None where they can't be told.
        params: elements of the weights it reads.
        weight_bytes: of all constants it reads, as they are stored.
        input_bytes: of the activations it reads, once; None where a shape is not known.
        output_bytes: of those it makes, once.
        moved_bytes: what it has to read and write at least: weights and activations, times `times`. Views move nothing,
            lookups read no more than they give.
        path: bodies that it lies in, outermost first, such as `loop.body`.
    """

    name: str
    op: str
    times: int
    macs: int | None
    params: int
    weight_bytes: int
    input_bytes: int | None
    output_bytes: int | None
    moved_bytes: int | None
    path: str = ""

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity, FLOPs a byte; None where it can't be told.

        Source: Williams, Waterman and Patterson, Roofline (Communications of the ACM 52, 2009); 1 MAC = 2 FLOPs.
        """
        return intensity(self.macs, self.moved_bytes)


def intensity(macs: int | None, moved: int | None) -> float | None:
    """FLOPs a byte; None where either is not known, or nothing moves."""
    return None if macs is None or not moved else 2 * macs / moved


@dataclass(frozen=True)
class OpCost:
    """The sum over all nodes of one operator, unknown figures left out; a weight that several nodes read counts for each."""

    op: str
    nodes: int
    macs: int
    params: int
    weight_bytes: int
    output_bytes: int
    moved_bytes: int

    @property
    def intensity(self) -> float | None:
        """FLOPs a byte."""
        return intensity(self.macs, self.moved_bytes)


@dataclass(frozen=True)
class Profile:
    """Of a model, for one run at `shapes`.

    Attributes:
        shapes: of the inputs.
        nodes: all that depend on what is fed, in the order of the file, bodies behind their node. What is computed from
            constants alone is folded when the model is loaded, and left out.
        params: elements of all weights, each once: tensors of floats, and of integers of 8 bits and less.
        weight_bytes: of all stored tensors, each once.
        peak: of activations in memory.
        once: bodies that stop on a condition which depends on data: their nodes count for one round.
        unknown: nodes whose multiply-accumulates can't be told, for want of a shape or as nobody knows the operator.
    """

    shapes: dict[str, tuple[int, ...]]
    nodes: list[NodeCost]
    params: int
    weight_bytes: int
    peak: Peak
    once: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def macs(self) -> int:
        """Of all nodes."""
        return sum(n.macs or 0 for n in self.nodes)

    @property
    def activation_bytes(self) -> int:
        """Of all that the nodes make in one run."""
        return sum((n.output_bytes or 0) * n.times for n in self.nodes)

    @property
    def moved_bytes(self) -> int:
        """What all nodes read and write at least."""
        return sum(n.moved_bytes or 0 for n in self.nodes)

    @property
    def intensity(self) -> float | None:
        """FLOPs a byte."""
        return intensity(self.macs, self.moved_bytes)

    def by_op(self) -> list[OpCost]:
        """Sums over operators, the most expensive first."""
        found = []
        for op in dict.fromkeys(n.op for n in self.nodes):
            own = [n for n in self.nodes if n.op == op]
            macs, moved = sum(n.macs or 0 for n in own), sum(n.moved_bytes or 0 for n in own)
            params, held = sum(n.params for n in own), sum(n.weight_bytes for n in own)
            made = sum((n.output_bytes or 0) * n.times for n in own)
            found.append(OpCost(op, len(own), macs, params, held, made, moved))
        return sorted(found, key=lambda o: (-o.macs, -o.moved_bytes))

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema `onnxprune/profiling/profile.schema.json`; bytes and multiply-accumulates."""
        return {
            "format": FORMAT,
            "shapes": {n: list(s) for n, s in self.shapes.items()},
            "totals": {
                "macs": self.macs,
                "params": self.params,
                "weight_bytes": self.weight_bytes,
                "activation_bytes": self.activation_bytes,
                "moved_bytes": self.moved_bytes,
                "peak_activation_bytes": self.peak.bytes,
                "flops_per_byte": self.intensity,
            },
            "peak": asdict(self.peak),
            "ops": [{**asdict(o), "flops_per_byte": o.intensity} for o in self.by_op()],
            "nodes": [{**asdict(n), "flops_per_byte": n.intensity} for n in self.nodes],
            "once": self.once,
            "unknown": self.unknown,
        }


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a profile."""
    return dict(json.loads(files("onnxprune.profiling").joinpath("profile.schema.json").read_text("utf-8")))
