"""A picture of the groups over the graph, as Graphviz text or SVG.

Every node of the model is a box in the colours of the groups whose weights it reads or whose channels it passes on,
grey where it reads weights that can't shrink, white where neither holds. Tooltips tell group ids, members and reasons.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import UsageError
from onnxprune.groups.group import Group, Groups
from onnxprune.trace.value import Value

_FROZEN = "#c8c8c8"
_PLAIN = "#ffffff"
_STRIPES = 4  # more colours than that can't be told apart in one box


def dot(groups: Groups) -> str:
    """Graphviz text.

    Args:
        groups: result of `analyze`.
    """
    graph = groups.trace.graph
    picture = _Picture(groups)
    lines = [
        "digraph onnxprune {",
        '  graph [rankdir=TB, tooltip="groups of onnxprune"];',
        '  node [shape=box, fontname="Helvetica", fontsize=10, style=filled, fillcolor="#ffffff"];',
        '  edge [color="#808080", arrowsize=0.6];',
    ]
    made: dict[str, str] = {}
    for k, t in enumerate(graph.inputs):
        if not isinstance(t, gs.Constant):
            made[t.name] = f"i{k}"
            lines.append(f"  i{k} [shape=ellipse, label={_quoted(t.name)}];")
    for k, node in enumerate(graph.nodes):
        lines.append(f"  n{k} [{picture.attributes(node)}];")
        made.update((t.name, f"n{k}") for t in node.outputs if t.name)
    for k, node in enumerate(graph.nodes):
        sources = dict.fromkeys(made[name] for name in _read(node) if name in made)
        lines += [f"  {source} -> n{k};" for source in sources]
    for k, t in enumerate(graph.outputs):
        lines.append(f"  o{k} [shape=ellipse, label={_quoted(t.name)}];")
        if t.name in made:
            lines.append(f"  {made[t.name]} -> o{k};")
    return "\n".join([*lines, "}"]) + "\n"


def svg(text: str) -> str:
    """Renders Graphviz text.

    Raises:
        UsageError: Graphviz is not installed; says what to install.
    """
    try:
        import graphviz
    except ImportError:
        raise UsageError(
            "an SVG picture needs Graphviz: install its `dot` program and `pip install graphviz`, or use --dot"
        ) from None
    try:
        return str(graphviz.Source(text).pipe(format="svg", encoding="utf-8"))
    except graphviz.ExecutableNotFound:
        raise UsageError(
            "an SVG picture needs Graphviz's `dot` program: install it (package `graphviz`), or use --dot"
        ) from None
    except graphviz.CalledProcessError as error:
        raise UsageError(f"Graphviz can't draw it ({str(error).splitlines()[0]}); use --dot") from None


class _Picture:
    """What is known of each node: its groups, its frozen weights."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.shown = _first_of_alternatives(groups.groups)
        self.color = {g.id: _color(k) for k, g in enumerate(self.shown)}
        self.by_id = {g.id: g for g in self.shown}
        self.of_class = np.full(groups.classes.count, -1, np.int64)
        for k, group in enumerate(self.shown):
            for bucket in group.buckets:
                for unit in bucket:
                    self.of_class[unit] = k
        self.frozen: dict[str, list[str]] = {}
        for f in groups.frozen:
            self.frozen.setdefault(f.weight, []).append(f"{f.weight} axis {f.axis}: {f.reason}")
        self.members: dict[str, list[str]] = {}
        for group in self.shown:
            for weight, _ in group.members:
                self.members.setdefault(weight, []).append(group.id)

    def attributes(self, node: gs.Node) -> str:
        """Graphviz attributes of one node."""
        names = list(_read(node))
        found = dict.fromkeys(g for name in names for g in self.members.get(name, ()))
        values = self.groups.trace.values
        for t in node.outputs:
            found.update(dict.fromkeys(self._passing(values.get(t.name))))
        reasons = [reason for name in names for reason in self.frozen.get(name, ())]
        colors = [self.color[g] for g in found][:_STRIPES] or [_FROZEN if reasons else _PLAIN]
        label = "\n".join([node.op, " ".join(found)]) if found else node.op
        tooltip = [node.name or node.op, *(_described(self.by_id[g]) for g in found)]
        tooltip += [f"frozen: {reason}" for reason in reasons]
        parts: Mapping[str, str] = {
            "label": label,
            "fillcolor": ":".join(colors),
            "style": "striped" if len(colors) > 1 else "filled",
            "tooltip": "\n".join(tooltip),
        }
        return ", ".join(f"{key}={_quoted(value)}" for key, value in parts.items())

    def _passing(self, value: Value | None) -> Iterable[str]:
        """Ids of the groups whose channels a tensor carries."""
        if value is None:
            return
        for f in value.fields:
            ids = np.unique(self.of_class[self.groups.classes.of_label[f.labels]])
            yield from (self.shown[k].id for k in ids if k >= 0)


def _first_of_alternatives(groups: Iterable[Group]) -> list[Group]:
    """The groups without those that cut the same weights as an earlier one of another kind."""
    shown: dict[str, Group] = {}
    for group in groups:
        if not any(other in shown for other in group.alternatives):
            shown[group.id] = group
    return list(shown.values())


def _described(group: Group) -> str:
    exact = "" if group.exact else f", inexact: {group.note}"
    return f"{group.id}: {group.units} {group.kind} units{exact}"


def _read(node: gs.Node) -> Iterable[str]:
    """Names of the tensors that a node or its bodies read, once each."""
    names: dict[str, Any] = {t.name: None for t in node.inputs if t.name}
    for body in node.subgraphs():
        for inner in body.nodes:
            names.update(dict.fromkeys(_read(inner)))
    return names


def _color(k: int) -> str:
    """Colours as far apart as possible: steps of the golden ratio around the wheel, in three shades (HSV)."""
    hue, saturation, value = (k * 0.6180339887) % 1, (0.45, 0.3, 0.6)[k % 3], (1.0, 0.92, 0.85)[k // 3 % 3]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
