"""The same on Ray, where it is installed: `pip install ray`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import pytest

from onnxprune.errors import UsageError
from onnxprune.jobs.cluster import Inline, open_cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.run import Job, run_jobs
from tests.jobs import functions
from tests.jobs.conftest import environment
from tests.jobs.test_run import jobs, values
from tests.search.conftest import small, smooth

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs process groups"),
]


def command(*arguments):
    return [sys.executable, "-m", *map(str, arguments)]


@pytest.fixture(scope="module")
def ray():
    """Address of a cluster of two processors, of its own process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # paths of sockets are short
        head = subprocess.Popen(
            command(
                "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", 2, "--port", port, "--temp-dir", folder,
                "--include-dashboard", "false", "--disable-usage-stats",
            ),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + 60
            while not _started(folder):
                assert time.monotonic() < end and head.poll() is None
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _started(folder):
    """The last process of a head has told where it listens."""
    return any("raylet" in names for _, _, names in os.walk(folder))


@pytest.fixture
def cluster(ray):
    found = open_cluster("ray", address=ray)
    yield found
    found.close()


def test_ray_computes_what_this_process_does_with_one_thread(cluster):
    assert cluster.workers == 2
    here = values(run_jobs(functions.add, 10, jobs(7), Inline()))
    assert values(run_jobs(functions.add, 10, jobs(7), cluster)) == here
    (found,) = run_jobs(functions.threads, None, [Job("t")], cluster)
    assert found.value == ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, 1)


def test_bad_input_is_told_and_bugs_are_raised(cluster):
    assert {d.job.key: d.error for d in run_jobs(functions.refuse, None, jobs(3), cluster)}["2"] == "two is no model"
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(run_jobs(functions.wrong, None, jobs(1), cluster))


def test_the_job_of_a_killed_worker_runs_on_another(cluster, tmp_path):
    with Log(tmp_path / "log") as log:
        found = values(run_jobs(functions.fatal, str(tmp_path), jobs(4, 2), cluster, log))
    assert found == {str(k): k * k for k in range(4)}
    assert len(functions.notes(tmp_path, "start 0")) == 3


def test_a_search_makes_the_models_that_it_makes_on_processes(ray, tmp_path):
    onnx.save(small(), tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", x=smooth(48, 0))
    given = ["onnxprune", "search", tmp_path / "small.onnx", "--data", tmp_path / "data.npz", "--points", 2, "--no-latency"]
    for name, where in {"here": ["--workers", 1], "ray": ["--backend", "ray", "--address", ray]}.items():
        call = command(*given, "--candidates", 3, "-o", tmp_path / name, *where)
        found = subprocess.run(call, env=environment(), capture_output=True, text=True)
        assert found.returncode == 0 and not found.stderr
    for name in ("p1.onnx", "p2.onnx", "p1.plan.json", "p2.plan.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "tcp://127.0.0.1:9"])
def test_nobody_there_is_one_line_at_once(address):
    start = time.monotonic()
    with pytest.raises(UsageError, match=f"no Ray cluster answers at {address}") as error:
        open_cluster("ray", address=address)
    assert time.monotonic() - start < 20 and "\n" not in str(error.value)
