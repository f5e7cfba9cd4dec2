"""One sample: the model at some widths, the time of each of its pieces and of the whole.

The surgery makes the pruned model, so every operator is measured that can be pruned. One run of it gives the tensors that go
from piece to piece, which are what the pieces are fed. Pieces that are the same up to their weights are timed once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.bench.session import ReadySession, open_optimized
from onnxprune.bench.timing import Effort, Subject, Times, interleave
from onnxprune.errors import ModelError
from onnxprune.groups.group import Groups
from onnxprune.io.save import save_model
from onnxprune.io.scratch import Scratch
from onnxprune.io.structure import model_size
from onnxprune.latency.machine import Runtime
from onnxprune.latency.pieces import Piece, cut_graph, extract, structure
from onnxprune.latency.store import Store
from onnxprune.prepare.prepare import Prepared
from onnxprune.proof.check import alive_after
from onnxprune.proof.session import run
from onnxprune.select.allocate import Choice, take
from onnxprune.surgery.apply import apply_alive

Feeds = Mapping[str, NDArray[Any]]

EFFORT = Effort(seconds=1.0, min_rounds=9, max_rounds=9, burst_ms=3.0)
"""Of one sample; a long run is its own burst."""
_MOST_BYTES = 1 << 30
_WHOLE, _DENSE, _EMPTY = "whole", "dense", "empty"


@dataclass(frozen=True)
class Sample:
    """Times at some widths.

    Attributes:
        gone: units that are gone, by group id.
        kinds: which of the source's pieces are the same, `(pieces,)`: equal pieces have equal numbers.
        pieces: ms of each piece; those of one kind were measured once, at the widths of the first of them; the others are
            nan, and so are pieces that can't be run by themselves.
        whole: ms of the whole model.
        dense: ms of the source, measured in turn with it.
    """

    gone: Mapping[str, int]
    kinds: Sequence[int]
    pieces: NDArray[np.float64] = field(repr=False)
    whole: float
    dense: float


class Sampler:
    """Takes samples of one model on one runtime.

    Args:
        prepared: the model.
        groups: its analysis.
        choices: groups that vary, with the scores by which their units go.
        feeds: one input of the model.
        runtime: that times are wanted for.
        store: of earlier results.
    """

    def __init__(
        self,
        prepared: Prepared,
        groups: Groups,
        choices: Sequence[Choice],
        feeds: Feeds,
        runtime: Runtime,
        store: Store,
        effort: Effort = EFFORT,
    ) -> None:
        self.prepared, self.groups, self.choices = prepared, groups, choices
        self.feeds, self.runtime, self.store, self.effort = feeds, runtime, store, effort
        self.pieces = cut_graph(prepared.model.graph)
        self._dense: Subject | None = None
        shapes = {n: [str(a.dtype), *a.shape] for n, a in sorted(feeds.items())}
        self._root = f"{structure(prepared.model)} {json.dumps(shapes)} {len(self.pieces)}"

    def at(self, gone: Mapping[str, int]) -> Sample:
        """A sample with that many units of each group gone, measured unless it was before.

        Raises:
            ModelError: ONNX Runtime can't run the model.
        """
        return self.together([gone])[0]

    def together(self, gones: Sequence[Mapping[str, int]]) -> list[Sample]:
        """Samples that are measured in turn, so that they can be compared closely."""
        missing = [gone for gone in gones if not self.known(gone)]
        for gone, record in zip(missing, self._measure(missing), strict=True):
            self.store.put(self._key(gone), record)
        return [self._sample(gone) for gone in gones]

    def _sample(self, gone: Mapping[str, int]) -> Sample:
        held = self.store.get(self._key(gone))
        pieces = np.array([np.nan if ms is None else ms for ms in held["pieces"]])
        return Sample(dict(gone), held["kinds"], pieces, held["whole"], held["dense"])

    def known(self, gone: Mapping[str, int]) -> bool:
        """The sample was measured before."""
        return self.store.get(self._key(gone)) is not None

    def _key(self, gone: Mapping[str, int]) -> str:
        varied = json.dumps({g: n for g, n in sorted(gone.items()) if n})
        return f"sample {hashlib.sha256(f'{self._root} {varied}'.encode()).hexdigest()[:32]}"

    def pruned(self, gone: Mapping[str, int]) -> onnx.ModelProto:
        """The model with that many units of each group gone; none of its weights is repaired."""
        if not any(gone.values()):
            return self.prepared.model
        taken = take(self.groups, self.choices, [gone.get(c.group.id, 0) for c in self.choices])
        return apply_alive(self.prepared.model, self.groups, alive_after(self.groups, taken))

    # ---- measuring ----

    def _measure(self, gones: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
        models = [self.pruned(gone) for gone in gones]
        parts = [self._parts(model) for model in models]
        keys = [[self._name(part, piece) for part, piece in zip(own, self.pieces, strict=True)] for own in parts]
        kinds = [self.kinds if any(gone.values()) else _numbered(own) for gone, own in zip(gones, keys, strict=True)]
        first = [sorted(own.index(kind) for kind in set(own)) for own in kinds]
        wanted = {keys[n][k]: parts[n][k] for n, own in enumerate(first) for k in own}
        missing = {key: part for key, part in wanted.items() if part is not None and self.store.get(key) is None}
        times = self._time(models, missing) if models else {}
        for key in missing.keys() & times.keys():
            self.store.put(key, max(times[key] - times[_EMPTY], 0.0))
        found = []
        dense = times.get(_DENSE, 0.0)
        for n, own in enumerate(keys):
            ms = [self.store.get(key) if k in first[n] else None for k, key in enumerate(own)]
            found.append({"kinds": kinds[n], "pieces": ms, "whole": times.get(f"{_WHOLE} {n}", dense), "dense": dense})
        return found

    @staticmethod
    def _name(part: _Part | None, piece: Piece) -> str:
        """Key of a piece in the store."""
        return f"piece {structure(part.model)}" if part else f"untimed {piece.name}"

    @property
    def kinds(self) -> Sequence[int]:
        """See `Sample`."""
        return self.at({}).kinds

    def _parts(self, model: onnx.ModelProto) -> list[_Part | None]:
        """The pieces of a model, ready to run; None for one that can't be fed."""
        pieces = cut_graph(model.graph)
        if [p.name for p in pieces] != [p.name for p in self.pieces]:
            raise ModelError("the pruned model falls into other pieces than its source, so there is no latency to aim at")
        arrays = {**self.feeds, **_run(model, self.feeds, sorted({n for p in pieces for n in p.outputs}))}
        return [_Part.of(model, piece, arrays) for piece in pieces]

    def _time(self, models: Sequence[onnx.ModelProto], parts: Mapping[str, _Part]) -> dict[str, float]:
        """Milliseconds of each part that runs, of each whole, of the source, and of what does nothing, by key."""
        subjects: dict[str, Subject] = {}
        for key, part in parts.items():
            with contextlib.suppress(ModelError):  # what runs as a part of the whole may not do so alone
                subjects[key] = self.session(part.model, part.feeds)
                subjects[key].burst(1)
        if self._dense is None:
            self._dense = self.session(self.prepared.model, self.feeds)
        subjects[_DENSE] = self._dense
        for n, model in enumerate(models):
            if model is not self.prepared.model:
                subjects[f"{_WHOLE} {n}"] = self.session(model, self.feeds)
        subjects[_EMPTY] = self.session(_empty(), {"x": np.ones(1, np.float32)})
        return {key: undisturbed(times) for key, times in interleave(subjects, self.effort).items()}

    def session(self, model: onnx.ModelProto, feeds: Feeds) -> ReadySession:
        """A model that takes its turn among others."""
        name = model.graph.name or "model"
        session = open_optimized(
            _stored(model), name, providers=self.runtime.providers, threads=self.runtime.threads, spin=False
        )
        return ReadySession(session, name, feeds, self.runtime.device)


