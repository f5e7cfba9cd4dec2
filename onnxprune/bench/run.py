"""Measures models in fresh processes that take turns.

For each configuration, the models are started in one process each, all of them alive at the same time; short bursts of
runs alternate between them. Then all processes end, and new ones start: memory, cores and clocks fall differently each
time, and that is what the interval is made of.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.bench.assignment import NodeTimes, check_assignment, fallen_back, read_profile
from onnxprune.bench.environment import environment
from onnxprune.bench.figures import count_model_macs, count_nodes, count_parameters
from onnxprune.bench.inputs import Arrays, check_batch, fitted, made_up, natural_batch, taken_from
from onnxprune.bench.noise import Usage, Watch, noise
from onnxprune.bench.process import ModelProcess
from onnxprune.bench.profile import side_by_side
from onnxprune.bench.request import BenchRequest, Source, names_of
from onnxprune.bench.result import Benchmark, BenchModel, Configuration, Measurement, ProcessRun
from onnxprune.bench.statistics import Speedup, interval, speedup
from onnxprune.bench.timing import Effort, Times, interleave
from onnxprune.bench.worker import Order
from onnxprune.errors import UsageError
from onnxprune.io.load import load_model
from onnxprune.io.structure import model_size, sha256_model
from onnxprune.report.provenance import now
from onnxprune.statistics.providers import CPU, Providers, load_libraries

Progress = Callable[[str, float], None]

_SECONDS = 0.3  # of timed rounds, for each model in each of its processes
_ROUNDS = 5  # of each process, however long they take
_CHECKED = 3  # runs that tell where nodes run
_PROFILED = 1.0  # seconds of runs for a profile
_MOST_PROFILED = 200


@dataclass(frozen=True)
class _Loaded:
    """A model, its file, and what is known of it without a run."""

    model: onnx.ModelProto
    path: Path
    about: BenchModel

    @property
    def name(self) -> str:
        return self.about.name


def benchmark(
    models: Sequence[Source],
    *,
    request: BenchRequest | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Benchmark:
    """Measures models side by side.

    Args:
        models: paths or models; the first is what the others are compared with.
        request: how; on the CPU with one made-up sample where not given.
        command: for the record.
        progress: called with the stage and the share that is done, 0..1.

    Raises:
        ModelError: a model or the data can't be read, they don't fit each other, or ONNX Runtime can't run a model.
        UsageError: a provider is absent, does not start or is not used, or the request makes no sense.
    """
    request = request or BenchRequest()
    tell = progress or (lambda stage, share: None)
    if not models:
        raise UsageError("a benchmark needs at least one model")
    tell("load", 0.0)
    load_libraries(request.libraries)
    providers = request.chosen()
    machine = environment()
    with tempfile.TemporaryDirectory(prefix="onnxprune-bench-") as folder:
        loaded = [_load(m, name, Path(folder)) for m, name in zip(models, names_of(models), strict=True)]
        batches = request.batch or (natural_batch(loaded[0].model, request.shapes),)
        wanted = [(text, batch, threads) for text in providers for batch in batches for threads in request.threads]
        found = []
        for k, (text, batch, threads) in enumerate(wanted):
            part = _part(tell, k / len(wanted), (k + 1) / len(wanted))
            run = _Run(request, loaded, text, providers[text], batch, threads, Path(folder), part)
            found.append(run.measure())
    from onnxprune import __version__

    return Benchmark(tuple(m.about for m in loaded), tuple(found), machine, now(), command, __version__)


def _load(source: Source, name: str, folder: Path) -> _Loaded:
    if isinstance(source, onnx.ModelProto):
        from onnxprune.io.save import save_model

        model, path = source, folder / f"{name}.onnx"
        save_model(model, path)
    else:
        model, path = load_model(source), Path(source)
    about = BenchModel(
        name,
        "" if isinstance(source, onnx.ModelProto) else os.fspath(source),
        sha256_model(model),
        model_size(model),
        count_parameters(model),
        count_nodes(model),
    )
    return _Loaded(model, path, about)


def _part(tell: Progress, start: float, stop: float) -> Progress:
    return lambda stage, share: tell(stage, start + (stop - start) * min(share, 1.0))


class _Run:
    """One configuration."""

    def __init__(
        self,
        request: BenchRequest,
        models: Sequence[_Loaded],
        text: str,
        providers: Providers,
        batch: int,
        threads: int,
        folder: Path,
        tell: Progress,
    ) -> None:
        self.request, self.models, self.text, self.providers = request, models, text, providers
        self.batch, self.threads, self.folder, self.tell = batch, threads, folder, tell
        self.feeds, self.origin = self._feeds()
        self.orders = {m.name: self._order(m, k) for k, m in enumerate(models)}
        self.runs: dict[str, list[ProcessRun]] = {m.name: [] for m in models}
        self.transfers: dict[str, list[tuple[float, float]]] = {m.name: [] for m in models}

    def measure(self) -> Configuration:
        """All there is to know."""
        profiles = self._profiles()
        usage = self._repeat()
        shapes = {n: tuple(a.shape) for n, a in self.feeds[0].items()}
        times = {name: [r.times for r in runs] for name, runs in self.runs.items()}
        return Configuration(
            self.text,
            self.batch,
            self.threads,
            shapes,
            self.origin,
            self.request.device(self.providers) is not None,
            tuple(self._measurement(k, profiles.get(m.name)) for k, m in enumerate(self.models)),
            tuple(noise(usage, times)),
            side_by_side(profiles) if self.request.profile else None,
        )

    def _feeds(self) -> tuple[list[Arrays], str]:
        first, request = self.models[0].model, self.request
        if request.data is None:
            feeds, origin = made_up(first, self.batch, request.shapes, request.seed), "made up"
        else:
            feeds, origin = taken_from(request.data, first, self.batch, request.preprocess, request.shapes)
        check_batch(first, self.batch, feeds, request.shapes)
        return [fitted(feeds, m.model, m.name) for m in self.models], origin

    def _order(self, model: _Loaded, k: int) -> Order:
        path = self.folder / f"inputs-{k}"
        path.write_bytes(pickle.dumps(self.feeds[k], protocol=5))
        chosen = [(name, dict(options)) for name, options in self.providers.chosen]
        libraries = [os.fspath(p) for p in self.request.libraries]
        device = self.request.device(self.providers)
        return Order(str(model.path), model.name, chosen, libraries, self.threads, device, str(path))

    # ---- where nodes run ----

    def _profiles(self) -> dict[str, NodeTimes]:
        """Of each model, where they are asked for, or needed to see where nodes run.

        Raises:
            UsageError: nodes run elsewhere than asked.
        """
        if self.providers.chosen == CPU.chosen and not self.request.profile:
            return {}
        found = {}
        for model in self.models:
            self.tell(f"{self._title()}: profiling {model.name}", 0.0)
            found[model.name] = self._profile(model.name)
            if not self.request.allow_fallback:
                check_assignment(model.name, found[model.name], self.providers)
        return found

    def _profile(self, name: str) -> NodeTimes:
        order = replace(self.orders[name], profile=str(self.folder / "profile"))
        with ModelProcess(order) as process:
            process.imported()
            process.open()
            runs = _CHECKED
            if self.request.profile:
                each = float(np.median(process.burst(3))) / 1e3
                runs = int(min(max(_PROFILED / max(each, 1e-6), _CHECKED), _MOST_PROFILED))
            process.burst(runs)
            return read_profile(process.profile(), skip=1 + 3 * self.request.profile)

    # ---- how long they take ----

    def _repeat(self) -> Usage:
        """Processes of all models, until enough is known."""
        start, k = time.monotonic(), 0
        total: Usage | None = None
        while k < self.request.processes or (
            time.monotonic() - start < self.request.seconds and self._width() > self.request.precision
        ):
            share = max(k / self.request.processes, 0.0) if k < self.request.processes else 0.99
            self.tell(f"{self._title()}: round of processes {k + 1}", share)
            usage = self._together(k)
            total, k = usage if total is None else total + usage, k + 1
        assert total is not None
        return total

    def _together(self, k: int) -> Usage:
        """One process for each model, in turn."""
        rng = np.random.default_rng([self.request.seed, k])
        order = [self.models[i].name for i in rng.permutation(len(self.models))]
        with ExitStack() as stack:
            processes = {name: stack.enter_context(ModelProcess(self.orders[name])) for name in order}
            for process in processes.values():
                process.imported()
            for process in processes.values():  # one after the other: creation is timed, too
                process.open()
            watch = Watch(process.pid for process in processes.values())
            effort = Effort(_SECONDS * len(order), _ROUNDS, burst_ms=20.0)
            times = interleave(processes, effort, seed=int(rng.integers(1 << 31)))
            usage = watch.usage()
            for name, process in processes.items():
                self._keep(name, process, times[name])
        return usage

    def _keep(self, name: str, process: ModelProcess, times: Times) -> None:
        opened: Mapping[str, Any] = process.opened
        moved = process.transfers()
        if moved is not None:
            self.transfers[name].append(moved)
        self.runs[name].append(ProcessRun(times, opened["session_ms"], opened["first_ms"], *process.memory()))

    def _width(self) -> float:
        """Half of the widest interval, as a share."""
        others = [self._speedup(m.name) for m in self.models[1:]]
        if not others:
            logs = np.log([r.times.p50 for r in self.runs[self.models[0].name]])
            others = [interval(logs, "process", self.request.confidence, self.request.seed)]
        return max(s.half_width for s in others)

    def _speedup(self, name: str) -> Speedup:
        first, other = ([r.times for r in self.runs[n]] for n in (self.models[0].name, name))
        return speedup(first, other, confidence=self.request.confidence, seed=self.request.seed)

    def _measurement(self, k: int, profile: NodeTimes | None) -> Measurement:
        model = self.models[k]
        moved = np.array(self.transfers[model.name])
        upload, download = (float(ms) for ms in np.median(moved, axis=0)) if len(moved) else (None, None)
        return Measurement(
            model.name,
            count_model_macs(model.model, {n: a.shape for n, a in self.feeds[k].items()}),
            tuple(self.runs[model.name]),
            self._speedup(model.name) if k else None,
            profile.assigned() if profile else {},
            tuple(n.name for n in fallen_back(profile, self.providers)) if profile else (),
            upload,
            download,
        )

    def _title(self) -> str:
        return f"{self.text}, batch {self.batch}" + (f", {self.threads} threads" if self.threads else "")
