"""What each layer costs in each model: multiply-accumulates, weights, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnxprune.bench.profile import Row, SideBySide
from onnxprune.document.models import Models, configuration_title
from onnxprune.document.parts import Block, Cell, Column, Note, Section, Table, name, text
from onnxprune.document.read import Results
from onnxprune.document.summary import count_text
from onnxprune.report.tables import percent, shapes_text

_SHOWN = 12  # layers that are not folded away


@dataclass
class Costs:
    """One quantity by layer.

    Attributes:
        title: of the quantity, with what it is of.
        unit: `ms`, or empty for counts.
        models: names, the first one is what the others are compared with.
        rows: (layer, operator) -> cost by model.
    """

    title: str
    unit: str
    models: tuple[str, ...]
    rows: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


def layers_section(models: Models, results: Results) -> Section:
    """Tables with bars, the dearest layers first; the others on demand."""
    blocks: list[Block] = []
    profiled, pruned = [*_of_profiles(models, results)], [*_of_prunings(models, results)]
    compared = any(len(costs.models) > 1 for _, costs in profiled)
    counted = profiled if compared or not pruned else pruned
    for kind, costs in counted:
        blocks += _tables(costs, kind)
    timed = False
    for k, profile, title in _profiles(results):
        timed = True
        costs = Costs(f"Time of layers, {title}", "ms", tuple(profile.run_ms))
        costs.rows = {(row.name, row.op): dict(row.ms) for row in profile.nodes}
        blocks += _tables(costs, f"time-{k}")
        blocks.append(_operators(profile, k, title))
        runs = ", ".join(f"{n} {profile.run_ms[n]:.3g} ms" for n in profile.run_ms)
        blocks.append(
            Note(f"A whole profiled run takes {runs}. Profiling slows small operators down: shares and differences count.")
        )
    if not counted:
        blocks.append(
            Note("MACs and parameters of layers: not measured; add the files of onnxprune profile MODEL --json.", "warning")
        )
    if not timed:
        blocks.append(Note("Time of layers: not measured; onnxprune bench --profile measures it.", "warning"))
    return Section("layers", "Layers", tuple(blocks))


def _profiles(results: Results) -> Iterator[tuple[int, SideBySide, str]]:
    k = 0
    for _, benchmark in results.benchmarks:
        for c in benchmark.configurations:
            if c.profile is not None:
                k += 1
                yield k, c.profile, configuration_title(c.provider, c.batch, c.threads)


def _of_profiles(models: Models, results: Results) -> Iterator[tuple[str, Costs]]:
    """From `onnxprune profile`; those of the same input shapes side by side."""
    by_shapes: dict[str, list[tuple[str, Mapping[str, object]]]] = {}
    for file in results.of("profile"):
        own = models.name(models.add(file.data["model"]))
        by_shapes.setdefault(shapes_text(file.data["shapes"]), []).append((own, file.data))
    for k, (shapes, found) in enumerate(by_shapes.items()):
        for quantity, title in (("macs", "MACs"), ("params", "Parameters")):
            costs = Costs(f"{title} of layers, one run with {shapes}", "", tuple(n for n, _ in found))
            for own, data in found:
                for node in data["nodes"]:  # type: ignore[attr-defined]
                    if node[quantity]:
                        row = costs.rows.setdefault((node["name"], node["op"]), {})
                        row[own] = row.get(own, 0) + node[quantity]
            yield f"{quantity}-{k + 1}", costs


def _of_prunings(models: Models, results: Results) -> Iterator[tuple[str, Costs]]:
    for k, file in enumerate(results.of("prune")):
        data, report = file.data, file.data["report"]
        if not report.get("layers"):
            continue
        hashes = data.get("sha256") or {}
        pair = tuple(models.name(models.add(data[s], hashes.get(s, ""))) for s in ("input", "output"))
        run = f"one run with {shapes_text(report['shapes'])}" if report.get("shapes") else "one run"
        for quantity, title in (("macs", "MACs"), ("params", "Parameters")):
            costs = Costs(f"{title} of layers, {run}", "", pair)
            for row in report["layers"]:
                if row[f"{quantity}_before"]:
                    sides = (row[f"{quantity}_before"], row[f"{quantity}_after"])
                    costs.rows[row["name"], row["op"]] = dict(zip(pair, sides, strict=True))
            yield f"{quantity}-{k + 1}", costs


def _tables(costs: Costs, kind: str) -> Iterator[Table]:
    """The dearest layers; where there are more, all of them in the order of the model, folded."""
    if not costs.rows:
        return
    ordered = sorted(costs.rows.items(), key=lambda item: -max(item[1].values(), default=0.0))
    if len(ordered) <= _SHOWN:
        yield _table(costs, kind, list(costs.rows.items()), costs.title)
        return
    yield _table(costs, kind, ordered[:_SHOWN], f"{costs.title}: the {_SHOWN} dearest of {len(ordered):,}")
    yield _table(
        costs, f"{kind}-all", list(costs.rows.items()), f"{costs.title}: all {len(ordered):,}, in order", folded=True
    )


def _table(
    costs: Costs, kind: str, rows: list[tuple[tuple[str, str], dict[str, float]]], caption: str, *, folded: bool = False
) -> Table:
    most = max((v for _, row in rows for v in row.values()), default=0.0) or 1.0
    columns = [Column("layer"), *(Column(f"{m}, {costs.unit}" if costs.unit else m, True) for m in costs.models)]
    if len(costs.models) == 2:
        columns.append(Column("change", True))
    shown = []
    for (layer, op), row in rows:
        bars = tuple(None if m not in row else row[m] / most for m in costs.models)
        label = layer if op == layer or not op else f"{layer} ({op})"
        cells = [Cell(label, code=True, bars=bars)]
        cells += [_cost(row.get(m), costs.unit) for m in costs.models]
        if len(costs.models) == 2:
            cells.append(_change(*(row.get(m) for m in costs.models)))
        shown.append(tuple(cells))
    return Table(kind, f"{caption}.", tuple(columns), tuple(shown), folded=folded)


def _cost(value: float | None, unit: str) -> Cell:
    if value is None:
        return text("gone")
    return Cell(f"{value:.3f}" if unit else count_text(value), float(value))


def _change(before: float | None, after: float | None) -> Cell:
    if before is None:
        return text("new")
    if after is None:
        return text("gone")
    return Cell(percent(before, after) or "0.0 %", after / before - 1 if before else 0.0)


def _operators(profile: SideBySide, k: int, title: str) -> Table:
    names = tuple(profile.run_ms)
    columns = (Column("operator"), *(Column(f"{n}, ms", True) for n in names), *(Column(f"{n}, nodes", True) for n in names))
    rows = tuple(_operator(row, names) for row in profile.operators)
    return Table(f"operators-{k}", f"Time by operator, {title}.", columns, rows)


def _operator(row: Row, names: tuple[str, ...]) -> tuple[Cell, ...]:
    times = [_cost(row.ms.get(n), "ms") if n in row.ms else text("none") for n in names]
    counts = [Cell(f"{row.count.get(n, 0):,}", row.count.get(n, 0)) for n in names]
    return (name(row.op), *times, *counts)
