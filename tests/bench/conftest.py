import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxprune


def chain(length: int, width: int = 256, weights: bool = False) -> onnx.ModelProto:
    """So many products with one matrix, or each with its own."""
    names = [f"w{k}" if weights else "w" for k in range(length)]
    body = "\n".join(f"[n{k}] h{k + 1} = MatMul (h{k}, {w})" for k, w in enumerate(names))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, {width}] h0) => (float[N, {width}] h{length}) {{ {body} }}'
    )
    for name in dict.fromkeys(names):
        model.graph.initializer.append(numpy_helper.from_array(np.eye(width, dtype=np.float32), name))
    return model


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A chain, and one of eight times its length."""
    folder = tmp_path_factory.mktemp("chains")
    for name, length in (("short", 5), ("long", 40)):
        onnx.save(chain(length), folder / f"{name}.onnx")
    return folder / "long.onnx", folder / "short.onnx"


@pytest.fixture(scope="session")
def measured(files):
    """Both of them, measured for real with as few processes as are allowed."""
    request = onnxprune.BenchRequest(processes=4, seconds=0, batch=(16,), threads=(1,), profile=True)
    return onnxprune.benchmark(files, request=request)
