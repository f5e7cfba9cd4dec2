"""Result files: which kind each is, told by its content, and whether it holds what is read of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxprune.bench.result import FORMAT as BENCH
from onnxprune.bench.result import Benchmark, load_benchmark
from onnxprune.errors import ModelError
from onnxprune.report.record import schema as prune_schema

_KINDS = {
    "onnxprune.prune": "onnxprune prune --report-out",
    BENCH: "onnxprune bench -o",
    "onnxprune.profile": "onnxprune profile --json",
    "onnxprune.compare": "onnxprune compare --json",
    "onnxprune.front": "onnxprune search (index.json)",
}
_LATEST = 1  # version of every kind that is read from plain data


@dataclass(frozen=True)
class ResultFile:
    """One file.

    Attributes:
        path: as it was given.
        kind: such as `onnxprune.prune`.
        sha256: of its content.
        data: its content.
    """

    path: str
    kind: str
    sha256: str
    data: Mapping[str, Any] = field(repr=False)

    @property
    def origin(self) -> str:
        """The command that writes such files."""
        return _KINDS[self.kind]


@dataclass(frozen=True)
class Results:
    """All files, by kind.

    Attributes:
        files: in the order they were given.
        benchmarks: those of `onnxprune bench`, typed.
    """

    files: tuple[ResultFile, ...]
    benchmarks: tuple[tuple[ResultFile, Benchmark], ...]

    def of(self, kind: str) -> list[ResultFile]:
        """Files of a kind, such as `prune`."""
        return [f for f in self.files if f.kind == f"onnxprune.{kind}"]


def read_results(paths: Iterable[str | os.PathLike[str]]) -> Results:
    """Reads result files; a file that is given twice counts once.

    Raises:
        ModelError: one can't be read, is no result, is of a later version, or lacks what a result has.
    """
    found: dict[str, ResultFile] = {}
    benchmarks = []
    for path in paths:
        file = _read(Path(path))
        if file.sha256 in found:
            continue
        found[file.sha256] = file
        if file.kind == BENCH:
            benchmarks.append((file, load_benchmark(path)))
    return Results(tuple(found.values()), tuple(benchmarks))


def _read(path: Path) -> ResultFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror or error})") from error
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is no JSON ({error}); give result files of onnxprune, not models or tables") from error
    kind = _kind(path, data)
    if kind != BENCH:
        _validate(path, kind, data)
    return ResultFile(str(path), kind, hashlib.sha256(content).hexdigest(), data)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _kind(path: Path, data: Any) -> str:
    declared = data.get("format") if isinstance(data, dict) else None
    if declared is None and isinstance(data, dict) and {"input", "output", "report"} <= data.keys():
        return "onnxprune.prune"  # files of programs before the format had a name
    known = "; ".join(_KINDS.values())
    if not isinstance(declared, str):
        raise ModelError(f"{path}: is no result file of onnxprune; a report reads those of {known}")
    kind, _, version = declared.partition("/")
    if kind not in _KINDS:
        raise ModelError(f"{path}: holds {declared[:60]!r}, of which there is no report; give files of {known}")
    if kind != BENCH and not (version.isdecimal() and 1 <= int(version) <= _LATEST):
        raise ModelError(f"{path}: holds {declared[:60]!r}; this onnxprune reads {kind}/{_LATEST} and earlier: update it")
    return kind


def _validate(path: Path, kind: str, data: Any) -> None:
    from jsonschema import Draft202012Validator

    wrong = next(Draft202012Validator(_schema(kind)).iter_errors(data), None)
    if wrong is not None:
        found = wrong.message if len(wrong.message) < 200 else f"{wrong.message[:200]} ..."
        raise ModelError(f"{path}: is damaged: {wrong.json_path}: {found}")


@cache
def _schema(kind: str) -> dict[str, Any]:
    if kind == "onnxprune.prune":
        return prune_schema()
    every = json.loads(files("onnxprune.document").joinpath("inputs.schema.json").read_text("utf-8"))
    return {**every, "$ref": f"#/$defs/{kind.removeprefix('onnxprune.')}"}
