"""A benchmark for people, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.bench.environment import Environment
from onnxprune.bench.profile import Row, SideBySide
from onnxprune.bench.result import Benchmark, BenchModel, Configuration
from onnxprune.bench.statistics import NO_DIFFERENCE, Speedup
from onnxprune.report.tables import Note, notes_table, plural, shapes_text, si
from onnxprune.statistics.providers import short

_LONGEST = 24  # characters of a model's name
_NOT_MEASURED = "not measured"
_NEAR = 1.1  # a ratio below is shown with one digit more
_ROWS = 12  # of a table of nodes, where not everything is asked for


def benchmark_tables(found: Benchmark, *, verbose: bool) -> list[RenderableType]:
    """Models, then what was measured in each configuration, then where."""
    shown: list[RenderableType] = [_models_table(found)]
    for configuration in found.configurations:
        shown.append(Text(_title(configuration), "bold"))
        shown.append(_latency_table(configuration))
        shown.append(_cost_table(configuration))
        if configuration.bound:
            shown.append(_device_table(configuration))
        shown.append(notes_table(_notes(configuration)))
        if configuration.profile is not None:
            shown += profile_tables(configuration.profile, verbose=verbose)
        shown.append(Text(""))
    shown.append(notes_table([Note("machine", machine_text(found.environment))]))
    return shown


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], overflow="fold", max_width=_LONGEST)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _models_table(found: Benchmark) -> Table:
    table = _table("model", "file", "parameters", "nodes", "MACs")
    macs = {m.model: m.macs for m in found.configurations[0].measurements}
    for model in found.models:
        table.add_row(Text(model.name), *_static(model), _or_dash(macs[model.name]))
    return table


def _static(model: BenchModel) -> tuple[str, str, str]:
    return f"{si(model.file_bytes)}B", f"{model.parameters:,}", f"{model.nodes:,}"


def _or_dash(number: int | None, unit: str = "") -> str:
    return "-" if number is None else f"{si(number)}{unit}".strip()


def _title(found: Configuration) -> str:
    threads = plural(found.threads, "thread") if found.threads else "threads as ONNX Runtime chooses"
    return f"{found.provider}, batch {found.batch}, {threads}"


def _latency_table(found: Configuration) -> Table:
    table = _table("model", "p50 ms", "p90 ms", "p99 ms", "samples/s", "against the first")
    for each in found.measurements:
        times = each.times
        row = (_ms(times.p50), _ms(times.p90), _ms(times.p99), f"{found.throughput(each):,.4g}")
        compared = speedup_text(each.speedup).replace(f"{NO_DIFFERENCE} ", f"{NO_DIFFERENCE}\n") if each.speedup else ""
        table.add_row(Text(each.model), *row, Text(compared))
    return table


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _cost_table(found: Configuration) -> Table:
    table = _table("model", "load ms", "first run ms", "peak memory", "of it model")
    for each in found.measurements:
        memory = f"{si(each.peak_bytes)}B", f"{si(each.added_bytes)}B"
        table.add_row(Text(each.model), _ms(each.session_ms), _ms(each.first_ms), *memory)
    return table


def _device_table(found: Configuration) -> Table:
    """What tensors that stay on the device take there, and what it costs to bring them."""
    table = _table("model", "device memory", "upload ms", "download ms")
    for each in found.measurements:
        memory = _NOT_MEASURED if each.device_bytes is None else f"{si(each.device_bytes)}B"
        table.add_row(Text(each.model), memory, _ms(each.upload_ms), _ms(each.download_ms))
    return table


def _ms(value: float | None) -> str:
    if value is None:
        return _NOT_MEASURED
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def speedup_text(found: Speedup) -> str:
    """Such as `1.32x faster (1.30..1.35)`, or that nothing can be told apart."""
    low, value, high = found.low, found.value, found.high
    if found.verdict == NO_DIFFERENCE:
        return f"{NO_DIFFERENCE} ({low:.3g}..{high:.3g})"
    if found.verdict == "slower":
        low, value, high = 1 / high, 1 / value, 1 / low
    digits = 3 if value < _NEAR else 2
    return f"{value:.{digits}f}x {found.verdict} ({low:.{digits}f}..{high:.{digits}f})"


def _notes(found: Configuration) -> list[Note]:
    first = found.measurements[0]
    runs = min(len(m.times.ms) for m in found.measurements)
    text = f"{plural(len(first.processes), 'process', 'processes')} of each model, {plural(runs, 'run')} or more in all"
    compared = [m.speedup for m in found.measurements if m.speedup]
    if compared:
        text += f"; in brackets the {compared[0].confidence * 100:.4g} % confidence interval of the ratio"
    notes = [Note("measured", text), Note("inputs", f"{shapes_text(found.inputs)}, {found.data}")]
    for each in found.measurements:
        if set(each.assigned) - {"CPUExecutionProvider"}:
            nodes = ", ".join(f"{n} on {short(p)}" for p, n in each.assigned.items())
            notes.append(Note("nodes", f"{each.model}: {nodes}"))
        if each.fallen_back:
            notes.append(Note("fell back", f"{each.model}: {_listed(each.fallen_back)}", "bold yellow"))
    if found.bound:
        notes.append(Note("latency", "computation alone: inputs and outputs stay on the device"))
    notes += [Note("noisy", reason, "bold yellow") for reason in found.noise]
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_ROWS]) + (f" and {len(names) - _ROWS} more" if len(names) > _ROWS else "")


def machine_text(found: Environment) -> str:
    """One line."""
    parts = [found.cpu, f"{found.cores or '?'} cores ({found.logical_cores} logical)"]
    if found.affinity is not None and len(found.affinity) < found.logical_cores:
        parts.append(f"bound to {len(found.affinity)} of them")
    if found.quota is not None:
        parts.append(f"{found.quota:.3g} cores' worth of time")
    parts.append(f"governor {found.governor}" if found.governor else "governor unknown")
    if found.load is not None:
        parts.append(f"load {found.load} before")
    parts += [*found.devices, found.system, f"Python {found.python}", f"ONNX Runtime {found.onnxruntime}"]
    return ", ".join(parts)


# ---- where the time goes ----


def profile_tables(found: SideBySide, *, verbose: bool) -> list[RenderableType]:
    """Operators and nodes of all models side by side; of the nodes those that changed most, unless all are asked for."""
    names = list(found.run_ms)
    shown: list[RenderableType] = [Text("ms in a profiled run, by operator", "bold")]
    shown.append(_rows_table("operator", [(r.op, r) for r in found.operators], names))
    rows = list(found.nodes)
    title = "ms in a profiled run, by node"
    if not verbose and len(rows) > _ROWS:
        rows = _most_telling(rows, names)
        title += f": the {_ROWS} of {len(found.nodes)} that {'differ' if len(names) > 1 else 'cost'} most (-v shows all)"
    shown += [Text(title, "bold"), _rows_table("node", [(f"{r.name} ({r.op})", r) for r in rows], names)]
    numbers = ", ".join(f"{n} {found.run_ms[n]:.3g} ms ({plural(found.runs[n], 'run')})" for n in names)
    note = f"whole profiled runs take {numbers}; profiling slows small operators down"
    shown.append(notes_table([Note("profile", note)]))
    return shown


def _most_telling(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    first, others = names[0], names[1:]

    def weight(row: Row) -> float:
        return max((abs(row.gained(first, other)) for other in others), default=row.ms.get(first, 0.0))

    return sorted(rows, key=weight, reverse=True)[:_ROWS]


def _rows_table(kind: str, rows: Iterable[tuple[str, Row]], names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, overflow="fold", ratio=1)
    for name in names:
        table.add_column(Text(_short(name)), justify="right", overflow="fold")
    if len(names) == 2:
        table.add_column("gained", justify="right", no_wrap=True)
    for label, row in rows:
        cells = [f"{row.ms[n]:.3f}" if n in row.ms else "-" for n in names]
        gained = [f"{row.gained(*names):+.3f}"] if len(names) == 2 else []
        table.add_row(Text(label), *cells, *gained)
    return table
