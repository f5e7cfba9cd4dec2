"""The document of a set of result files."""

from __future__ import annotations

from collections.abc import Iterator

import onnxprune
from onnxprune.document.groups import frozen_section, groups_section
from onnxprune.document.latency import latency_section
from onnxprune.document.layers import layers_section
from onnxprune.document.models import Models, gather
from onnxprune.document.origin import commands_section, environment_section, missing_section
from onnxprune.document.outputs import outputs_section
from onnxprune.document.overview import models_section
from onnxprune.document.parts import Document, Section
from onnxprune.document.read import Results
from onnxprune.document.summary import facts, findings
from onnxprune.report.tables import plural


def build(results: Results, *, title: str = "", command: str = "") -> Document:
    """All that the files tell.

    Args:
        results: of `read_results`.
        title: of the document; the names of the models unless given.
        command: that the report comes from, for its last section.
    """
    models = gather(results)
    names = tuple(models.names)
    return Document(
        title or _title(names),
        f"{_when(results)}report of onnxprune {onnxprune.__version__} on {plural(len(results.files), 'file')}",
        tuple(facts(models, results)),
        tuple(findings(models, results)),
        tuple(s for s in _sections(models, results, command) if s.blocks),
        names,
    )


def _sections(models: Models, results: Results, command: str) -> Iterator[Section]:
    yield models_section(models)
    yield latency_section(models, results)
    yield layers_section(models, results)
    yield groups_section(results)
    yield outputs_section(results)
    yield frozen_section(results)
    yield missing_section(models, results)
    yield environment_section(results)
    yield commands_section(results, command)


def _title(names: tuple[str, ...]) -> str:
    if len(names) == 2:
        return f"{names[0]} → {names[1]}"
    return names[0] if len(names) == 1 else f"{names[0]} and {plural(len(names) - 1, 'variant')}"


def _when(results: Results) -> str:
    """The day of the last measurement."""
    days = sorted(str(f.data["created"])[:10] for f in results.files if f.data.get("created"))
    return f"Measured {days[-1]}, " if days else ""
