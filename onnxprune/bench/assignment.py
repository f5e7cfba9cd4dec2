"""Reads ONNX Runtime's profile: which node ran where, and how long it took.

Source: the trace of `SessionOptions.enable_profiling`, a list of events in Chrome's format with times in microseconds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import ModelError, UsageError
from onnxprune.statistics.providers import Providers, short

_KERNEL = "_kernel_time"
_COPIES = ("MemcpyFromHost", "MemcpyToHost")
_WHOLE = ("int", "uint", "bool")
_FEW = 64  # elements of a tensor that holds a shape, or bounds of a slice
_SHOWN = 3


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that ONNX Runtime made of the model.

    Attributes:
        name: of the node, as ONNX Runtime calls it.
        op: operator, possibly one that ONNX Runtime fused from several.
        provider: that it ran on, by ONNX Runtime's name.
        ms: median time in a run of the model, without that of nodes in its bodies.
        shapes: it makes nothing but few integers or truth values, which providers of devices leave to the CPU.
    """

    name: str
    op: str
    provider: str
    ms: float
    shapes: bool


@dataclass(frozen=True)
class NodeTimes:
    """Nodes in the order in which they ran.

    Attributes:
        nodes: each once.
        runs: of the model, that times are medians of.
        run_ms: median time of a run of the model while it was profiled.
    """

    nodes: tuple[NodeTime, ...]
    runs: int
    run_ms: float

    def assigned(self) -> dict[str, int]:
        """Number of nodes on each provider, copies between devices left out."""
        return dict(Counter(n.provider for n in self.nodes if n.op not in _COPIES))


def read_profile(path: str | Path, skip: int = 1) -> NodeTimes:
    """Reads a profile.

    Args:
        path: file that ONNX Runtime wrote.
        skip: first runs that don't count, if there are others.

    Raises:
        ModelError: the file is no profile of a run.
    """
    try:
        events = json.loads(Path(path).read_text("utf-8"))
        runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no profile of ONNX Runtime ({error})") from error
    runs = runs[skip:] or runs
    if not runs:
        raise ModelError(f"{path}: ONNX Runtime's profile holds no run")
    found: dict[tuple[str, str], tuple[dict[str, Any], list[float]]] = {}
    for k, event, own in _counted(nodes, runs):
        key = (event["name"], event["args"].get("node_index", ""))
        found.setdefault(key, (event, [0.0] * len(runs)))[1][k] += own
    return NodeTimes(
        tuple(_node(event, float(np.median(times)) / 1e3) for event, times in found.values()),
        len(runs),
        float(np.median([stop - start for start, stop in runs])) / 1e3,
    )


def _counted(
    nodes: Sequence[dict[str, Any]], runs: Sequence[tuple[float, float]]
) -> Iterator[tuple[int, dict[str, Any], float]]:
    """Number of the run, event and time in microseconds of each event within the runs."""
    from bisect import bisect_right

    for event, own in zip(*_own_times(nodes), strict=True):
        k = bisect_right(runs, (event["ts"], math.inf)) - 1
        if k >= 0 and event["ts"] <= runs[k][1]:
            yield k, event, own


def _own_times(events: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
    """Events in order, and their times in microseconds without those of events within them (nodes of bodies)."""
    ordered = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    own = [float(e["dur"]) for e in ordered]
    around: list[int] = []
    for k, event in enumerate(ordered):
        while around and ordered[around[-1]]["ts"] + ordered[around[-1]]["dur"] < event["ts"] + max(event["dur"], 1):
            around.pop()
        if around:
            own[around[-1]] -= event["dur"]
        around.append(k)
    return ordered, own


def _node(event: Mapping[str, Any], ms: float) -> NodeTime:
    details = event["args"]
    name = str(event["name"]).removesuffix(_KERNEL)
    made = [(kind, shape) for each in details.get("output_type_shape", ()) for kind, shape in each.items()]
    few = bool(made) and all(kind.startswith(_WHOLE) and math.prod(shape) <= _FEW for kind, shape in made)
    return NodeTime(name, str(details.get("op_name", "")), str(details.get("provider", "")), ms, few)


def fallen_back(times: NodeTimes, providers: Providers) -> list[NodeTime]:
    """Nodes that ran on a provider that nobody asked for; what computes shapes and copies tensors does not count."""
    asked = {name for name, _ in providers.chosen}
    return [n for n in times.nodes if n.provider not in asked and n.op not in _COPIES and not n.shapes]


def check_assignment(name: str, times: NodeTimes, providers: Providers) -> None:
    """Makes sure that a model ran where it was to run.

    Raises:
        UsageError: nodes ran on a provider that was not asked for, or one that was ran none; lists what there is.
    """
    from onnxprune.statistics.providers import available

    there = ", ".join(short(p) for p in available())
    advice = f"this ONNX Runtime has {there}; --allow-fallback runs it all the same"
    lost = fallen_back(times, providers)
    total = sum(times.assigned().values())
    asked = " and ".join(short(p) for p, _ in providers.chosen)
    if lost:
        where = " and ".join(dict.fromkeys(short(n.provider) for n in lost))
        nodes = ", ".join(f"{n.name!r} ({n.op})" for n in lost[:_SHOWN])
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise UsageError(f"{name}: {len(lost)} of {total} nodes fell back from {asked} to {where}: {nodes}{more}; {advice}")
    idle = [short(p) for p, _ in providers.chosen[:1] if p not in times.assigned()]
    if idle and total:
        raise UsageError(f"{name}: {idle[0]} was asked for, but runs none of its {total} nodes; {advice}")
