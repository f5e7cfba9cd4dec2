"""The time of a pruned model as a share of its source's, taken in processes of their own.

A process that has analysed and fitted a model is another place than the one where the model will run: memory is scattered,
threads of other sessions wait. So both models get a fresh process each, as on the command line of `onnxprune bench`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from onnxprune.bench.process import ModelProcess
from onnxprune.bench.statistics import speedup
from onnxprune.bench.timing import Effort, interleave
from onnxprune.bench.worker import Order
from onnxprune.io.save import save_model
from onnxprune.io.scratch import Scratch
from onnxprune.latency.machine import Runtime
from onnxprune.latency.sample import Feeds

_EFFORT = Effort(seconds=4.0, min_rounds=9, max_rounds=400, precision=0.004)
_PAIRS, _MOST_PAIRS = 3, 9  # of processes: where memory comes to lie differs from one to the next
_APART = 0.06  # of what pairs say, beyond which there are more of them


@dataclass
class Comparison:
    """Times pruned models against their source.

    Attributes:
        source: that they were pruned from.
        feeds: one input.
        runtime: that both run on.
        seen: share of the source's time that each model took, in the order in which they were measured.
    """

    source: onnx.ModelProto
    feeds: Feeds
    runtime: Runtime
    seen: list[float] = field(default_factory=list)
    _scratch: Scratch | None = None

    def share(self, model: onnx.ModelProto) -> float:
        """Time of a model by that of the source: the median over pairs of processes, of the middle of their rounds.

        Raises:
            ModelError: ONNX Runtime can't run it.
        """
        folder = self._folder()
        save_model(model, folder / "pruned.onnx")
        shares: list[float] = []
        while len(shares) < _PAIRS or (len(shares) < _MOST_PAIRS and _apart(shares)):
            shares.append(self._pair(folder, len(shares)))
        self.seen.append(float(np.median(shares)))
        return self.seen[-1]

    def _pair(self, folder: Path, seed: int) -> float:
        """The share by two processes that take turns: what slows both down for a while does not count."""
        with ExitStack() as stack:
            subjects = {n: stack.enter_context(ModelProcess(self._order(folder, n))) for n in ("source", "pruned")}
            for process in subjects.values():
                process.imported()
                process.open()
            times = interleave(subjects, _EFFORT, seed)
        return 1 / speedup([times["source"]], [times["pruned"]]).value

    def _folder(self) -> Path:
        """Where the models lie."""
        if self._scratch is None:
            self._scratch = Scratch()
            save_model(self.source, self._scratch.path / "source.onnx")
            (self._scratch.path / "feeds.pickle").write_bytes(pickle.dumps(dict(self.feeds)))
        return self._scratch.path

    def _order(self, folder: Path, name: str) -> Order:
        chosen = [(provider, dict(options)) for provider, options in self.runtime.providers.chosen]
        file, feeds = str(folder / f"{name}.onnx"), str(folder / "feeds.pickle")
        return Order(file, name, chosen, [], self.runtime.threads, self.runtime.device, feeds)


def _apart(shares: Sequence[float]) -> bool:
    """The pairs in the middle half do not agree."""
    low, high = np.quantile(shares, (0.25, 0.75))
    return bool(high > low * (1 + _APART))
