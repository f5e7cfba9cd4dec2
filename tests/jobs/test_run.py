import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from joblib.externals import loky

from onnxprune.errors import ModelError, UsageError
from onnxprune.jobs.cluster import Inline, Processes, open_cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.run import Job, run_jobs
from tests.jobs import functions
from tests.jobs.conftest import ROOT, environment, start_dask


@pytest.fixture(scope="module")
def processes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        found = open_cluster(workers=2)
        yield found
        found.close()


def jobs(count, *more):
    return [Job(str(k), (k, *more)) for k in range(count)]


def values(done):
    return {d.job.key: d.value for d in done}


def test_processes_compute_what_this_process_does(processes):
    here = values(run_jobs(functions.add, 10, jobs(7), Inline()))
    there = values(run_jobs(functions.add, 10, jobs(7), processes))
    assert here == there == {str(k): 10 + k for k in range(7)}


def test_a_job_that_nobody_has_begun_does_not_disturb_the_end(monkeypatch):
    failed = []
    monkeypatch.setattr(threading, "excepthook", lambda found: failed.append(found.exc_value))
    cluster = Processes(1)
    assert cluster.submit(functions.add, 1, (2,), timed=False).result().value == 3
    left = cluster.submit(functions.add, 1, (2,), timed=False)  # loky's thread has not seen it yet
    cluster.close()
    assert left.done() and not failed


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_while_a_job_is_handed_out_does_not_disturb_the_end(monkeypatch):
    class Interrupted(loky.ProcessPoolExecutor):
        def submit(self, *arguments, **options):
            future = super().submit(*arguments, **options)
            if self._queue_count == 2:
                signal.raise_signal(signal.SIGINT)
            return future

    failed, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(threading, "excepthook", lambda found: failed.append(found.exc_value))
    monkeypatch.setattr(loky, "ProcessPoolExecutor", Interrupted)
    cluster = Processes(1)
    pid = cluster.submit(functions.process, None, (), timed=False).result().value
    with pytest.raises(KeyboardInterrupt):
        cluster.submit(functions.add, 1, (2,), timed=False)
    signal.signal(signal.SIGINT, before)
    cluster.close()
    assert not failed and not alive(pid)


def test_a_process_has_one_thread(processes):
    (found,) = run_jobs(functions.threads, None, [Job("t")], processes)
    assert found.value == ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, 1)


def test_a_key_runs_once_and_what_the_log_has_does_not_run(tmp_path):
    with Log(tmp_path / "log") as log:
        log.add("1", "known")
        todo = [Job("0", (0,)), Job("1", (1,)), Job("0", (0,))]
        found = list(run_jobs(functions.noted, tmp_path, todo, Inline(), log))
    assert [(d.job.key, d.value, d.found) for d in found] == [("1", "known", True), ("0", 0, False)]
    assert functions.notes(tmp_path, "start") == [f"start 0 {os.getpid()}"]


def test_jobs_that_follow_from_results_are_asked_for_until_there_are_none(processes):
    got = {}

    def todo():
        yield Job("0", (0,))
        for k in range(1, 4):
            while str(k - 1) not in got:
                yield None
            yield Job(str(k), (got[str(k - 1)],))

    for done in run_jobs(functions.add, 10, todo(), processes):
        got[done.job.key] = done.value
    assert got == {"0": 10, "1": 20, "2": 30, "3": 40}
    with pytest.raises(RuntimeError, match="nobody works on"):
        list(run_jobs(functions.add, 10, iter([None]), Inline()))


def test_bad_input_is_told_and_not_written_down_and_bugs_are_raised(tmp_path, processes):
    with Log(tmp_path / "log") as log:
        found = {d.job.key: d.error for d in run_jobs(functions.refuse, None, jobs(4), processes, log)}
        assert found == {"0": "", "1": "", "2": "two is no model", "3": ""}
        assert sorted(log.results) == ["0", "1", "3"]
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(run_jobs(functions.wrong, None, [Job("bug", (0,))], processes, log))


def test_the_job_of_a_killed_process_runs_on_another(tmp_path, processes):
    with Log(tmp_path / "log") as log:
        found = values(run_jobs(functions.fatal, str(tmp_path), jobs(4, 2), processes, log))
    assert found == {str(k): k * k for k in range(4)}
    starts = functions.notes(tmp_path, "start 0")
    assert len(starts) == 3 and len(set(starts)) == 3
    assert all(len(functions.notes(tmp_path, f"start {k}")) == 1 for k in (1, 2, 3))  # others are not disturbed


