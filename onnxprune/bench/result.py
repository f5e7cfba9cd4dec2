"""What a benchmark found, as typed data and as JSON by the schema beside this file."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.bench.environment import Environment
from onnxprune.bench.profile import SideBySide
from onnxprune.bench.statistics import Speedup
from onnxprune.bench.timing import Times
from onnxprune.errors import ModelError

FORMAT = "onnxprune.bench"
VERSION = 1


@dataclass(frozen=True)
class BenchModel:
    """One of the models.

    Attributes:
        name: short, different for each.
        path: of its file; empty for a model in memory.
        sha256: of its content.
        file_bytes: of the file and its external data.
        parameters: elements of stored tensors.
        nodes: of the graph and its bodies.
    """

    name: str
    path: str
    sha256: str
    file_bytes: int
    parameters: int
    nodes: int


@dataclass(frozen=True)
class ProcessRun:
    """What one process measured.

    Attributes:
        times: of its runs.
        session_ms: creation of the session.
        first_ms: the first run.
        peak_bytes: the most host memory that the process had.
        base_bytes: host memory before the session was created: Python, ONNX Runtime, the inputs.
        device_bytes: memory that the session took on the device; None where that was not measured.
    """

    times: Times
    session_ms: float
    first_ms: float
    peak_bytes: int
    base_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class Measurement:
    """One model in one configuration.

    Attributes:
        model: its name.
        macs: multiply-accumulates of one run; None where they can't be counted.
        processes: what each process measured.
        speedup: against the first model; None for the first one.
        assigned: number of nodes on each provider; empty where it was not read (all on the CPU, as asked).
        fallen_back: names of nodes that ran on a provider nobody asked for.
        upload_ms: inputs onto the device; None where there is none.
        download_ms: outputs back from it.
    """

    model: str
    macs: int | None
    processes: tuple[ProcessRun, ...]
    speedup: Speedup | None
    assigned: dict[str, int] = field(default_factory=dict)
    fallen_back: tuple[str, ...] = ()
    upload_ms: float | None = None
    download_ms: float | None = None

    @property
    def times(self) -> Times:
        """Of all processes."""
        return Times(tuple(r for each in self.processes for r in each.times.rounds))

    @property
    def session_ms(self) -> float:
        """Creation of the session, the median of processes."""
        return float(np.median([p.session_ms for p in self.processes]))

    @property
    def first_ms(self) -> float:
        """The first run, the median of processes."""
        return float(np.median([p.first_ms for p in self.processes]))

    @property
    def peak_bytes(self) -> int:
        """Host memory, the median of processes."""
        return int(np.median([p.peak_bytes for p in self.processes]))

    @property
    def added_bytes(self) -> int:
        """Host memory beyond what a process without a model takes, the median of processes."""
        return int(np.median([p.peak_bytes - p.base_bytes for p in self.processes]))

    @property
    def device_bytes(self) -> int | None:
        """Memory of the device, the median of processes; None where it was not measured."""
        found = [p.device_bytes for p in self.processes if p.device_bytes is not None]
        return int(np.median(found)) if found else None


@dataclass(frozen=True)
class Configuration:
    """All models on one provider, with one batch and one number of threads.

    Attributes:
        provider: as it was asked for, such as `cuda:device_id=0`.
        batch: samples of a run.
        threads: of one operator; 0 for ONNX Runtime's choice.
        inputs: shapes by name.
        data: where the inputs come from.
        bound: inputs and outputs stay on the device (IOBinding).
        measurements: one for each model.
        noise: reasons to doubt the figures.
        profile: times of nodes and operators, where they were asked for.
    """

    provider: str
    batch: int
    threads: int
    inputs: dict[str, tuple[int, ...]]
    data: str
    bound: bool
    measurements: tuple[Measurement, ...]
    noise: tuple[str, ...]
    profile: SideBySide | None = None

    def throughput(self, measurement: Measurement) -> float:
        """Samples per second, one run after the other at the median latency."""
        return 1e3 * self.batch / measurement.times.p50


@dataclass(frozen=True)
class Benchmark:
    """Everything.

    Attributes:
        models: in order; the first one is what the others are compared with.
        configurations: in order.
        environment: where it was measured.
        created: date and time, ISO 8601.
        command: that it came from; empty for the library.
        onnxprune: version of this program.
    """

    models: tuple[BenchModel, ...]
    configurations: tuple[Configuration, ...]
    environment: Environment
    created: str
    command: str
    onnxprune: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "onnxprune": self.onnxprune,
            "created": self.created,
            "command": self.command,
            "environment": asdict(self.environment),
            "models": [asdict(m) for m in self.models],
            "configurations": [_configuration(c) for c in self.configurations],
        }


def _configuration(found: Configuration) -> dict[str, Any]:
    return {
        "provider": found.provider,
        "batch": found.batch,
        "threads": found.threads,
        "inputs": {n: list(shape) for n, shape in found.inputs.items()},
        "data": found.data,
        "bound": found.bound,
        "noise": list(found.noise),
        "measurements": [_measurement(found, m) for m in found.measurements],
        "profile": None if found.profile is None else asdict(found.profile),
    }


def _measurement(configuration: Configuration, found: Measurement) -> dict[str, Any]:
    times = found.times
    return {
        "model": found.model,
        "macs": found.macs,
        "p50_ms": times.p50,
        "p90_ms": times.p90,
        "p99_ms": times.p99,
        "samples_per_second": configuration.throughput(found),
        "session_ms": found.session_ms,
        "first_ms": found.first_ms,
        "peak_bytes": found.peak_bytes,
        "added_bytes": found.added_bytes,
        "device_bytes": found.device_bytes,
        "upload_ms": found.upload_ms,
        "download_ms": found.download_ms,
        "assigned": found.assigned,
        "fallen_back": list(found.fallen_back),
        "speedup": None if found.speedup is None else {**asdict(found.speedup), "verdict": found.speedup.verdict},
        "processes": [_process(p) for p in found.processes],
    }


def _process(found: ProcessRun) -> dict[str, Any]:
    return {
        "rounds_ms": [r.tolist() for r in found.times.rounds],
        "session_ms": found.session_ms,
        "first_ms": found.first_ms,
        "peak_bytes": found.peak_bytes,
        "base_bytes": found.base_bytes,
        "device_bytes": found.device_bytes,
    }


@cache
def schema() -> dict[str, Any]:
    """The published JSON schema."""
    text = files("onnxprune.bench").joinpath("bench.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def load_benchmark(path: str | os.PathLike[str]) -> Benchmark:
    """Reads what `onnxprune bench --json` wrote.

    Raises:
        ModelError: the file can't be read, is no benchmark, or is of a later version than this program knows.
    """
    from jsonschema import Draft202012Validator

    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ModelError(f"{path}: is no result of onnxprune bench")
    if not isinstance(data.get("version"), int) or data["version"] > VERSION:
        raise ModelError(f"{path}: is of version {data.get('version')}; this onnxprune reads {VERSION} and earlier")
    wrong = next(Draft202012Validator(schema()).iter_errors(data), None)
    if wrong is not None:
        raise ModelError(f"{path}: {wrong.json_path}: {wrong.message}")
    return _benchmark(data)


def _benchmark(data: dict[str, Any]) -> Benchmark:
    return Benchmark(
        tuple(BenchModel(**m) for m in data["models"]),
        tuple(_configuration_of(c) for c in data["configurations"]),
        Environment(**data["environment"]),
        data["created"],
        data["command"],
        data["onnxprune"],
    )


def _configuration_of(data: dict[str, Any]) -> Configuration:
    return Configuration(
        data["provider"],
        data["batch"],
        data["threads"],
        {n: tuple(shape) for n, shape in data["inputs"].items()},
        data["data"],
        data["bound"],
        tuple(_measurement_of(m) for m in data["measurements"]),
        tuple(data["noise"]),
        None if data["profile"] is None else SideBySide.of(data["profile"]),
    )


def _measurement_of(data: dict[str, Any]) -> Measurement:
    found = data["speedup"]
    return Measurement(
        data["model"],
        data["macs"],
        tuple(_process_of(p) for p in data["processes"]),
        None if found is None else _speedup_of(found),
        data["assigned"],
        tuple(data["fallen_back"]),
        data["upload_ms"],
        data["download_ms"],
    )


def _speedup_of(data: dict[str, Any]) -> Speedup:
    known = {k: v for k, v in data.items() if k != "verdict"}
    return Speedup(**{**known, "high": math.inf if known["high"] is None else known["high"]})


def _process_of(data: dict[str, Any]) -> ProcessRun:
    others = {k: v for k, v in data.items() if k != "rounds_ms"}
    return ProcessRun(Times(tuple(np.array(r, np.float64) for r in data["rounds_ms"])), **others)
