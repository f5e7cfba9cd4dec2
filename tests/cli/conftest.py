import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune import cli

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "onnxprune"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def invoke(capfd, monkeypatch):
    """Runs a command line in this process."""
    monkeypatch.setattr(cli, "_end_on_sigterm", lambda: None)

    def call(*arguments) -> Outcome:
        code = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def environment() -> dict[str, str]:
    """For commands in processes of their own."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def heed_interrupts() -> None:
    """In a new process: Ctrl-C counts, even where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


OWN_SIGNALS = {"preexec_fn": heed_interrupts} if os.name == "posix" else {}


@pytest.fixture
def start(environment):
    """Starts a command line in a process of its own."""

    def call(*arguments, **options) -> subprocess.Popen[bytes]:
        command = [*COMMAND, *(str(a) for a in arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **OWN_SIGNALS, **options}
        return subprocess.Popen(command, env=environment, **pipes)

    return call


def make(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model from ONNX text, with random initializers."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


CONVS = """
<ir_version: 8, opset_import: ["" : 17]>
convs (float[N, 1, 8, 8] x) => (float[N, 4] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = Conv (b, w2)
  d = GlobalAveragePool (c)
  y = Flatten (d)
}
"""


@pytest.fixture
def model(tmp_path) -> Path:
    """A file with two convolutions, of which 16 channels in between can go."""
    path = tmp_path / "model.onnx"
    onnx.save(make(CONVS, w1=(16, 1, 3, 3), w2=(4, 16, 3, 3)), path)
    return path


@pytest.fixture
def nothing(tmp_path) -> Path:
    """A file with weights that can't go."""
    path = tmp_path / "nothing.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3] x) => (float[N, 4] y) { y = MatMul (x, w) }'
    onnx.save(make(text, w=(3, 4)), path)
    return path
