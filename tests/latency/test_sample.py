"""Samples and comparisons with real sessions, as short as they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.bench.inputs import made_up
from onnxprune.bench.timing import Effort
from onnxprune.io.load import load_model
from onnxprune.latency import measure, sample
from onnxprune.latency.machine import Runtime
from onnxprune.latency.measure import Comparison
from onnxprune.latency.sample import Sampler
from onnxprune.latency.store import Store
from onnxprune.pipeline.stages import analysed
from onnxprune.select.allocate import Options, ranked
from onnxprune.select.context import ScoreContext
from onnxprune.select.criteria import score

MODELS = Path(__file__).parents[2] / "models"
SHORT = Effort(seconds=0.0, min_rounds=2, max_rounds=2, burst_ms=0.5)
ONE = Runtime(threads=1)


def sampler(folder: Path, name: str = "resnet") -> Sampler:
    prepared, groups = analysed(load_model(MODELS / f"{name}.onnx"), width=False, shapes=None)
    choices = ranked(groups, Options(), score(ScoreContext(groups), "l2"))
    return Sampler(prepared, groups, choices, made_up(prepared.model), ONE, Store(folder, ONE), SHORT)


def no_timing(*arguments: Any) -> Any:
    raise KeyboardInterrupt


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sampler(tmp_path)
    half = {c.group.id: c.group.units // 2 for c in first.choices}
    before = [first.at({}), first.at(half)]
    assert len(set(before[0].kinds)) < len(before[0].kinds)  # equal layers are one kind
    for found in before:
        timed = np.isfinite(found.pieces)
        assert timed.sum() == len(set(found.kinds))
        assert (found.pieces[timed] >= 0).all()
        assert found.whole > 0
    monkeypatch.setattr(sample, "interleave", no_timing)
    again = sampler(tmp_path)
    for old, new in zip(before, [again.at({}), again.at(half)], strict=True):
        np.testing.assert_array_equal(old.pieces, new.pieces)
        assert (old.whole, old.dense, old.kinds) == (new.whole, new.dense, new.kinds)
    with pytest.raises(KeyboardInterrupt):
        again.at({g: n + 1 for g, n in half.items()})


def test_an_interrupted_run_keeps_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sampler(tmp_path, "gru")
    first.at({})
    monkeypatch.setattr(sample, "interleave", no_timing)
    with pytest.raises(KeyboardInterrupt):
        first.at({c.group.id: c.group.units // 2 for c in first.choices})
    assert sampler(tmp_path, "gru").known({})


def test_a_much_smaller_model_takes_a_smaller_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PAIRS", 1)
    monkeypatch.setattr(measure, "_EFFORT", Effort(seconds=0.3, min_rounds=5, max_rounds=20))
    made = sampler(tmp_path, "unet")
    small = made.pruned({c.group.id: int(c.group.units * 0.8) for c in made.choices})
    comparison = Comparison(made.prepared.model, made.feeds, ONE)
    assert 0 < comparison.share(small) < 0.8
    assert comparison.share(made.prepared.model) > 0.5
    assert len(comparison.seen) == 2
