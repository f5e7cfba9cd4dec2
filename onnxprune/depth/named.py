"""Names that options use: which branches they leave alone, and groups of the shorter model by the ids of the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from onnxprune.depth.branches import Branch
from onnxprune.groups.group import Group, Groups
from onnxprune.select.allocate import Options, matches

Number = TypeVar("Number", int, float)


def left_alone(branch: Branch, options: Options, groups: Groups) -> str:
    """Why the options keep a branch; empty where they don't.

    What is ignored stays, and what has a ratio or a floor of its own; with `only`, all linear nodes that go have to be
    named.
    """
    lost = {g.id for g in groups.groups if {w for w, _ in g.members} <= branch.gone}
    names = {*branch.nodes, *branch.weights, *lost}
    for text, patterns in (
        ("is to be ignored", options.ignore),
        ("has a ratio of its own", options.ratios),
        ("has a least width of its own", options.floors),
    ):
        if any(_named(names, [p]) for p in patterns):
            return f"a node, weight or group of it {text}"
    for node, weight in zip(branch.nodes, branch.weights, strict=True):
        if options.only and not _named([node, weight], options.only):
            return f"node {node!r} is not among what may go"
    return ""


def _named(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(n, p) for n in names for p in patterns)


def named_like(groups: Groups, source: Groups) -> None:
    """Gives groups of a shorter model the ids that they have in the source: those of the groups that share most with them.

    Where a group of the source falls apart, its parts are numbered.
    """
    members = {g.id: (g.kind, set(g.members)) for g in source.groups}
    wanted = {}
    for group in groups.groups:
        shared = {i: len(own & set(group.members)) for i, (kind, own) in members.items() if kind == group.kind}
        first = max(shared, key=lambda i: shared[i], default="")
        if first and shared[first]:
            wanted[group.id] = first
    rename(groups, wanted)


def rename(groups: Groups, wanted: Mapping[str, str]) -> None:
    """Gives groups other ids, numbered where several want the same: `g3`, `g3.1`; `new-g5` for those that want none."""
    count: dict[str, int] = {}
    new: dict[str, str] = {}
    for group in groups.groups:
        first = wanted.get(group.id) or f"new-{group.id}"
        number = count.get(first, 0)
        count[first] = number + 1
        new[group.id] = f"{first}.{number}" if number else first
    for group in groups.groups:
        group.id = new[group.id]
        group.alternatives = [new.get(a, a) for a in group.alternatives]


def still_there(options: Options, groups: Groups, competing: Sequence[Group]) -> Options:
    """The options for a shorter model.

    What was named alone may be gone, and then nothing else may go. What is said of a group holds for all parts of it.

    Args:
        options: for the source.
        groups: of the shorter model, named like those of the source.
        competing: groups of the source that may go.
    """
    parts = [g for g in groups.groups if "." in g.id]
    options = replace(
        options,
        ignore=(*options.ignore, *_of_parts(parts, dict.fromkeys(options.ignore, 0))),
        ratios={**options.ratios, **_of_parts(parts, options.ratios)},
        floors={**options.floors, **_of_parts(parts, options.floors)},
    )
    if not options.only:
        return options
    wanted = {g.id for g in competing}
    left = tuple(g.id for g in groups.groups if g.id.partition(".")[0] in wanted)
    return replace(options, only=left) if left else replace(options, only=(), ignore=("*",))


def _of_parts(parts: Sequence[Group], said: Mapping[str, Number]) -> dict[str, Number]:
    """By id of a part what the last glob says that is about it, or about the whole."""
    return {
        g.id: number
        for g in parts
        for glob, number in said.items()
        if matches(g, glob) or fnmatchcase(g.id.partition(".")[0], glob)
    }
