"""The models that files tell of, and what is known of each: figures from several files meet here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from onnxprune.bench.result import Benchmark
from onnxprune.document.read import Results
from onnxprune.document.scores import Evaluated
from onnxprune.report.tables import shapes_text

Quantity = Literal["bytes", "params", "macs", "latency", "score"]


@dataclass(frozen=True)
class Figure:
    """A value, and the interval that it is known within; for latency p50 in ms, for sizes bytes."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class Basis:
    """Figures that may be compared with each other: of one measurement, or counted in one way.

    Attributes:
        title: of the measurement, such as `cpu, batch 1`.
        label: of the quantity, such as `top-1 accuracy`.
        percent: figures are in percent.
        higher_is_better: a larger figure is a better model.
        figures: by number of the model.
    """

    title: str
    label: str
    percent: bool = False
    higher_is_better: bool = False
    figures: dict[int, Figure] = field(default_factory=dict)


@dataclass
class _Known:
    path: str
    sha256: str


class Models:
    """Models by number, in the order in which files name them; number 0 is what the others are compared with."""

    def __init__(self) -> None:
        self._known: list[_Known] = []
        self.bases: dict[Quantity, dict[str, Basis]] = {}
        self.beaten: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._known)))

    def add(self, path: str, sha256: str = "") -> int:
        """The number of a model; the same one for the same content, or, where that is not known, the same path."""
        for number, known in enumerate(self._known):
            both = bool(known.sha256 and sha256)
            if known.sha256 == sha256 if both else _same_path(known.path, path):
                known.sha256 = known.sha256 or sha256
                return number
        self._known.append(_Known(path, sha256))
        return len(self._known) - 1

    def sha256(self, number: int) -> str:
        """Of the model's content; empty where no file tells."""
        return self._known[number].sha256

    def path(self, number: int) -> str:
        """As a file names it."""
        return self._known[number].path

    def name(self, number: int) -> str:
        """The end of its path, as much as tells it from the others; a number behind it where paths are the same."""
        parts = [PurePath(k.path).parts or ("",) for k in self._known]
        own, others = parts[number], [p for k, p in enumerate(parts) if k != number]
        for length in range(1, len(own) + 1):
            tail = own[-length:]
            if all(p[-length:] != tail for p in others):
                return str(PurePath(*tail))
        same = [k for k, p in enumerate(parts) if p == own]
        return f"{PurePath(*own)} ({same.index(number) + 1})" if len(same) > 1 else str(PurePath(*own))

    @property
    def names(self) -> list[str]:
        """Of all models."""
        return [self.name(k) for k in self]

    @property
    def replaced(self) -> list[str]:
        """Paths of which files saw different contents."""
        paths = [k.path for k in self._known]
        return sorted({p for p in paths if paths.count(p) > 1})

    def basis(
        self, quantity: Quantity, title: str, label: str, *, percent: bool = False, higher_is_better: bool = False
    ) -> Basis:
        """The basis of that title; a new one where there is none."""
        return self.bases.setdefault(quantity, {}).setdefault(title, Basis(title, label, percent, higher_is_better))

    def best(self, quantity: Quantity) -> Basis | None:
        """The basis that covers most models, the first one of several."""
        found = self.bases.get(quantity, {}).values()
        return max(found, key=lambda b: len(b.figures), default=None)


def _same_path(one: str, other: str) -> bool:
    """One is the end of the other: `models/a.onnx` and `/home/me/models/a.onnx`."""
    a, b = (PurePath(p).parts for p in (one, other))
    return bool(a and b) and (a[-len(b) :] == b or b[-len(a) :] == a)


def gather(results: Results) -> Models:
    """All models of all files, with their figures."""
    found = Models()
    for file in results.of("prune"):  # names the source first
        hashes = file.data.get("sha256") or {}
        found.add(file.data["input"], hashes.get("input", ""))
        found.add(file.data["output"], hashes.get("output", ""))
    for number, (file, benchmark) in enumerate(results.benchmarks):
        _benchmark(found, benchmark, f" ({file.path})" if number else "")
    for file in results.of("profile"):
        data = file.data
        own = found.add(data["model"])
        title = f"one run with {shapes_text(data['shapes'])}"
        found.basis("macs", title, "MACs").figures[own] = Figure(data["totals"]["macs"])
        found.basis("params", "stored elements", "parameters").figures[own] = Figure(data["totals"]["params"])
    _prunings(found, results)
    for file in results.of("compare"):
        pair = found.add(file.data["first"]), found.add(file.data["second"])
        _score(found, file.data.get("evaluation"), pair)
    for file in results.of("front"):
        _front(found, file.path, file.data)
    return found


