import os
import subprocess
import sys
import threading
import time

import pytest

from onnxprune.jobs.machine import alone, among_others
from tests.jobs.conftest import environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")


def test_evaluations_share_the_machine_and_a_timing_has_it_alone(tmp_path):
    events = []

    def timing():
        with alone(tmp_path):
            events.append("timing")
            time.sleep(0.05)
            events.append("timed")

    def late():
        with among_others(tmp_path):
            events.append("late")

    with among_others(tmp_path), among_others(tmp_path):
        first = threading.Thread(target=timing)
        first.start()
        time.sleep(0.1)
        second = threading.Thread(target=late)  # comes behind the timing that waits, so that it never starves
        second.start()
        time.sleep(0.1)
        assert events == []
        events.append("end")
    first.join(5)
    second.join(5)
    assert events == ["end", "timing", "timed", "late"]


def test_a_killed_process_gives_the_machine_back(tmp_path):
    code = f"from onnxprune.jobs.machine import alone\nfrom pathlib import Path\nimport time\nwith alone(Path({str(tmp_path)!r})):\n print(1, flush=True)\n time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment())
    assert holder.stdout.readline() == b"1\n"
    got = threading.Event()

    def wait():
        with among_others(tmp_path):
            got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not got.wait(0.2)
    holder.kill()
    assert got.wait(5)
    waiter.join()
    holder.wait()


def test_locks_can_be_taken_by_whoever_may_only_read_them(tmp_path):
    with alone(tmp_path):
        pass
    assert {oct(os.stat(p).st_mode & 0o777) for p in tmp_path.iterdir()} == {"0o444"}
    with alone(tmp_path), pytest.raises(TimeoutError):
        _within(0.2, lambda: among_others(tmp_path).__enter__())


def _within(seconds, call):
    done = threading.Event()
    threading.Thread(target=lambda: (call(), done.set()), daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError
