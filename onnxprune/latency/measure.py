"""The time of a pruned model as a share of its source's, taken in processes of their own.

A process that has analysed and fitted a model is another place than the one where the model will run: memory is scattered,
threads of other sessions wait. So both models get a fresh process each, as on the command line of `onnxprune bench`.
"""

from __future__ import annotations

import pickle
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnxprune.bench.process import ModelProcess
from onnxprune.bench.timing import Effort, interleave
from onnxprune.bench.worker import Order
from onnxprune.io.save import save_model
from onnxprune.io.scratch import Scratch
from onnxprune.latency.machine import Runtime
from onnxprune.latency.sample import Feeds, undisturbed

_EFFORT = Effort(seconds=4.0, min_rounds=9, max_rounds=400, precision=0.004)
_PAIRS = 3  # of processes: where memory comes to lie differs from one to the next


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
        """Time of a model by that of the source.

        Raises:
            ModelError: ONNX Runtime can't run it.
        """
        import numpy as np

        folder = self._folder()
        save_model(model, folder / "pruned.onnx")
        names = ("source", "pruned")
        shares = []
        for seed in range(_PAIRS):
            with ExitStack() as stack:
                subjects = {name: stack.enter_context(ModelProcess(self._order(folder, name))) for name in names}
                for process in subjects.values():
                    process.imported()
                    process.open()
                times = interleave(subjects, _EFFORT, seed)
            shares.append(undisturbed(times["pruned"]) / undisturbed(times["source"]))
        self.seen.append(float(np.median(shares)))
        return self.seen[-1]

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
