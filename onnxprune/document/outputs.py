"""How far the outputs of models are from each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.document.parts import Block, Cell, Column, Note, Section, Table, name, number, text
from onnxprune.document.read import Results

_LISTED = 3  # nodes and causes of a divergence


def outputs_section(results: Results) -> Section:
    """Likeness of outputs on calibration and evaluation samples, worst samples, and comparisons."""
    blocks: list[Block] = []
    for k, file in enumerate(results.of("prune"), 1):
        blocks += _likeness(file.data, k)
    for k, file in enumerate(results.of("compare"), 1):
        blocks += _comparison(file.data, k)
    return Section("outputs", "Outputs", tuple(blocks))


def _likeness(data: Mapping[str, Any], k: int) -> Iterator[Block]:
    found = [("calibration", f) for f in data["report"].get("fidelity", ())]
    found += [("evaluation", f) for f in (data.get("evaluation") or {}).get("fidelity", ())]
    if not found:
        return
    columns = (
        Column("samples"), Column("output"), Column("relative error", True), Column("cosine", True),
        Column("same top-1 class (95 %)", True), Column("samples compared", True),
    )  # fmt: skip
    caption = f"Outputs of {data['output']} against {data['input']}: norm of the difference over the norm, mean cosine."
    yield Table(f"likeness-{k}", caption, columns, tuple(_row(where, f) for where, f in found))
    farthest = (Column("samples"), Column("output"), Column("sample", True), Column("relative error", True), Column("file"))
    rows = tuple(
        (text(where), name(f["output"]), Cell(f"{w['sample']:,}", w["sample"]), _share(w["error"]), name(w["file"]))
        for where, f in found
        for w in f["worst"]
    )
    yield Table(f"worst-{k}", f"Samples whose outputs changed most, {data['output']}.", farthest, rows, folded=True)


def _row(where: str, f: Mapping[str, Any]) -> tuple[Cell, ...]:
    count = Cell(f"{f['samples']:,}", f["samples"])
    return text(where), name(f["output"]), _share(f["relative_error"]), _plain(f["cosine"], "{:.4f}"), _agreement(f), count


def _share(value: float | None) -> Cell:
    return text("infinite") if value is None else Cell(f"{value * 100:.1f} %", value)


def _plain(value: float | None, form: str) -> Cell:
    return number(value, form.format(value) if value is not None else "")


def _agreement(f: Mapping[str, Any]) -> Cell:
    agreement, ends = f.get("agreement"), f.get("interval")
    if agreement is None:
        return text("no classes")
    inside = f" ({ends[0] * 100:.1f} to {ends[1] * 100:.1f})" if ends else ""
    return Cell(f"{agreement * 100:.1f} %{inside}", agreement)


def _comparison(data: Mapping[str, Any], k: int) -> Iterator[Block]:
    pair = f"{data['second']} against {data['first']}"
    columns = (
        Column("output"), Column("largest difference", True), Column("relative error", True), Column("cosine", True),
        Column("same largest elements", True), Column("samples", True), Column("within tolerance"),
    )  # fmt: skip
    rows = tuple(_compared(o) for o in data["outputs"])
    yield Table(f"compared-{k}", f"Comparison of {pair} on {data['data']}.", columns, rows)
    for line in data["exceeded"]:
        yield Note(line, "bad")
    trail = data.get("trail")
    if trail and trail["divergences"]:
        yield _divergences(trail["divergences"], k)
    for line in data.get("notes", ()):
        yield Note(line)


def _compared(o: Mapping[str, Any]) -> tuple[Cell, ...]:
    passed = {None: "not asked for", True: "yes", False: "no"}[o.get("passed")]
    largest = text("infinite") if o["max_abs"] is None else Cell(f"{o['max_abs']:.3g}", o["max_abs"])
    count = Cell(f"{o['samples']:,}", o["samples"])
    told = f"{passed}: {o['message']}" if o.get("message") else passed
    return (
        name(o["output"]),
        largest,
        _share(o["relative_error"]),
        _plain(o["cosine"], "{:.4f}"),
        _agreement(o),
        count,
        text(told),
    )


def _first(texts: Sequence[str], separator: str) -> str:
    rest = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return separator.join(texts[:_LISTED]) + rest


def _divergences(found: Sequence[Mapping[str, Any]], k: int) -> Table:
    columns = (Column("tensor"), Column("operator"), Column("nodes"), Column("error", True), Column("likely cause"))
    rows = tuple(
        (
            name(d["tensor"]),
            name(d["op"]),
            name(_first(d["nodes"], ", ")),
            _share(d["error"]),
            text(_first(d["causes"], "; ")),
        )
        for d in found
    )
    return Table(f"divergences-{k}", "Where the models part: tensors that differ though their inputs do not.", columns, rows)