def test_a_process_that_died_while_it_had_nothing_to_do_is_replaced(tmp_path, processes):
    values(run_jobs(functions.noted, str(tmp_path), jobs(2), processes))
    for line in functions.notes(tmp_path, "start"):
        os.kill(int(line.split()[2]), signal.SIGKILL)
    time.sleep(0.3)
    assert values(run_jobs(functions.add, 1, jobs(4), processes)) == {str(k): k + 1 for k in range(4)}


def test_this_process_keeps_its_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (found,) = run_jobs(functions.threads, None, [Job("t")], Inline())
    assert found.value[0]["OMP_NUM_THREADS"] is None and found.value[1] == 0


def test_a_job_that_always_kills_its_process_is_given_up(tmp_path, processes):
    with pytest.raises(ModelError, match="took its worker down 3 times"):
        list(run_jobs(functions.fatal, str(tmp_path), jobs(1, 99), processes))
    assert len(functions.notes(tmp_path, "start 0")) == 3


# ---- kill -9 ----


def client(folder, where, count=8, seconds=0.25):
    command = [sys.executable, "-m", "tests.jobs.client", str(folder), str(where), str(count), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def killed_and_resumed(folder, where):
    """A client is killed after three results, another takes up its work."""
    first = client(folder, where)
    seen = [first.stdout.readline() for _ in range(3)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Log(folder / "log.jsonl") as log:
        logged = len(log)
        assert {line.strip() for line in seen} <= set(log.results) and logged < 8
    second = client(folder, where)
    assert second.communicate(timeout=60)[0].split() and second.returncode == 0
    with Log(folder / "log.jsonl") as log:
        assert log.results == {str(k): k * k for k in range(8)}
    starts = functions.notes(folder, "start")
    assert len(starts) <= 8 + 2  # one repeated for each worker
    per_job = [len(functions.notes(folder, f"start {k} ")) for k in range(8)]
    assert min(per_job) == 1 and max(per_job) <= 2
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert len(lines) == 8  # nothing is counted twice


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_client_is_resumed_and_leaves_no_process(tmp_path):
    killed_and_resumed(tmp_path, 2)
    workers = {int(line.split()[2]) for line in functions.notes(tmp_path, "start")}
    end = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_client_of_dask_is_resumed(tmp_path, dask):
    killed_and_resumed(tmp_path, dask.address)


def test_no_dask_worker_waits_while_another_has_two_jobs(tmp_path, dask):
    cluster = open_cluster("dask", address=dask.address)
    cluster.client.wait_for_workers(2, timeout=30)
    for generation in range(3):
        folder = tmp_path / str(generation)
        folder.mkdir()
        assert len(values(run_jobs(functions.noted, str(folder), jobs(6, 0.1), cluster))) == 6
        ran = [line.split()[2] for line in functions.notes(folder, "start")]
        assert len(set(ran)) == 2 and all(2 <= ran.count(worker) <= 4 for worker in set(ran))
    cluster.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_dask_worker_costs_its_job_only(tmp_path):
    pytest.importorskip("distributed")
    own = start_dask(2)
    try:
        cluster = open_cluster("dask", address=own.address)
        cluster.client.wait_for_workers(2, timeout=30)
        found, busy = {}, set()
        with Log(tmp_path / "log.jsonl") as log:
            for done in run_jobs(functions.noted, str(tmp_path), jobs(10, 0.15), cluster, log):
                found[done.job.key] = done.value
                if len(found) == 3:
                    own.workers[0].send_signal(signal.SIGKILL)
            assert log.results == found == {str(k): k * k for k in range(10)}
        busy = {line.split()[2] for line in functions.notes(tmp_path, "start")}
        assert len(busy) == 2
        assert len(functions.notes(tmp_path, "start")) <= 11
        cluster.close()
    finally:
        own.end()


# ---- wrong calls ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "spark"}, "none of processes, dask, ray"),
        ({"backend": "dask"}, "address of its scheduler"),
        ({"backend": "dask", "address": "tcp://127.0.0.1:9", "workers": 2}, "leave out their number"),
        ({"address": "tcp://127.0.0.1:9"}, "choose the backend"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_wrong_calls(options, message):
    with pytest.raises(UsageError, match=message):
        open_cluster(**options)


def test_no_scheduler_is_one_line(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("onnxprune.jobs.remote._SECONDS", 0.3)
    with pytest.raises(UsageError, match="no Dask scheduler answers at tcp://127.0.0.1:9") as error:
        open_cluster("dask", address="tcp://127.0.0.1:9")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_what_is_not_installed_is_named(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[backend], None)
    with pytest.raises(UsageError, match="pip install"):
        open_cluster(backend, address="tcp://127.0.0.1:9")
