"""Names of what passes made, in the end."""

from __future__ import annotations

from onnxprune.cleanup.reading import all_values
from onnxprune.cleanup.work import MARK, Work


def settle_names(work: Work) -> None:
    """A value that took the place of another gets its name, where that is free; else the name with a number.

    Numbers are given in the order of the graph, so that they don't tell how often passes ran.
    """
    values = list(all_values(work.model))
    taken = {str(v.name) for v in values if v.name and MARK not in v.name}
    for value in values:
        if not value.name or MARK not in value.name:
            continue
        stem = value.name.split(MARK)[0]
        name, count = stem, 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        value.name = name
    _name_nodes(work)


def _name_nodes(work: Work) -> None:
    """Nodes without a name stay without one in models that name none; new ones are called after their first output."""
    nodes = list(work.nodes())
    if not any(n.name for n in nodes):
        return
    taken = {n.name for n in nodes}
    for node in nodes:
        if node.name is None and node.outputs and node.outputs[0].name:
            name, count = node.outputs[0].name, 0
            while name in taken:
                count += 1
                name = f"{node.outputs[0].name}_{count}"
            taken.add(name)
            node.name = name
