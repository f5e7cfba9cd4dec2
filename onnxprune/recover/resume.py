"""Fits that were finished in an earlier run, taken over step by step.

A step changes weights and leads the streams on, whatever it is that it fits. What it made of a stream is written down as the
calls it made (`walk`, `redo`), each with the weights and pins that it found. All else in a stream follows from these, so the
same calls lead it to the same state, through the same pieces of the model: what comes after is the same to the last bit.
Nothing is fitted or judged again. It costs one pass of each model, up to the first step that is missing, and none where no
step is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from onnxprune.io.journal import Entry, Section
from onnxprune.recover.fit import Fit
from onnxprune.recover.state import State
from onnxprune.statistics.stream import Stream

Array = NDArray[Any]


@dataclass
class Recorder:
    """Notes what happens to some streams between two steps, and makes it happen again.

    Attributes:
        streams: by name.
    """

    streams: Mapping[str, Stream]
    _calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _arrays: dict[str, Array] = field(default_factory=dict)
    _seen: dict[str, dict[str, Array]] = field(default_factory=dict)

    def start(self) -> None:
        """Takes notes from now on."""
        for name, stream in self.streams.items():
            self._calls[name] = []
            self._seen[name] = dict(stream.weights)
            stream.listener = partial(self._note, name)

    def finished(self, data: dict[str, Any]) -> Entry:
        """All calls since the last time, with the state they left, and what belongs to them."""
        for name in self.streams:
            self._note(name, "", {})
        entry = Entry(self._arrays, {"calls": self._calls, **data})
        self._calls, self._arrays = {name: [] for name in self.streams}, {}
        return entry

    def repeat(self, entry: Entry, tell: Callable[[float], None]) -> None:
        """Makes the calls of an entry; `tell` hears of the share that is done."""
        count = sum(len(calls) for calls in entry.data["calls"].values())
        done = 0
        for name, stream in self.streams.items():
            for k, call in enumerate(entry.data["calls"][name]):
                self._set(name, k, call, entry)
                if call["call"] == "redo":
                    stream.redo(**call["arguments"])
                elif call["call"] == "walk":
                    for _ in stream.walk(**call["arguments"]):
                        pass
                done += 1
                tell(done / count)

    def jump(self, entry: Entry) -> None:
        """Takes the weights alone: good where nothing is to be run any more."""
        for name in self.streams:
            for k, call in enumerate(entry.data["calls"][name]):
                self._set(name, k, call, entry)

    def _set(self, name: str, k: int, call: dict[str, Any], entry: Entry) -> None:
        stream = self.streams[name]
        for i, weight in enumerate(call["changed"]):
            stream.weights[weight] = entry.arrays[f"{name}.{k}.{i}"]
        for weight in call["restored"]:
            del stream.weights[weight]
        stream.pinned = set(call["pinned"])

    def _note(self, name: str, call: str, arguments: dict[str, Any]) -> None:
        stream, calls, seen = self.streams[name], self._calls[name], self._seen[name]
        changed = sorted(n for n, a in stream.weights.items() if seen.get(n) is not a)
        self._arrays |= {f"{name}.{len(calls)}.{i}": stream.weights[n] for i, n in enumerate(changed)}
        state = {
            "changed": changed,
            "restored": sorted(seen.keys() - stream.weights.keys()),
            "pinned": sorted(stream.pinned),
        }
        calls.append({"call": call, "arguments": arguments, **state})
        self._seen[name] = dict(stream.weights)


class Steps:
    """Steps of a reconstruction, each done once in all runs that share a journal.

    Args:
        state: of the reconstruction, before its first step.
        section: of the journal; None where there is none.
        progress: called with the stage and the share of the reconstruction that is done.
    """

    def __init__(self, state: State, section: Section | None, progress: Callable[[str, float], None]) -> None:
        self.state, self.section, self.progress = state, section, progress
        self.recorder = Recorder({"dense": state.dense, "pruned": state.pruned})
        self.found: list[Entry] = []
        self.missing = False

    def __call__(self, name: str, fit: Callable[[], list[Fit]], share: float) -> list[Fit]:
        """Fits, or takes what an earlier run has made; behind a step that is missing all are made anew.

        Args:
            name: of the step, the same in every run.
            fit: makes it.
            share: of the reconstruction that is done before it.
        """
        if self.section is None:
            return fit()
        entry = None if self.missing else self.section.get(name)
        if entry is not None:
            self.found.append(entry)
            self.state.take_up(entry.data["left"])
            return [Fit(**f) for f in entry.data["fits"]]
        if not self.missing:
            self._catch_up(share)
        found = fit()
        self.section.put(name, self.recorder.finished({"fits": [asdict(f) for f in found], "left": self.state.left()}))
        return found

    def finish(self) -> None:
        """The final weights are those of the pruned stream then."""
        for entry in self.found:
            self.recorder.jump(entry)

    def _catch_up(self, share: float) -> None:
        self.missing = True
        for k, entry in enumerate(self.found):

            def tell(done: float, k: int = k) -> None:
                self.progress("repeating finished fits", share * min((k + done) / len(self.found), 1.0))

            self.recorder.repeat(entry, tell)
        self.found = []
        self.recorder.start()
