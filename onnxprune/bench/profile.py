"""Where the time of each model goes, side by side: by operator, and by node.

Times come from ONNX Runtime's profile, in a process of its own: taking them slows a model down, and operators of a device
may only be started, not awaited. Shares and differences are what they are good for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from onnxprune.bench.assignment import NodeTime, NodeTimes

_ADDED = ("_nchwc",)  # what ONNX Runtime's layout transformation adds to a name


@dataclass(frozen=True)
class Row:
    """An operator type or a node.

    Attributes:
        name: of the node; empty for an operator type.
        op: the operator, of the first model that has the node.
        ms: median time in a run, by name of the model; models that do not have it are left out.
        count: nodes, by name of the model.
    """

    name: str
    op: str
    ms: dict[str, float]
    count: dict[str, int]

    def gained(self, first: str, other: str) -> float:
        """Milliseconds that the other model takes less than the first."""
        return self.ms.get(first, 0.0) - self.ms.get(other, 0.0)


@dataclass(frozen=True)
class SideBySide:
    """The profiles of all models.

    Attributes:
        operators: by operator type, dearest first.
        nodes: in the order of the first model; those that only others have behind them.
        run_ms: median time of a profiled run, by name of the model.
        runs: that times are medians of, by name of the model.
    """

    operators: tuple[Row, ...]
    nodes: tuple[Row, ...]
    run_ms: dict[str, float]
    runs: dict[str, int]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> SideBySide:
        """From plain data."""
        known = {f.name: data[f.name] for f in fields(cls)}
        return cls(**{**known, **{k: tuple(Row(**r) for r in known[k]) for k in ("operators", "nodes")}})


def side_by_side(times: Mapping[str, NodeTimes]) -> SideBySide:
    """Puts the profiles of models together. A pruned node has the name of the node that it was.

    Args:
        times: by name of the model, the first one first.
    """
    operators: dict[str, Row] = {}
    nodes: dict[str, Row] = {}
    for model, found in times.items():
        for node in found.nodes:
            _add(operators.setdefault(node.op, Row("", node.op, {}, {})), model, node)
            name = plain_name(node.name)
            _add(nodes.setdefault(name, Row(name, node.op, {}, {})), model, node)
    first = next(iter(times))
    dearest = sorted(operators.values(), key=lambda r: -r.ms.get(first, 0.0))
    return SideBySide(
        tuple(dearest),
        tuple(nodes.values()),
        {model: found.run_ms for model, found in times.items()},
        {model: found.runs for model, found in times.items()},
    )


def plain_name(name: str) -> str:
    """A node's name without what ONNX Runtime adds to it."""
    for added in _ADDED:
        name = name.removesuffix(added)
    return name


def _add(row: Row, model: str, node: NodeTime) -> None:
    row.ms[model] = row.ms.get(model, 0.0) + node.ms
    row.count[model] = row.count.get(model, 0) + 1
