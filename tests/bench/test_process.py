"""Processes that wait for their turn."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from onnxprune.bench.process import ModelProcess
from onnxprune.bench.worker import Order

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "models" / "mobilenet.onnx")


def order(folder):
    feeds = folder / "feeds.pickle"
    feeds.write_bytes(pickle.dumps({"image": np.zeros((1, 1, 28, 28), np.float32)}))
    return Order(MODEL, "mobilenet", [("CPUExecutionProvider", {})], [], 2, None, str(feeds))


def state(pid):
    return psutil.Process(pid).status()


def test_a_process_rests_while_it_is_not_its_turn(tmp_path):
    with ModelProcess(order(tmp_path)) as process:
        process.imported()
        process.open()
        for _ in range(2):
            end = time.monotonic() + 5  # a signal takes its time
            while state(process.pid) != psutil.STATUS_STOPPED:
                assert time.monotonic() < end
                time.sleep(0.001)
            before = psutil.Process(process.pid).cpu_times().user
            time.sleep(0.2)
            assert psutil.Process(process.pid).cpu_times().user - before <= 0.02, "its threads spin"
            assert process.burst(3).shape == (3,)
        assert process.memory()[0] > 0  # whatever it is asked, it answers
        start = time.monotonic()
    assert not psutil.pid_exists(process.pid) and time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_resting_process_ends_with_the_one_that_started_it(tmp_path):
    order(tmp_path)
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from tests.bench.test_process import ModelProcess, order\n"
        "process = ModelProcess(order(Path(sys.argv[2]))); process.imported(); process.open()\n"
        "print(process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    resting = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 10
    while psutil.pid_exists(resting) and state(resting) != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, state(resting)
        time.sleep(0.05)
