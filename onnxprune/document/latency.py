"""Latencies by configuration: figures, distributions, and what disturbed them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.bench.result import Configuration
from onnxprune.bench.tables import speedup_text
from onnxprune.document.models import Models, configuration_title
from onnxprune.document.parts import Block, Cell, Column, Note, Section, Spread, Spreads, Table, name, number, text
from onnxprune.document.read import Results
from onnxprune.document.scores import confidence_text
from onnxprune.document.summary import ms_text, size_text
from onnxprune.report.tables import plural, shapes_text
from onnxprune.statistics.providers import short

_LATENCY = ("p50 ms", "p90 ms", "p99 ms", "samples/s")
_COSTS = ("load ms", "first run ms", "peak memory", "of it the model")
_DEVICE = ("device memory", "upload ms", "download ms")
_LISTED = 12  # names of nodes


def latency_section(models: Models, results: Results) -> Section:
    """One table and one chart for each configuration."""
    blocks: list[Block] = []
    number_of = 0
    for _, benchmark in results.benchmarks:
        for configuration in benchmark.configurations:
            number_of += 1
            blocks += _configuration(configuration, number_of)
    blocks += _quick(results)
    if not blocks:
        known = models.best("latency")
        told = f"Latency is known as medians only: {known.title}." if known else "Latency was not measured."
        blocks = [Note(f"{told} onnxprune bench A.onnx B.onnx -o bench.json tells it from noise.", "warning")]
    return Section("latency", "Latency", tuple(blocks), brief=True)


def _configuration(found: Configuration, k: int) -> Iterator[Block]:
    title = configuration_title(found.provider, found.batch, found.threads)
    yield _figures(found, f"latency-{k}", title)
    rows = tuple(Spread(m.model, np.concatenate([p.times.ms for p in m.processes])) for m in found.measurements)
    processes = plural(len(found.measurements[0].processes), "process", "processes")
    runs = f"{processes} of each model; each run counts: {', '.join(f'{r.ms.size:,} of {r.name}' for r in rows)}."
    yield Spreads(f"runs-{k}", f"Distribution of latency: {title}", rows, (runs,))
    yield from _remarks(found)


def _figures(found: Configuration, own: str, title: str) -> Table:
    titles = [*_LATENCY, "against the first", *_COSTS, *(_DEVICE if found.bound else ())]
    columns = (Column("model"), *(Column(t, t != "against the first") for t in titles))
    rows = []
    for m in found.measurements:
        times = m.times
        row = [name(m.model), *(number(v, _short(v)) for v in (times.p50, times.p90, times.p99))]
        rate = found.throughput(m)
        row.append(number(rate, f"{rate:,.4g}" if rate < 1e4 else f"{rate:,.0f}"))
        row.append(Cell(speedup_text(m.speedup).replace("..", " to "), m.speedup.value) if m.speedup else text("the first"))
        row += [number(m.session_ms, _short(m.session_ms)), number(m.first_ms, _short(m.first_ms))]
        row += [number(m.peak_bytes, size_text(m.peak_bytes)), number(m.added_bytes, size_text(m.added_bytes))]
        if found.bound:
            row.append(number(m.device_bytes, size_text(m.device_bytes or 0)))
            row += [number(v, _short(v or 0.0)) for v in (m.upload_ms, m.download_ms)]
        rows.append(tuple(row))
    compared = [m.speedup for m in found.measurements if m.speedup]
    ends = (
        f"; in brackets the {confidence_text(compared[0].confidence)} confidence interval of the ratio" if compared else ""
    )
    return Table(own, f"Latency: {title}. Inputs {shapes_text(found.inputs)}, {found.data}{ends}.", columns, tuple(rows))


def _short(value: float) -> str:
    return ms_text(value).removesuffix(" ms")


def _remarks(found: Configuration) -> Iterator[Note]:
    for m in found.measurements:
        if set(m.assigned) - {"CPUExecutionProvider"}:
            yield Note(f"Nodes of {m.model}: {', '.join(f'{n:,} on {short(p)}' for p, n in m.assigned.items())}.")
        if m.fallen_back:
            more = f" and {len(m.fallen_back) - _LISTED} more" if len(m.fallen_back) > _LISTED else ""
            yield Note(
                f"Nodes of {m.model} on a provider nobody asked for: {', '.join(m.fallen_back[:_LISTED])}{more}.", "warning"
            )
    if found.bound:
        yield Note("Latency is of computation alone: inputs and outputs stay on the device.")
    if found.noise:
        yield Note(f"Noisy: {'; '.join(found.noise)}.", "warning")


def _quick(results: Results) -> Iterator[Block]:
    """Times that a pruning took itself, shown where there is no benchmark."""
    if results.benchmarks:
        return
    for k, file in enumerate(results.of("prune")):
        latency = file.data.get("latency")
        if latency and all(latency[side]["ms"] for side in ("before", "after")):
            sides = (("before", file.data["input"]), ("after", file.data["output"]))
            rows = tuple(Spread(path, np.array(latency[side]["ms"], np.float64)) for side, path in sides)
            told = (
                "Both models in turn in one process, one sample. That tells a tendency; onnxprune bench tells it from noise."
            )
            yield Spreads(f"quick-{k}", "Distribution of latency: quick timing after pruning", rows, (told,))
