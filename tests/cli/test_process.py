"""What only a process of its own shows: pipes, signals, terminals, start-up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.cli.app import app
from tests.cli.conftest import COMMAND, OWN_SIGNALS, make


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_fits_one_screen(environment, arguments):
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("Exit codes", "--version", "--debug"):
        assert word in done.stdout
    commands = {c.name for c in app.registered_commands} | {c.callback.__name__ for c in app.registered_commands}
    listed = [line.split()[1] for line in lines if line.startswith("│ ") and line.split()[1] in commands]
    assert len(listed) == len(app.registered_commands) > 10
    assert len(lines) <= 20 + len(listed), "one line for each command"


def test_version(environment):
    done = subprocess.run([*COMMAND, "--version"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "onnxprune 0.1.0\n", "")


def test_a_reader_that_goes_away_is_no_error(start, model, tmp_path):
    for arguments in (["inspect", model], ["inspect", model, "--json"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        process = start(*arguments, stdout=write)
        os.close(write)
        _, err = process.communicate()
        assert err == b""
        assert process.returncode in (0, 1) if arguments == ["--help"] else process.returncode == 0


def test_a_pipe_gets_no_colours_and_no_progress(start, model, tmp_path):
    out, err = start("prune", model, "-o", tmp_path / "out.onnx", "--no-latency").communicate()
    assert b"\x1b" not in out
    assert err == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_progress_on_stderr_and_colours_unless_refused(
    start, environment, model, tmp_path, no_color, monkeypatch
):
    environment["TERM"] = "xterm-256color"
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = "1"
    master, slave = os.openpty()
    process = start("prune", model, "-o", tmp_path / "out.onnx", "--no-latency", "--json", stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate()
    os.close(master)
    assert process.returncode == 0
    json.loads(out)
    assert shown
    assert (b"\x1b[3" in shown) is not no_color


@pytest.fixture
def slow(tmp_path) -> Path:
    """A model that takes long enough to be interrupted: the verification alone takes seconds."""
    path = tmp_path / "slow.onnx"
    body = "\n".join(f"h{k + 1} = MatMul (h{k}, w{k})" for k in range(12))
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[4096, 768] h0) => (float[4096, 768] h12) {{ {body} }}
    """
    model = make(text)
    values = np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32)
    for k in range(12):
        model.graph.initializer.append(numpy_helper.from_array(values + k, f"w{k}"))
    onnx.save(model, path)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0.3, 1.2])
def test_an_interrupt_leaves_no_file(environment, slow, number, code, after):
    before = sorted(os.listdir(slow.parent))
    # Before our first line runs, Python itself answers signals: wait for it.
    script = "import os; from onnxprune.cli import main; os.write(2, b'.'); main()"
    command = [sys.executable, "-c", script, "prune", slow, "-o", slow.parent / "out.onnx"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **OWN_SIGNALS)
    assert process.stderr.read(1) == b"."
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before it could be interrupted")
    assert process.returncode == code
    assert out == b""
    assert b"Traceback" not in err
    assert err.count(b"\n") <= 1
    assert b"interrupted" in err or number != signal.SIGINT
    assert sorted(os.listdir(slow.parent)) in (before, sorted([*before, "out.onnx"]))
    if (slow.parent / "out.onnx").exists():
        onnx.checker.check_model(str(slow.parent / "out.onnx"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_while_the_file_is_written(invoke, model, tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.io.save.os.fsync", interrupted)
    result = invoke("prune", model, "-o", tmp_path / "out.onnx", "--no-latency")
    assert (result.code, result.out) == (130, "")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]


def test_threads_of_blas_are_told_to_sleep_before_numpy_is_loaded(environment):
    code = """
import os, sys
import onnxprune.cli
from onnxprune.cli.process import prepare_process
prepare_process()
print("numpy" in sys.modules, os.environ["OPENBLAS_THREAD_TIMEOUT"])
"""
    told = {k: v for k, v in environment.items() if k != "OPENBLAS_THREAD_TIMEOUT"}
    for given, expected in ((told, "False 4"), (told | {"OPENBLAS_THREAD_TIMEOUT": "20"}, "False 20")):
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