def _benchmark(models: Models, benchmark: Benchmark, suffix: str) -> None:
    numbers = {m.name: models.add(m.path or m.name, m.sha256) for m in benchmark.models}
    for model in benchmark.models:
        own = numbers[model.name]
        models.basis("bytes", "of the file", "size").figures[own] = Figure(model.file_bytes)
        models.basis("params", "stored elements", "parameters").figures[own] = Figure(model.parameters)
    for configuration in benchmark.configurations:
        title = configuration_title(configuration.provider, configuration.batch, configuration.threads) + suffix
        run = f"one run with {shapes_text(configuration.inputs)}"
        for each in configuration.measurements:
            own = numbers[each.model]
            models.basis("latency", title, "latency p50").figures[own] = Figure(each.times.p50)
            if each.macs is not None:
                models.basis("macs", run, "MACs").figures[own] = Figure(each.macs)


def configuration_title(provider: str, batch: int, threads: int) -> str:
    """Such as `cpu, batch 8, 2 threads`."""
    told = "default threads" if not threads else "1 thread" if threads == 1 else f"{threads} threads"
    return f"{provider}, batch {batch}, {told}"


def _prunings(models: Models, results: Results) -> None:
    for file in results.of("prune"):
        data, report = file.data, file.data["report"]
        hashes = data.get("sha256") or {}
        pair = models.add(data["input"], hashes.get("input", "")), models.add(data["output"], hashes.get("output", ""))
        run = f"one run with {shapes_text(report.get('shapes', {}))}" if report.get("shapes") else "one run"
        for quantity, title, label in _counted(run):
            basis = models.basis(quantity, title, label)
            for own, side in zip(pair, ("before", "after"), strict=True):
                basis.figures.setdefault(own, Figure(report[f"{quantity}_{side}"]))
        if data.get("latency"):
            basis = models.basis("latency", f"quick timing by onnxprune prune, {file.path}", "latency p50")
            for own, side in zip(pair, ("before", "after"), strict=True):
                basis.figures[own] = Figure(data["latency"][side]["p50_ms"])
        _score(models, data.get("evaluation"), pair)


def _counted(run: str) -> tuple[tuple[Quantity, str, str], ...]:
    return (
        ("bytes", "of the file", "size"),
        ("params", "elements of float tensors", "parameters"),
        ("macs", run, "MACs"),
    )


def _score(models: Models, evaluation: Mapping[str, Any] | None, pair: tuple[int, int]) -> None:
    found = Evaluated.of(evaluation)
    if found is None or found.before is None:
        return
    title = f"{found.title} on {found.data}"
    basis = models.basis("score", title, found.title, percent=found.percent, higher_is_better=found.higher_is_better)
    basis.figures.setdefault(pair[0], Figure(found.before))
    if found.after is not None:
        low, high = found.interval or (None, None)
        ends = (None, None) if low is None or high is None else (found.before + low, found.before + high)
        basis.figures[pair[1]] = Figure(found.after, *ends)


def _front(models: Models, path: str, data: Mapping[str, Any]) -> None:
    """A family lies in the folder of its index."""
    worth, source, folder = data["worth"], data["source"], PurePath(path).parent
    evaluated = (data.get("evaluation") or {}).get("data", "calibration samples")
    score = models.basis(
        "score",
        f"{worth['title']} on {evaluated}",
        worth["title"],
        percent=worth["unit"] == "percent",
        higher_is_better=worth["higher_is_better"],
    )
    dense = data["models"][0]["worth"]
    for entry in data["models"]:
        if entry["failed"]:
            continue
        held = (entry.get("files") or {}).get("model")
        own = models.add(str(folder / held)) if held else models.add(source["file"], source.get("sha256", ""))
        if entry["dominated"]:
            models.beaten.add(own)
        _entry(models, own, entry["figures"], path)
        if entry["worth"] is not None:
            inside = entry["interval"] if dense is not None else None
            ends = (dense + inside[0], dense + inside[1]) if inside else (None, None)
            score.figures[own] = Figure(entry["worth"], *ends)


_COSTS: tuple[tuple[str, Quantity, str, str], ...] = (
    ("size", "bytes", "of the file", "size"),
    ("params", "params", "elements of float tensors", "parameters"),
    ("macs", "macs", "counted by search", "MACs"),
    ("latency", "latency", "timed by search", "latency p50"),
)


def _entry(models: Models, own: int, figures: Mapping[str, float | None], path: str) -> None:
    for key, quantity, title, label in _COSTS:
        value = figures.get(key)
        if value is not None:
            told = f"{title}, {path}" if key in ("macs", "latency") else title
            models.basis(quantity, told, label).figures.setdefault(own, Figure(value))
