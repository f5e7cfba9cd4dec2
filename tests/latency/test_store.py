"""Measured times on disk."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from onnxprune.latency.machine import Runtime
from onnxprune.latency.store import Store, default_folder

ONE, TWO = Runtime(threads=1), Runtime(threads=2)


def test_a_second_run_finds_what_the_first_measured(tmp_path: Path) -> None:
    Store(tmp_path, ONE).put("piece a", 1.5)
    again = Store(tmp_path, ONE)
    assert again.get("piece a") == 1.5
    assert again.get("piece b") is None


def test_other_threads_have_other_times(tmp_path: Path) -> None:
    Store(tmp_path, ONE).put("piece a", 1.5)
    assert Store(tmp_path, TWO).get("piece a") is None
    assert ONE.name() != TWO.name()


@pytest.mark.parametrize("damage", ['{"key": "piece a", "val', '{"key": "piece a", "value": -3}', "\0\0\xff", "[]"])
def test_damaged_lines_are_passed_over_with_a_warning(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path, ONE)
    store.put("piece b", 2.0)
    assert store.path is not None
    with store.path.open("a") as file:
        file.write(damage)
    with pytest.warns(UserWarning, match="1 damaged"):
        again = Store(tmp_path, ONE)
    assert again.get("piece a") is None
    assert again.get("piece b") == 2.0
    again.put("piece c", 3.0)  # behind a line that was cut off
    with pytest.warns(UserWarning, match="1 damaged"):
        assert Store(tmp_path, ONE).get("piece c") == 3.0


def test_a_folder_that_is_a_file_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="can't be"):
        store = Store(tmp_path / "file", ONE)
    store.put("piece a", 1.0)
    assert store.get("piece a") == 1.0
    assert store.path is None


def test_the_file_says_what_machine_it_is_of(tmp_path: Path) -> None:
    store = Store(tmp_path, ONE)
    assert store.path is not None
    first = json.loads(store.path.read_text().splitlines()[0])
    assert first["machine"]["threads"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(tmp_path, ONE)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("ONNXPRUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "onnxprune" / "latency"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert default_folder() == Path.home() / ".cache" / "onnxprune" / "latency"
    monkeypatch.setenv("ONNXPRUNE_CACHE", "/elsewhere")
    assert default_folder() == Path("/elsewhere/latency")
