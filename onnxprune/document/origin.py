"""Where figures come from: the machine, the commands, the files, and what nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from onnxprune.document.models import Models
from onnxprune.document.parts import NOT_MEASURED, Block, Cell, Column, Command, Note, Section, Table, name, text
from onnxprune.document.read import Results
from onnxprune.document.summary import evaluations, size_text
from onnxprune.statistics.providers import short

_LABELS = {
    "cpu": "CPU", "cores": "cores", "logical_cores": "logical cores", "affinity": "bound to logical cores",
    "quota": "quota, cores' worth of time", "governor": "governor of the clock", "load": "load before", "memory": "memory",
    "system": "system", "python": "Python", "onnxruntime": "ONNX Runtime", "devices": "accelerators",
}  # fmt: skip

_OTHERS = {"front": "Search", "compare": "Compare", "profile": "Count"}


def environment_section(results: Results) -> Section:
    """One column for each measurement."""
    found = [(f.path, f.data.get("environment")) for kind in ("prune", "compare") for f in results.of(kind)]
    found += [(f.path, asdict(b.environment)) for f, b in results.benchmarks]
    known = [(path, e) for path, e in found if e]
    if not known:
        return Section("environment", "Environment", (Note("No file tells on which machine it was made.", "warning"),))
    columns = (Column(""), *(Column(path) for path, _ in known))
    rows = tuple((text(label), *(text(_value(key, e)) for _, e in known)) for key, label in _LABELS.items())
    return Section("environment", "Environment", (Table("machines", "Machine and software.", columns, rows),))


def _value(key: str, environment: Mapping[str, Any]) -> str:
    value = environment.get(key)
    if key == "devices":
        return ", ".join(value) if value else "none found"
    if key == "quota" and key in environment and value is None:
        return "no limit"
    if value is None or value == "":
        return "unknown"
    if key == "memory":
        return size_text(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def commands_section(results: Results, command: str) -> Section:
    """What to run for the same figures, and the files that were read."""
    blocks: list[Block] = []
    for file in results.of("prune"):
        if file.data.get("command"):
            blocks.append(Command(f"Prune ({file.path})", file.data["command"]))
        else:
            blocks.append(Note(f"{file.path} does not tell the command it came from.", "warning"))
    blocks += [Command(f"Measure ({f.path})", b.command) for f, b in results.benchmarks if b.command]
    for kind, title in _OTHERS.items():
        blocks += [Command(f"{title} ({f.path})", f.data["command"]) for f in results.of(kind) if f.data.get("command")]
    if command:
        blocks.append(Command("This report", command))
    columns = (
        Column("file"),
        Column("written by"),
        Column("onnxprune"),
        Column("created"),
        Column("SHA-256, first 16 digits"),
    )
    rows = tuple(
        (
            name(f.path),
            name(f.origin),
            *(text(str(f.data.get(k) or "not told")) for k in ("onnxprune", "created")),
            name(f.sha256[:16]),
        )
        for f in results.files
    )
    return Section("commands", "Reproduce", (*blocks, Table("files", "Files of this report.", columns, rows)))


def missing_section(models: Models, results: Results) -> Section:
    """What nobody measured, and what measures it."""
    rows = [(text(what), text(NOT_MEASURED), Cell(how)) for what, how in _missing(models, results)]
    if not rows:
        return Section("missing", "Not measured", (Note("All that a report shows was measured."),))
    columns = (Column("what"), Column("state"), Column("how to measure it"))
    return Section(
        "missing",
        "Not measured",
        (Table("unmeasured", "What no file of this report tells.", columns, tuple(rows)),),
        brief=True,
    )


def _missing(models: Models, results: Results) -> Iterator[tuple[str, str]]:
    scored = any(e.after is not None for e in evaluations(results)) or bool(results.of("front"))
    if not scored:
        yield "accuracy", "onnxprune prune --eval DATA, or onnxprune compare --metric"
    if not results.benchmarks:
        yield "latency beyond noise", "onnxprune bench A.onnx B.onnx -o bench.json"
    providers = _providers(results)
    if not any(p not in ("cpu", "xnnpack", "dnnl") for p in providers):
        ran = f"all measurements ran on {', '.join(providers)}; " if providers else ""
        yield "GPU and other accelerators", f"{ran}onnxprune bench --providers cuda"
    if results.benchmarks and not any(c.profile for _, b in results.benchmarks for c in b.configurations):
        yield "time of layers", "onnxprune bench --profile"
    for file in results.of("prune"):
        report = file.data["report"]
        if report.get("verification") is None:
            yield f"proof of the surgery of {file.data['output']}", report.get("unverified") or "onnxprune verify"
    if len(models) > 1 and not results.of("prune") and not results.of("front"):
        yield "groups, frozen axes, reconstruction", "onnxprune prune --report-out prune.json"


def _providers(results: Results) -> Sequence[str]:
    named = [c.provider for _, b in results.benchmarks for c in b.configurations]
    chains = [part for p in named for part in p.split("+")]
    return list(dict.fromkeys(short(p.partition(":")[0]).lower() for p in chains))