def undisturbed(times: Times) -> float:
    """The median of the fastest round in ms: what else a machine does only ever makes a round slower."""
    return float(times.medians.min())


@dataclass(frozen=True)
class _Part:
    """A piece as a model, and what it is fed."""

    model: onnx.ModelProto
    feeds: Feeds

    @classmethod
    def of(cls, model: onnx.ModelProto, piece: Piece, values: Feeds) -> _Part | None:
        """A piece of a model; None where a sequence or another thing that is no tensor goes in or out."""
        if not all(isinstance(values.get(n), np.ndarray) for n in (*piece.inputs, *piece.outputs)):
            return None
        return cls(extract(model, piece, values), {n: values[n] for n in piece.inputs})


def _numbered(keys: Sequence[str]) -> list[int]:
    """Equal numbers for equal keys, counted up."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _run(model: onnx.ModelProto, feeds: Feeds, names: Sequence[str]) -> Feeds:
    """Values of some tensors."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    have = {o.name for o in model.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    try:
        return dict(zip(names, run(opened, feeds, names), strict=True))
    except RuntimeError as error:
        raise ModelError(f"ONNX Runtime can't run the model to time it ({error})") from error


def _stored(model: onnx.ModelProto) -> bytes | Path:
    """As ONNX Runtime can load it: beyond 2 GiB from files."""
    if model_size(model) < _MOST_BYTES:
        return bytes(model.SerializeToString())
    path = _scratch().path / f"{structure(model)}.onnx"
    save_model(model, path)
    return path


@functools.cache
def _scratch() -> Scratch:
    return Scratch()


def _empty() -> onnx.ModelProto:
    """A model that does nothing: what a call of ONNX Runtime takes by itself."""
    ins, outs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "nothing", [ins], [outs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
