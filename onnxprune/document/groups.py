"""Groups and how much of each went, what reconstruction did behind each, and what could not go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.document.parts import NOT_MEASURED, Block, Cell, Column, Note, Section, Table, name, number, text
from onnxprune.document.read import Results
from onnxprune.document.scores import share_text
from onnxprune.groups.group import Frozen
from onnxprune.report.tables import frozen_reasons, plural, si

_LONG = 30  # rows, above which a table is folded
_MEMBERS = 3  # tensors named in a row


def groups_section(results: Results) -> Section:
    """One table for each pruning."""
    blocks: list[Block] = []
    for k, file in enumerate(results.of("prune"), 1):
        blocks += _groups(file.data["report"], k, file.data["output"])
    return Section("groups", "Groups", tuple(blocks))


def _groups(report: Mapping[str, Any], k: int, output: str) -> Iterator[Block]:
    losses = {loss["group"]: loss for loss in report.get("losses", ())}
    columns = (
        Column("group"), Column("kind"), Column("kept", True), Column("of units", True), Column("removed", True),
        Column("parameters of a unit", True), Column("lost before", True), Column("lost after", True), Column("tensor:axis"),
    )  # fmt: skip
    rows = [_group(g, losses.get(g["id"])) for g in report["groups"]]
    if "" in losses:
        loss = losses[""]
        blank = tuple(text("") for _ in range(5))
        rows.append((text("downstream"), *blank, *_lost(loss), name(loss["worst"])))
    caption = (
        f"Groups of channels that go together, {output}. Bars: all units, and those kept. "
        "A group is inexact where a statistic runs over it. "
        "Lost: mean share of the output variance of the nodes that read the group, on held-out samples, before and after "
        "reconstruction; nodes that lie behind a removal, but read no group that lost units, are downstream."
    )
    yield Table(f"groups-{k}", caption, columns, tuple(rows), folded=len(rows) > _LONG)
    if not losses:
        yield Note(f"Loss by group before and after reconstruction: {NOT_MEASURED}, no node was fitted.", "plain")
    worst = [loss for loss in report.get("losses", ()) if loss["lost_after"] is not None][:1]
    for loss in worst:
        told = "nodes downstream" if not loss["group"] else f"nodes that read {loss['group']}"
        before, after, most = (share_text(loss[side] or 0.0) for side in ("lost_before", "lost_after", "worst_after"))
        yield Note(
            f"Most is lost at {told}: {before} before reconstruction, {after} after; "
            f"the worst node is {loss['worst']} with {most}."
        )


def _group(g: Mapping[str, Any], loss: Mapping[str, Any] | None) -> tuple[Cell, ...]:
    kept, units = g["units"] - g["removed"], g["units"]
    gone = g["removed"] / units if units else 0.0
    members = [f"{weight}:{axis}" for weight, axis in g["members"]]
    shown = ", ".join(members[:_MEMBERS]) + (f" and {len(members) - _MEMBERS} more" if len(members) > _MEMBERS else "")
    return (
        Cell(g["id"], _order(g["id"]), bars=(1.0, kept / units if units else 0.0)),
        text(g["kind"] if g["exact"] else f"{g['kind']}, inexact"),
        number(kept, f"{kept:,}"),
        number(units, f"{units:,}"),
        number(gone, f"{share_text(gone, 0)}"),
        number(g["unit_params"], si(g["unit_params"] or 0.0).strip()),
        *(_lost(loss) if loss else (text("not read" if g["removed"] else ""),) * 2),
        name(shown),
    )


def _order(group: str) -> float | None:
    digits = group.lstrip("g")
    return float(digits) if digits.isdecimal() else None


def _lost(loss: Mapping[str, Any]) -> tuple[Cell, ...]:
    ends = (loss["lost_before"], loss["lost_after"])
    return tuple(number(v, f"{share_text(v)}" if v is not None else "") for v in ends)


def frozen_section(results: Results) -> Section:
    """Reasons with the number of axes they hold; each axis on demand."""
    blocks: list[Block] = []
    for k, file in enumerate(results.of("prune"), 1):
        frozen = [_frozen(f) for f in file.data["report"]["frozen"]]
        if frozen:
            blocks += _reasons(frozen, k, file.data["output"])
        else:
            blocks.append(Note(f"{file.data['output']}: no axis was frozen."))
    return Section("frozen", "What could not go, and why", tuple(blocks))


def _frozen(f: Mapping[str, Any]) -> Frozen:
    return Frozen(f["weight"], f["axis"], f["slices"], f["of"], f["reason"], f.get("inexact", False))


def _reasons(frozen: Sequence[Frozen], k: int, output: str) -> Iterator[Table]:
    counted = frozen_reasons(frozen)
    rows = tuple((text(reason), Cell(f"{axes:,}", axes)) for reason, axes in counted)
    counts = (Column("reason"), Column("axes", True))
    yield Table(f"reasons-{k}", f"Reasons why axes of tensors stay, {output}.", counts, rows, folded=len(rows) > _LONG)
    columns = (Column("tensor"), Column("axis", True), Column("slices held", True), Column("of", True), Column("reason"))
    each = tuple(
        (name(f.weight), Cell(str(f.axis), f.axis), Cell(f"{f.slices:,}", f.slices), Cell(f"{f.of:,}", f.of), text(f.reason))
        for f in frozen
    )
    yield Table(f"frozen-{k}", f"{plural(len(each), 'frozen axis', 'frozen axes')}, {output}.", columns, each, folded=True)
