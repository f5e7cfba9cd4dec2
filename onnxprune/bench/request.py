"""What is to be measured: which models, where, with which inputs, how long."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnxprune.bench.statistics import CONFIDENCE
from onnxprune.calibrate.preprocess import Preprocess
from onnxprune.errors import UsageError
from onnxprune.statistics.providers import Providers, parse_providers, short

Source = str | os.PathLike[str] | onnx.ModelProto
FEWEST_PROCESSES = 4
_GRAPHS = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable", "nvtensorrtrtx": "enable_cuda_graph"}


@dataclass(frozen=True)
class BenchRequest:
    """How to measure.

    Attributes:
        providers: one configuration each; several in order of preference are joined by `+`.
        batch: samples of a run, one configuration each; empty for what the model fixes, or else one.
        threads: of one operator, one configuration each; 0 leaves it to ONNX Runtime.
        data: samples that inputs are taken from; None for made-up ones.
        preprocess: for images.
        shapes: of inputs that models leave open.
        processes: the fewest of each model.
        seconds: of one configuration, after which no more processes are started.
        precision: half of a confidence interval as a share of the ratio, below which no more processes are started.
        confidence: of intervals.
        allow_fallback: nodes may run on other providers than those that were asked for.
        bound: inputs and outputs stay where the provider computes; None for providers of devices only.
        cuda_graph: capture the run, on providers that can.
        libraries: files of plug-in providers.
        profile: times of operators and nodes, too.
        seed: of inputs, orders and intervals.
    """

    providers: Sequence[str] = ("cpu",)
    batch: Sequence[int] = ()
    threads: Sequence[int] = (0,)
    data: Any = None
    preprocess: Preprocess | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    processes: int = 10
    seconds: float = 60.0
    precision: float = 0.01
    confidence: float = CONFIDENCE
    allow_fallback: bool = False
    bound: bool | None = None
    cuda_graph: bool = False
    libraries: Sequence[str | os.PathLike[str]] = ()
    profile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.providers or not self.threads:
            raise UsageError("a benchmark needs at least one provider and one number of threads")
        if min(self.batch, default=1) < 1 or min(self.threads) < 0:
            raise UsageError("a batch has at least one sample; threads are a number from 0 (ONNX Runtime's choice) on")
        if self.processes < FEWEST_PROCESSES:
            raise UsageError(
                f"{self.processes} processes are too few to tell noise from speed; use {FEWEST_PROCESSES} or more"
            )
        if not 0.5 <= self.confidence < 1 or not 0 < self.precision < 1 or self.seconds < 0:
            raise UsageError(
                "confidence is a number from 0.5 up to 1, precision one between 0 and 1, seconds are not negative"
            )

    def chosen(self) -> dict[str, Providers]:
        """Providers by the text that asked for them.

        Raises:
            UsageError: one is not part of this ONNX Runtime, or can't do what was asked for.
        """
        found = {text: parse_providers(re.split(r"\+(?=[A-Za-z])", text)) for text in dict.fromkeys(self.providers)}
        return {text: with_graphs(p) for text, p in found.items()} if self.cuda_graph else found

    def device(self, providers: Providers) -> tuple[str, int] | None:
        """Where inputs and outputs stay; None for arrays of numpy."""
        bound = providers.device[0] != "cpu" if self.bound is None else self.bound
        return providers.device if bound else None


def with_graphs(providers: Providers) -> Providers:
    """The same providers, which capture a run as a CUDA graph and replay it.

    Raises:
        UsageError: the first one can't.
    """
    name, options = providers.chosen[0]
    if short(name) not in _GRAPHS:
        raise UsageError(f"--cuda-graph: {short(name)} knows no CUDA graphs; those that do are {', '.join(_GRAPHS)}")
    captured = (name, (*options, (_GRAPHS[short(name)], "1")))
    return replace(providers, chosen=(captured, *providers.chosen[1:]))


def names_of(models: Sequence[Source]) -> list[str]:
    """A short name for each model, all of them different: the file's, its path, or a number behind."""
    paths = [None if isinstance(m, onnx.ModelProto) else Path(m) for m in models]
    names = [f"model {k + 1}" if p is None else p.name for k, p in enumerate(paths)]
    full = [n if p is None else str(p) for n, p in zip(names, paths, strict=True)]
    names = [f if names.count(n) > 1 and full.count(f) < names.count(n) else n for n, f in zip(names, full, strict=True)]
    return [f"{n} #{names[: k + 1].count(n)}" if names.count(n) > 1 else n for k, n in enumerate(names)]
