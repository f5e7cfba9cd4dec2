"""Temporary folders of processes that were killed go away; those of living ones stay."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from onnxprune.io import scratch
from onnxprune.statistics.shelf import Shelf, taken

pytestmark = pytest.mark.skipif(scratch.fcntl is None, reason="needs file locks")
ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, numpy as np
from onnxprune.statistics.shelf import Shelf
shelf = Shelf(0)
shelf.put(np.zeros(1 << 15))
print(shelf.folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch.remove_abandoned.cache_clear()
    yield tmp_path
    scratch.remove_abandoned.cache_clear()


@pytest.fixture
def holder(folder):
    """A process with activations in a temporary folder, and that folder."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_only_folders_of_dead_processes_are_removed(folder, holder):
    process, held = holder
    assert held.parent == folder and list(held.glob("*.bin"))
    other = folder / "onnxprune-of-someone"
    other.mkdir()
    scratch.remove_abandoned()
    assert list(held.glob("*.bin"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(held.glob("*.bin"))
    scratch.remove_abandoned.cache_clear()
    scratch.Scratch()
    assert not held.exists() and other.exists()


def test_a_shelf_gives_its_folder_back(folder):
    shelf = Shelf(0)
    item = shelf.put(np.arange(1 << 15))
    assert (taken(item) == np.arange(1 << 15)).all() and len(list(folder.iterdir())) == 1
    del shelf
    assert not list(folder.iterdir())
