from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.calibrate.read import read_samples
from onnxprune.search.study import Study, study_request
from tests.models_text import make

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
DATA = MODELS / "fashion_mnist.npz"

BODY = """(float[N, 1, 8, 8] x) => (float[N, 4] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
  d = Relu (c)
  e = Conv <pads = [1, 1, 1, 1]> (d, w3, b3)
  f = Relu (e)
  g = GlobalAveragePool (f)
  h = Flatten (g)
  y = Gemm <transB = 1> (h, w4, b4)
}"""
WEIGHTS = {
    "w1": (8, 1, 3, 3), "b1": (8,), "w2": (12, 8, 3, 3), "b2": (12,), "w3": (16, 12, 3, 3), "b3": (16,), "w4": (4, 16), "b4": (4,),
}  # fmt: skip


def small() -> onnx.ModelProto:
    return make(BODY, WEIGHTS)


def smooth(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((count, 1, 8, 8)), axis=-1).astype(np.float32)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """A small model, samples for it, and labelled ones."""
    folder = tmp_path_factory.mktemp("small")
    model = small()
    found = {"model": folder / "small.onnx", "data": folder / "data.npz", "eval": folder / "eval.npz"}
    onnx.save(model, found["model"])
    np.savez(found["data"], x=smooth(48, 0))
    x = smooth(64, 1)
    from onnxprune.proof.session import run

    (y,) = run(model, {"x": x}, ["y"])
    np.savez(found["eval"], x=x, labels=y.argmax(1))
    return found


@pytest.fixture(scope="session")
def study(files) -> Study:
    model = small()
    return Study(model, study_request(read_samples(files["data"], model, samples=48), round_to=1))
